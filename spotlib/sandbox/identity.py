"""Who calls: the sessions of assumed roles, and an account that asks for an MFA code.

Any keys are good, unless the world has MFA devices.  Then only a session can act that began with
the code of a device, until it ends.
"""

from __future__ import annotations

import re
from datetime import timedelta

from spotlib.sandbox.chance import digest
from spotlib.sandbox.protocol import ApiError, Params, ParsedCall, Shape, missing
from spotlib.sandbox.world import World

_ACCESS_KEY = re.compile(r"Credential=([^/]+)/")
_LEAST_S, _USUAL_S, _MOST_S = 900, 3600, 43200


def require_good_keys(world: World, call: ParsedCall) -> None:
    """Refuse keys of a session that has ended, and keys that need a session and have none."""
    found = _ACCESS_KEY.search(call.headers.get("authorization", ""))
    end_s = world.sessions.get(found[1]) if found else None
    if end_s is not None and world.now_s >= end_s:
        code = "RequestExpired" if call.service == "ec2" else "ExpiredTokenException"
        raise ApiError(code, "The security token included in the request is expired")
    if end_s is None and world.mfa_codes is not None and call.action != "AssumeRole":
        code = "UnauthorizedOperation" if call.service == "ec2" else "AccessDenied"
        message = f"Not authorized to perform: {call.service}:{call.action} with an explicit deny"
        raise ApiError(code, f"{message} in an identity-based policy", 403)


def assume_role(world: World, _: str, params: Params) -> Shape:
    """Keys of a new session of a role; a code of an MFA device begins one session only."""
    for name in ("RoleArn", "RoleSessionName"):
        if name not in params:
            raise missing(name)
    duration_s = params.get("DurationSeconds", _USUAL_S)
    if not _LEAST_S <= duration_s <= _MOST_S:
        raise ApiError("ValidationError", f"DurationSeconds must be {_LEAST_S} to {_MOST_S}")
    if world.mfa_codes is not None:
        _use_code(world.mfa_codes, params)
    number = len(world.sessions)
    key = "ASIA" + digest(8, "session", world.seed, number).hex().upper()
    world.sessions[key] = world.now_s + duration_s
    role = params["RoleArn"].rpartition("/")[2]
    session = params["RoleSessionName"]
    return {
        "Credentials": {
            "AccessKeyId": key,
            "SecretAccessKey": digest(20, "secret", world.seed, number).hex(),
            "SessionToken": digest(30, "token", world.seed, number).hex(),
            "Expiration": world.utc() + timedelta(seconds=duration_s),
        },
        "AssumedRoleUser": {
            "AssumedRoleId": f"AROASANDBOXROLE00000:{session}",
            "Arn": f"arn:aws:sts::{world.account_id}:assumed-role/{role}/{session}",
        },
    }


def _use_code(codes: dict[str, str], params: Params) -> None:
    if "SerialNumber" not in params:
        raise ApiError("AccessDenied", "Not authorized to perform: sts:AssumeRole", 403)
    code = codes.get(params["SerialNumber"])
    if code is None or params.get("TokenCode") != code:
        message = "MultiFactorAuthentication failed with invalid MFA one time pass code."
        raise ApiError("AccessDenied", message, 403)
    del codes[params["SerialNumber"]]
