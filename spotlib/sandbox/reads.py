"""How describe calls mislead: things unknown at first, answers that lag, small and empty pages.

``Reads()`` misleads in nothing.  A new request or instance stays unknown for a drawn time.  An
answer may show the region as it was a drawn time ago, each answer by a draw of its own, so two
answers in a row may even go back; those to filters may lag longer than those to ids.  Nothing
here changes what happens, only what is shown of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from spotlib.sandbox.account import Instance, SpotRequest
from spotlib.sandbox.chance import uniforms


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The most by which reads mislead; each is drawn evenly from nothing to that."""

    unknown_s: float = 0.0  # a new request or instance is unknown: NotFound by id, none by filter
    id_lag_s: float = 0.0  # an answer to ids is so old
    filter_lag_s: float = 0.0  # an answer to filters is so old
    lag_share: float = 0.5  # answers that lag at all
    page_most: int | None = None  # no page is longer, whatever MaxResults says
    empty_share: float = 0.0  # pages that come empty, with a token for more

    def unknown_for_s(self, *name: object) -> float:
        """How long a new thing stays unknown."""
        return self.unknown_s * _draw("unknown", *name) if self.unknown_s else 0.0

    def lag_s(self, *name: object, by_ids: bool) -> float:
        """How old an answer is."""
        most_s = self.id_lag_s if by_ids else self.filter_lag_s
        if not most_s or _draw("lags", *name) >= self.lag_share:
            return 0.0
        return most_s * _draw("lag", *name)

    def comes_empty(self, *name: object) -> bool:
        """Whether a page shows nothing, though there is more."""
        return self.empty_share > 0.0 and _draw("empty", *name) < self.empty_share


def request_then(request: SpotRequest, at_s: float) -> SpotRequest | None:
    """The request as it was at a moment; None if it was not known yet."""
    if at_s < request.known_s:
        return None
    since_s, code, state = next(step for step in reversed(request.path) if step[0] <= at_s)
    if since_s == request.path[-1][0]:
        return request
    then = copy.copy(request)
    then.code, then.state, then.updated_s = code, state, since_s
    if then.instance is not None and then.instance.launched_s > at_s:
        then.instance = None
    return then


def instance_then(instance: Instance, at_s: float) -> Instance | None:
    """The instance as it was at a moment; None if it was not known yet."""
    if at_s < instance.known_s:
        return None
    since_s, state = next(step for step in reversed(instance.path) if step[0] <= at_s)
    if since_s == instance.path[-1][0]:
        return instance
    then = copy.copy(instance)
    then.state = state
    if state in ("pending", "running"):
        then.reason = then.ended_s = None
    return then


def _draw(*name: object) -> float:
    return float(uniforms(1, "reads", *name)[0])
