"""The parameters of ``03_analyze``: which values are valid, and which stage counts.

It reads no launches.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from spotlib.errors import ParameterError
from spotlib.model import Stage, watched_stages
from spotlib.parameters import require_no_problems

_WIDTHS_IN = (6, 30)  # of a figure
STAGES = (Stage.GRANTED, Stage.FULFILLED, Stage.RUNNING, Stage.USABLE, Stage.READY)


@dataclass(frozen=True)
class AnalyzeParameters:
    """The parameters of ``03_analyze``; the notebook explains each."""

    launches: str
    output: str
    horizon_s: float
    ready: str
    targets: str
    arm: str
    most_targets: int
    details: bool
    log_time: bool
    width_in: float
    results: str

    def __post_init__(self) -> None:
        """Report every invalid value at once."""
        require_no_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        if self.horizon_s < 0:
            yield (
                f"horizon_s must be above 0, or 0 for the time that every target was watched, "
                f"got {self.horizon_s}"
            )
        if self.most_targets < 2:
            yield f"most_targets must be at least 2, got {self.most_targets}"
        if not _WIDTHS_IN[0] <= self.width_in <= _WIDTHS_IN[1]:
            yield f"width_in must be from {_WIDTHS_IN[0]} to {_WIDTHS_IN[1]}, got {self.width_in}"
        if self.ready not in ("", *(stage.label for stage in STAGES)):
            yield (
                "ready must be 'granted', 'fulfilled', 'running', 'usable', 'ready', or '' for the "
                f"stage that the launches waited for, got {self.ready!r}"
            )

    def stage(self, wanted: Stage, *, usable: bool = False) -> Stage:
        """The stage that counts: the one named in ``ready``, else the one launches waited for.

        ``usable`` says whether they recorded that stage too.

        Raises
        ------
        ValueError
            If launches did not wait for it: requests were not polled until they reached it.
        """
        stage = Stage[self.ready.upper()] if self.ready else wanted
        if stage not in watched_stages(wanted, usable=usable):
            raise ParameterError(
                f"ready={self.ready!r} was not watched: these launches waited for "
                f"{wanted.label!r} only"
            )
        return stage
