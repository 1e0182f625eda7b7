"""A plan made ready to send (image, placement, prices, quota), its cost, and the waves of a round.

Pure.  The cost is two numbers: *expected* assumes that all goes well; the *hard bound* assumes that
every machine of ours dies for good right after the request.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spotlib.collect.images import LINUX
from spotlib.errors import OneSentence, ParameterError
from spotlib.model import LONGEST_PAUSE_S, ON_DEMAND, Plan, Stage, Target
from spotlib.money import SURPLUS_USD_PER_VCPU_HOUR, held_usd, requests_usd, usd
from spotlib.words import counted

IF_ALL_DIES = (
    "if every program of ours dies and only the instances' own switches end them, CPU credits "
    "included"
)
VALID_MARGIN_S = 60  # a request stays valid this much longer than it is watched
SWITCH_MARGIN_S = 300  # an instance shuts itself down this much later than its timeout
READ_EVERY_S = 3.0  # from a read of a queue of EC2's events that showed nothing to the next
READ_AGAIN_S = 0.2  # from one that showed some
FIRST_READS_S = 60.0  # how long queues are read before a round or an arm that is waited for
LAST_READS_S = 20.0  # how long queues are read once a wave has ended, at most
CALLS_PER_READ = 2  # it deletes what is recorded, too
CALLS_PER_QUEUE = 20  # to make it, to find it, to delete it
USUAL_EVERY_S = 900.0  # from one round to the next, unless a round may last longer
_END_S = 60  # about what it takes until nothing is left of a wave
BOOT_MARGIN_S = 120  # the switch counts from the end of the boot

# Typical, until the wanted stage.  A probe is ended within seconds, but billed for a minute.
_EXPECTED_HOLD_S = {
    Stage.GRANTED: 0.0,
    Stage.RUNNING: 60.0,
    Stage.USABLE: 90.0,
    Stage.READY: 300.0,
}


@dataclass(frozen=True)
class PreparedPlan:
    """A plan with everything that its request call needs and that is known of its cost.

    ``price_usd`` and ``on_demand_usd`` are per instance and hour, NaN if unknown;
    ``largest_count`` is None if the quota is unknown.  ``family`` is the name of the quota,
    ``product`` that of the system in the price history.
    """

    plan: Plan
    image: str
    image_name: str
    vcpus: int
    burstable: bool
    family: str
    price_usd: float = math.nan
    on_demand_usd: float = math.nan
    largest_count: int | None = None
    subnet_id: str | None = None
    group_id: str | None = None
    product: str = LINUX
    by_the_hour: bool = False
    has_switch: bool = True
    image_owner: str | None = None

    @property
    def shutdown_after_min(self) -> int:
        """Minutes after its boot at which the dead-man's switch turns an instance off."""
        return math.ceil((self.plan.timeout_s + SWITCH_MARGIN_S) / 60)

    @property
    def expected_usd(self) -> float:
        """The cost of a round if instances are fulfilled at once and ready in the usual time."""
        hold_s = min(_EXPECTED_HOLD_S[self.plan.wanted], self.plan.timeout_s)
        spot = self.plan.purchase != ON_DEMAND
        price_usd = self.price_usd if spot else self.on_demand_usd
        return self.plan.count * self._cost(price_usd, hold_s, surplus=False)

    @property
    def bound_usd(self) -> float:
        """The hard bound of a round: each instance at the on-demand price, until its switch.

        NaN without a switch: then there is no bound.
        """
        if not self.has_switch:
            return math.nan
        return self.plan.count * self.most_usd(self.life_bound_s)

    @property
    def life_bound_s(self) -> float:
        """Seconds after the request until an instance ends by itself, at the latest."""
        return self.shutdown_after_min * 60 + BOOT_MARGIN_S

    def most_usd(self, hold_s: float) -> float:
        """Return the most that one instance costs: a spot price never exceeds on-demand."""
        return self._cost(self.on_demand_usd, hold_s, surplus=True)

    def _cost(self, usd_per_hour: float, held_s: float, *, surplus: bool) -> float:
        return held_usd(
            usd_per_hour,
            held_s,
            has_address=self.subnet_id is None,
            surplus_vcpus=self.vcpus if surplus and self.burstable else 0,
            by_the_hour=self.by_the_hour,
        )


