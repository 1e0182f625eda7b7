"""The parameters of ``01_select`` and their ranges.

Reports every invalid value at once; types are checked by ``spotlib.parameters``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from spotlib.addresses import require_no_secret
from spotlib.parameters import problems_of, require_no_problems
from spotlib.sandbox.numbers import parse_market


@dataclass(frozen=True)
class SelectParameters:
    """The parameters of ``01_select``; the notebook explains each."""

    dataset: str
    market: str
    month: str
    days: str
    sizes: str
    top: int
    form: str
    missing: str
    max_per_region: int
    max_per_family: int
    controls: int
    seed: int
    held_s: float
    skip_bad_files: bool
    results: str
    out: str

    def __post_init__(self) -> None:
        """Report every invalid value at once."""
        require_no_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        if "://" in self.dataset:
            yield from problems_of(require_no_secret, "dataset", self.dataset)
        if self.month and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", self.month):
            yield f"month must look like 2024-08, got {self.month!r}"
        if self.month and self.days:
            yield f"give either a month or days, not both: {self.month!r} and {self.days!r}"
        if not self.size_tokens:
            yield 'sizes must name at least one size, such as "medium small", got none'
        if self.market:
            yield from problems_of(parse_market, self.market)
        if self.form not in ("pooled", "within"):
            yield f"form must be 'pooled' or 'within', got {self.form!r}"
        if self.missing not in ("drop", "as_value"):
            yield f"missing must be 'drop' or 'as_value', got {self.missing!r}"
        if self.top < 1:
            yield f"top must be at least 1 target, got {self.top}"
        for name in ("max_per_region", "max_per_family", "controls", "seed"):
            if getattr(self, name) < 0:
                yield f"{name} must be 0 or above, got {getattr(self, name)}"
        if self.held_s <= 0:
            yield f"held_s must be above 0 seconds, got {self.held_s}"

    @property
    def size_tokens(self) -> tuple[str, ...]:
        """The sizes one by one; they may be separated by spaces or commas."""
        return tuple(re.findall(r"[^\s,]+", self.sizes))
