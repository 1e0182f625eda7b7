"""When a batch does what: its rounds, the pauses between them, and the phase of its polls.

Nothing here reads a clock.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spotlib.collect.cost import PreflightReport, PreparedPlan, split_turns
from spotlib.errors import ParameterError
from spotlib.model import LONGEST_PAUSE_S, Stage, is_finite_number, is_whole

ARM_PAUSE_S = 60.0  # a terminated instance's capacity may be free only after a while: a choice
PROBE_PAUSE_S = 300.0  # at least, between probes of a pool: each uses what it measures.  A choice
MOST_ROUNDS = 1_000_000
LONGEST_ROUNDS_S = 10 * LONGEST_PAUSE_S


@dataclass(frozen=True)
class Schedule:
    """When rounds start and polls are due, and the seed that the phase of the polls came from."""

    rounds: int
    every_s: float
    poll_s: float
    phase_s: float
    seed: int
    settle_s: float
    arm_pause_s: float

    @property
    def rhythm(self) -> dict[str, Any]:
        """When rounds begin, and the pause within one."""
        return {"rounds": self.rounds, "every_s": self.every_s, "arm_pause_s": self.arm_pause_s}


def schedule_of(
    report: PreflightReport,
    *,
    rounds: int,
    every_s: float | None,
    poll_s: float | None,
    seed: int | None,
    settle_s: float,
    arm_pause_s: float,
) -> Schedule:
    """Check a schedule, fill in defaults, and draw its seed and phase."""
    arms, wanted = len(split_turns(report.prepared)), _wanted(report.prepared)
    every_s = report.usual_every_s(arm_pause_s) if every_s is None else every_s
    poll_s = usual_poll_s(wanted) if poll_s is None else poll_s
    for each in report.prepared:
        require_intervals(timeout_s=each.plan.timeout_s, poll_s=poll_s)
    require_rounds(wanted, rounds=rounds, every_s=every_s, arms=arms, arm_pause_s=arm_pause_s)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    phase_s = random.Random(f"{seed} phase").uniform(0.0, poll_s)
    pause_s = arm_pause_s if arms > 1 else 0.0
    return Schedule(rounds, every_s, poll_s, phase_s, seed, settle_s, pause_s)


def _wanted(prepared: Sequence[PreparedPlan]) -> Stage:
    """GRANTED if the plans are probes, else READY: only this makes a difference to the schedule."""
    probes = {each.plan.is_probe for each in prepared}
    if len(probes) > 1:
        raise ParameterError("a batch is of probes or of launches, got both: make two batches")
    return Stage.GRANTED if probes == {True} else Stage.READY


def require_rounds(
    wanted: Stage, *, rounds: int, every_s: float, arms: int, arm_pause_s: float
) -> None:
    """Refuse rounds or pauses that are invalid, or too short for probes.

    Raises
    ------
    ValueError
        With the first that is wrong.
    """
    require_pauses(every_s=every_s, arm_pause_s=arm_pause_s)
    require_end(rounds=rounds, every_s=every_s)
    if wanted is Stage.GRANTED:
        require_probe_pauses(rounds=rounds, every_s=every_s, arms=arms, arm_pause_s=arm_pause_s)


def require_intervals(*, timeout_s: float, poll_s: float) -> None:
    """Refuse a timeout below the poll interval, or without an end: nobody could watch it."""
    if not 0 < timeout_s <= LONGEST_PAUSE_S:
        raise ParameterError(
            f"timeout_s must be above 0 and at most {LONGEST_PAUSE_S:.0f} (a year), "
            f"got {timeout_s!r}"
        )
    if not is_finite_number(poll_s) or not 0 < poll_s <= timeout_s:
        raise ParameterError(
            f"poll_s must be above 0 and at most timeout_s={timeout_s:g}, got {poll_s!r}: set a "
            "smaller poll_s or a longer timeout_s"
        )


def require_pauses(*, every_s: float, arm_pause_s: float) -> None:
    """Refuse times between rounds or arms that are not positive, or longer than a year."""
    if not 0 < every_s <= LONGEST_PAUSE_S:
        raise ParameterError(
            f"every_s must be above 0 and at most {LONGEST_PAUSE_S:.0f} (a year), got {every_s!r}"
        )
    if not 0 <= arm_pause_s <= LONGEST_PAUSE_S:
        raise ParameterError(
            f"arm_pause_s must be from 0 to {LONGEST_PAUSE_S:.0f} (a year), got {arm_pause_s!r}"
        )


def require_end(*, rounds: int, every_s: float) -> None:
    """Refuse fewer than one round, and rounds that would take more than ten years."""
    if not is_whole(rounds) or not 1 <= rounds <= MOST_ROUNDS:
        raise ParameterError(
            f"rounds must be a whole number from 1 to {MOST_ROUNDS}, got {rounds!r}"
        )
    if (rounds - 1) * every_s > LONGEST_ROUNDS_S:
        raise ParameterError(
            f"{rounds} rounds, one every {every_s:g} s, would take more than ten years: use fewer "
            "rounds or a smaller every_s"
        )


def require_probe_pauses(*, rounds: int, every_s: float, arms: int, arm_pause_s: float) -> None:
    """Refuse probes of a target that would follow each other too soon."""
    pauses = {"every_s": every_s} if rounds > 1 else {}
    pauses |= {"arm_pause_s": arm_pause_s} if arms > 1 else {}
    for name, pause_s in pauses.items():
        if pause_s < PROBE_PAUSE_S:
            raise ParameterError(
                f"a probe uses the capacity that the next one measures: with probes {name} must "
                f"be at least {PROBE_PAUSE_S:g} seconds, got {pause_s:g}"
            )


def usual_poll_s(wanted: Stage) -> float:
    """Return the default seconds between two polls."""
    return 0.5 if wanted is Stage.GRANTED else 3.0
