"""Client tokens: what each call with a token made, so that a repeated call makes nothing new."""

from __future__ import annotations

import json
from typing import Any

from spotlib.sandbox.protocol import ApiError, Params
from spotlib.sandbox.world import World


def recall(world: World, region: str, action: str, params: Params) -> Any:
    """What the first call with this token made; None if this is the first, or has no token.

    Refuses the token if the first call had other parameters.
    """
    token = params.get("ClientToken", "")
    first, made = world.region(region).tokens.get((action, token), ("", None))
    if token and first and first != _fingerprint(params):
        message = f"The client token '{token}' was used before with other parameters"
        raise ApiError("IdempotentParameterMismatch", message)
    return made


def keep(world: World, region: str, action: str, params: Params, made: Any) -> None:
    """Remember what a call made, if it had a token."""
    token = params.get("ClientToken", "")
    if token:
        world.region(region).tokens[action, token] = (_fingerprint(params), made)


def _fingerprint(params: Params) -> str:
    return json.dumps(params, sort_keys=True, default=str)