class PreflightError(OneSentence, ValueError):
    """A batch that is refused before money is spent."""


@dataclass(frozen=True)
class PreflightReport:
    """What the preflight found out.

    ``free_vcpus`` is by region and quota, None if the quota is unknown.  ``credentials_end_at`` is
    None if they are renewed or do not say when they end.  ``events`` is whether EC2's own events
    are recorded, or the name of the user's queue that has them.
    """

    account: str | None
    arn: str | None
    prepared: tuple[PreparedPlan, ...]
    free_vcpus: Mapping[tuple[str, str], int | None]
    events: bool | str = False
    credentials_end_at: datetime | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def require(self) -> "PreflightReport":
        """Return the report itself; raise PreflightError with all problems if there are any."""
        if self.problems:
            raise PreflightError("; ".join(self.problems))
        return self

    def require_budget(
        self,
        *,
        rounds: int,
        budget_usd: float | None,
        campaign_budget_usd: float | None,
        earlier_usd: float,
    ) -> None:
        """Refuse a batch whose hard bound exceeds a budget, alone or with all earlier batches.

        Raises
        ------
        ValueError
            If it does, or if the bound is unknown.
        """
        batch_usd = rounds * self.bound_usd
        if budget_usd is not None and not batch_usd <= budget_usd:
            raise ParameterError(
                f"the batch can cost {usd(batch_usd)} at most, over budget_usd={budget_usd:g}: "
                "use a smaller n, fewer targets or rounds, or a shorter timeout_s"
            )
        total_usd = earlier_usd + batch_usd
        if campaign_budget_usd is not None and not total_usd <= campaign_budget_usd:
            raise ParameterError(
                f"with {usd(earlier_usd)} of earlier batches the campaign can cost "
                f"{usd(total_usd)} at most, over campaign_budget_usd={campaign_budget_usd:g}: "
                "use a smaller n, fewer targets or rounds, or raise the budget"
            )

    def require_lasting_credentials(
        self, *, now_at: datetime, rounds: int, every_s: float, arm_pause_s: float
    ) -> None:
        """Refuse a batch whose credentials may end before its clean-up.

        Raises
        ------
        ValueError
            If they do: without credentials nothing can be cancelled or terminated.
        """
        over_s = self.over_by_s(rounds=rounds, every_s=every_s, arm_pause_s=arm_pause_s)
        over_at = now_at + timedelta(seconds=over_s)
        if self.credentials_end_at is not None and self.credentials_end_at < over_at:
            raise PreflightError(
                f"the credentials end at {self.credentials_end_at:%Y-%m-%d %H:%M:%S} UTC, but the "
                f"batch may need clean-up until {over_at:%Y-%m-%d %H:%M:%S} UTC: renew them (a "
                "role: with a longer duration_seconds), or use fewer rounds or a shorter timeout_s"
            )

    def over_by_s(self, *, rounds: int, every_s: float, arm_pause_s: float) -> float:
        """Return the seconds after its start until nothing of a batch runs, even after a crash."""
        longest_s = [max(each.life_bound_s for each in wave) for wave in self.waves]
        pauses_s = max(len(split_turns(self.prepared)) - 1, 0) * arm_pause_s
        return (rounds - 1) * every_s + math.fsum([*longest_s, pauses_s])

    def usual_every_s(self, arm_pause_s: float, *, least_s: float = USUAL_EVERY_S) -> float:
        """Return the seconds from one round to the next if nobody says otherwise: none is late."""
        return min(max(least_s, self._round_s(arm_pause_s)), LONGEST_PAUSE_S)

    def late_rounds(self, *, rounds: int, every_s: float, arm_pause_s: float) -> list[str]:
        """Return a warning if a round may last until after the next is due, else nothing."""
        lasts_s = self._round_s(arm_pause_s)
        if rounds < 2 or lasts_s <= every_s:
            return []
        turns = len(split_turns(self.prepared))
        return [
            f"a round may last {lasts_s:g} s ({counted(turns, 'launch method')}, "
            f"{counted(len(self.waves), 'wave')}), longer than every_s={every_s:g}, and one that "
            f"would start late is skipped: set every_s to at least {lasts_s:g}"
        ]

    def _round_s(self, arm_pause_s: float) -> float:
        """The longest that a round may last: every wave, and a pause after each launch method."""
        turns = len(split_turns(self.prepared))
        longest_s = [max(each.plan.timeout_s for each in wave) + _END_S for wave in self.waves]
        return math.fsum([*longest_s, turns * arm_pause_s if turns > 1 else 0.0])

    @property
    def waves(self) -> list[list[PreparedPlan]]:
        """The plans that are launched together, one set after the other, in some order."""
        turns = split_turns(self.prepared)
        return [wave for turn in turns for wave in split_waves(turn, self.free_vcpus)]

    @property
    def expected_usd(self) -> float:
        """The expected cost of one round."""
        return math.fsum(each.expected_usd for each in self.prepared)

    @property
    def bound_usd(self) -> float:
        """The hard bound of the cost of one round."""
        reading_usd = requests_usd(self._queue_calls[1])
        return math.fsum([*(each.bound_usd for each in self.prepared), reading_usd])

    @property
    def _queue_calls(self) -> tuple[int, int]:
        """How many requests to SQS one round makes for EC2's events at most: quiet, and busy.

        All queues are read for as long as any wave is watched.
        """
        regions = len({each.plan.target.region for each in self.prepared}) if self.events else 0
        waves_s = [max(each.plan.timeout_s for each in wave) for wave in self.waves]
        ends_s = [FIRST_READS_S + each_s + _END_S + LAST_READS_S for each_s in waves_s]
        quiet, busy = (
            sum(math.ceil(each_s / pause_s) + 1 for each_s in lasts_s)
            for lasts_s, pause_s in ((waves_s, READ_EVERY_S), (ends_s, READ_AGAIN_S))
        )
        return regions * quiet, regions * (CALLS_PER_READ * busy + CALLS_PER_QUEUE)

    def cost_words(self) -> list[str]:
        """Say what the hard bound holds beside instances, disks and addresses, one sentence each.

        That is what CPU credits can cost, and what it costs to read EC2's own events.
        """
        names = sorted({each.plan.target.instance_type for each in self.prepared if each.burstable})
        quiet, most = self._queue_calls
        credit = [
            f"{', '.join(names)}: AWS bills CPU credits beyond the earned ones, "
            f"{usd(SURPLUS_USD_PER_VCPU_HOUR)} per vCPU and hour; the hard bound counts them for "
            "the whole time, so it can be above that of a larger type that has no credits"
        ] * bool(names)
        events = [
            f"EC2's own events: about {quiet} requests to SQS if a round lasts its whole time, at "
            f"most {most} if there are many events, of any instances; the first million a month "
            f"is free, then a million costs {usd(requests_usd(1_000_000))}, so a round at most "
            f"{usd(requests_usd(most))}, which its hard bound includes"
        ] * bool(most)
        return credit + events


def split_turns(prepared: Iterable[PreparedPlan]) -> list[list[PreparedPlan]]:
    """Cut the plans, in their order, into turns: in each a target meets its next launch method."""
    turns: list[list[PreparedPlan]] = []
    met: Counter[Target] = Counter()
    for each in prepared:
        turn = met[each.plan.target]
        met[each.plan.target] += 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(each)
    return turns


def split_waves(
    prepared: Sequence[PreparedPlan], free_vcpus: Mapping[tuple[str, str], int | None]
) -> list[list[PreparedPlan]]:
    """Cut the plans, in their order, into waves that each fit under every quota.

    Open requests and running instances both count against a quota, so a wave starts once the one
    before is gone.  A plan that alone exceeds its quota becomes a wave of its own.
    """
    waves: list[list[PreparedPlan]] = []
    used: dict[tuple[str, str], int] = {}
    for each in prepared:
        key, needs = (each.plan.target.region, each.family), each.plan.count * each.vcpus
        limit = free_vcpus.get(key)
        if not waves or (limit is not None and used.get(key, 0) + needs > limit):
            waves.append([])
            used = {}
        waves[-1].append(each)
        used[key] = used.get(key, 0) + needs
    return waves
