"""TODO."""

from dataclasses import dataclass

from spotlib.model import Stage

STAGES = (Stage.FULFILLED, Stage.RUNNING, Stage.READY)


@dataclass(frozen=True)
class AnalyzeParameters:
    """The parameters of ``03_analyze``; the notebook explains each."""

    launches: str
    figures: str
    horizon_s: float
    ready: str
    targets: str
    results: str

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, all of it at once."""
        problems = []
        if self.horizon_s < 0:
            problems.append(
                f"horizon_s must be above 0, or 0 for as long as all were watched, "
                f"got {self.horizon_s}"
            )
        if self.ready not in ("", *(stage.label for stage in STAGES)):
            problems.append(
                f"ready must be 'fulfilled', 'running', 'ready' or '' for the stage that was "
                f"waited for, got {self.ready!r}"
            )
        if problems:
            raise ValueError("; ".join(problems))

    def stage(self, wanted: Stage) -> Stage:
        """The stage that counts: the one named, or the one that was waited for.

        Raises
        ------
        ValueError
            If it lies beyond what was waited for, so that nobody looked for it to the end.
        """
        stage = Stage[self.ready.upper()] if self.ready else wanted
        if stage > wanted:
            raise ValueError(
                f"ready={self.ready!r} was not watched: these launches waited for "
                f"{wanted.label!r} only"
            )
        return stage
