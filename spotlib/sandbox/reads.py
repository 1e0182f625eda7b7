"""How describe calls are inconsistent: ids not known yet, stale answers, small and empty pages.

``Reads()`` is always consistent.  Otherwise a new request or instance stays unknown for a drawn
time, and an answer may show the region as it was a drawn time ago.  Each answer has its own draw,
so a later answer may show an earlier state; answers to filters may lag longer than those to ids.
This changes only what is shown, never what happens.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from spotlib.sandbox.account import Instance, SpotRequest
from spotlib.sandbox.chance import uniforms


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The most that reads deviate; times are drawn uniformly between 0 and these."""

    unknown_s: float = 0.0  # a new request or instance is unknown: NotFound by id, absent by filter
    template_unknown_s: float = field(default=0.0, repr=False)  # the same for launch templates
    id_lag_s: float = 0.0  # age of an answer to ids
    filter_lag_s: float = 0.0  # age of an answer to filters
    lag_share: float = 0.5  # share of answers that lag at all
    page_most: int | None = None  # longest page, even if MaxResults is higher
    empty_share: float = 0.0  # share of pages that are empty although a token promises more

    def __post_init__(self) -> None:
        """Refuse values that no read could have."""
        for name in ("unknown_s", "template_unknown_s", "id_lag_s", "filter_lag_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"need {name} >= 0, got {getattr(self, name)!r}")
        if self.page_most is not None and self.page_most < 1:
            raise ValueError(f"need page_most >= 1, got {self.page_most!r}")
        for name in ("lag_share", "empty_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"need 0 <= {name} <= 1, got {getattr(self, name)!r}")

    def unknown_for_s(self, *name: object) -> float:
        """How long a new request or instance stays unknown."""
        return self.unknown_s * _draw("unknown", *name) if self.unknown_s else 0.0

    def template_unknown_for_s(self, *name: object) -> float:
        """How long a new launch template stays unknown."""
        most_s = self.template_unknown_s
        return most_s * _draw("unknown template", *name) if most_s else 0.0

    def lag_s(self, *name: object, by_ids: bool) -> float:
        """How old an answer is."""
        most_s = self.id_lag_s if by_ids else self.filter_lag_s
        if not most_s or _draw("lags", *name) >= self.lag_share:
            return 0.0
        return most_s * _draw("lag", *name)

    def is_empty(self, *name: object) -> bool:
        """Whether a page is empty although there is more."""
        return self.empty_share > 0.0 and _draw("empty", *name) < self.empty_share


def request_as_of(request: SpotRequest, at_s: float) -> SpotRequest | None:
    """The request as it was at a moment; None if it was still unknown."""
    if at_s < request.known_s:
        return None
    since_s, code, state = next(step for step in reversed(request.path) if step[0] <= at_s)
    if since_s == request.path[-1][0]:
        return request
    past = copy.copy(request)
    past.code, past.state, past.updated_s = code, state, since_s
    if past.instance is not None and past.instance.launched_s > at_s:
        past.instance = None
    return past


def instance_as_of(instance: Instance, at_s: float) -> Instance | None:
    """The instance as it was at a moment; None if it was still unknown."""
    if at_s < instance.known_s:
        return None
    since_s, state = next(step for step in reversed(instance.path) if step[0] <= at_s)
    if since_s == instance.path[-1][0]:
        return instance
    past = copy.copy(instance)
    past.state = state
    if state in ("pending", "running"):
        past.reason = past.ended_s = None
    return past


def _draw(*name: object) -> float:
    return float(uniforms(1, "reads", *name)[0])
