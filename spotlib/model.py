"""The data types: what we ask EC2 for, how far a request gets, how it ends, and valid values.

Every request walks one timeline::

    sent --> ACCEPTED --> GRANTED --> FULFILLED --> RUNNING --> USABLE --> READY
    0 s      EC2 gave it  EC2 has     it has an     state is    the guest  status checks
             an id        decided     instance      "running"   says so    are "ok"
                          for it

A *probe* waits for GRANTED only, and only a probe records it.  USABLE is recorded only if it is
asked for: no poll shows it, the guest writes it to its console (see ``stamp``).

Names carry their unit: ``*_s`` is seconds on a monotonic clock, ``*_at`` a timezone-aware UTC
instant, from which no duration is computed.  Nothing here reads a clock, a file or the network.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from types import MappingProxyType
from typing import Any, Literal, cast

from spotlib.errors import ParameterError, did_you_mean

Purchase = Literal["spot", "on-demand"]
SPOT: Purchase = "spot"
ON_DEMAND: Purchase = "on-demand"
DEFAULT_METHOD = "request_spot_instances"
PURCHASES: Mapping[str, tuple[Purchase, ...]] = MappingProxyType(  # by method: what it can buy
    {
        DEFAULT_METHOD: (SPOT,),
        "run_instances": (SPOT, ON_DEMAND),
        "run_instances_all_or_nothing": (SPOT, ON_DEMAND),
        "create_fleet_instant": (SPOT, ON_DEMAND),
        "create_fleet_request": (SPOT, ON_DEMAND),
    }
)
ARMS = tuple(  # as they are written in parameters: the purchase is named where it is not spot
    method if purchase == SPOT else f"{method}:{purchase}"
    for method, purchases in PURCHASES.items()
    for purchase in purchases
)
LONGEST_PAUSE_S = 366 * 86_400.0  # a batch ends at some date: no time of it is longer
MOST_SEED = 2**53  # a whole number in JSON, for any reader
T3_SOURCES = ("placement scores", "selection")  # where a known t3 is from
MOST_INSTANCES_PER_CALL = 3000  # EC2 refuses more with RequestResourceCountExceeded

_INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d")
# Also of local and Wavelength zones: usw2-lax1-az1, use1-wl1-bos-wlz1.
_ZONE_ID = re.compile(r"[a-z]{3,8}\d?(-[a-z]{2,4}\d*)*-(az|wlz)\d+")
INSTANCE_TYPE_PATTERN, REGION_PATTERN, ZONE_ID_PATTERN = (  # for readers that search in a text
    rf"^(?:{each.pattern})\Z" for each in (_INSTANCE_TYPE, _REGION, _ZONE_ID)
)

AMAZON = "amazon"  # EC2's alias of itself as the owner of an image
AMAZON_LINUX = re.compile(r"(amzn2?|al20\d\d)-ami-")
_SEVERAL = "; several are written with spaces between"
_RELEASE = re.compile(r"(?<=-)(\d+\.){1,3}\d{8}(\.\d+)?-", re.ASCII)  # 2023.6.20250128.0-

StageName = Literal["accepted", "granted", "fulfilled", "running", "usable", "ready"]
# What an EC2 event reports about an instance: its state, or what happens to it.
About = Literal[
    "pending",
    "running",
    "shutting-down",
    "terminated",
    "stopping",
    "stopped",
    "fulfilled",
    "interruption",
    "rebalance",
]


class Stage(IntEnum):
    """How far a request has got; a later stage implies the earlier ones.

    Only USABLE is not implied by a later stage: nothing but the guest's console shows it.

    Examples
    --------
    >>> from spotlib import Stage
    >>> Stage.RUNNING < Stage.READY
    True
    >>> [stage.label for stage in Stage]
    ['accepted', 'granted', 'fulfilled', 'running', 'usable', 'ready']
    """

    ACCEPTED = auto()
    GRANTED = auto()
    FULFILLED = auto()
    RUNNING = auto()
    USABLE = auto()
    READY = auto()

    @property
    def label(self) -> StageName:
        """The name in logs, tables and figures: ``accepted``, ``fulfilled``, ..."""
        return cast("StageName", self.name.lower())


WANTED = (Stage.GRANTED, Stage.RUNNING, Stage.USABLE, Stage.READY)  # what a plan may wait for


class Outcome(StrEnum):
    """How a request ended.  Each has exactly one; EC2's own status code stands beside it."""

    READY = "ready"  # the stage that its plan waits for was shown
    GRANTED = "granted"  # the same of a probe: its instance is ended before it can be ready
    HELD = "held"  # of a probe: EC2 holds the request for lack of capacity, or for its price
    TIMED_OUT = "timed_out"  # still waiting at the timeout: right-censored
    REFUSED = "refused"  # the request call itself was refused: there is no request id
    FAILED = "failed"  # EC2 or its user ended it for another reason than capacity or price
    EXPIRED = "expired"  # its ValidUntil passed
    INTERRUPTED = "interrupted"  # EC2 interrupted the instance
    ABANDONED = "abandoned"  # we stopped watching before any of these: right-censored


class Kind(StrEnum):
    """Why a call was refused."""

    CAPACITY = "capacity"  # an outcome: EC2 has none
    PRICE = "price"  # an outcome: the highest price we allow is below the market's
    QUOTA = "quota"
    PERMISSION = "permission"
    CREDENTIALS = "credentials"
    ACCOUNT = "account"
    PARAMETERS = "parameters"
    NOT_FOUND = "not_found"
    THROTTLED = "throttled"
    SERVER = "server"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


OUTCOME_KINDS = frozenset({Kind.CAPACITY, Kind.PRICE})


def recorded_stages(wanted: Stage, *, usable: bool) -> tuple[Stage, ...]:
    """Return the stages that are recorded by a plan that waits for ``wanted``.

    Only a probe records GRANTED.  Only a plan that waits for USABLE, or asks for it, records it.
    """
    optional = {
        Stage.GRANTED: wanted is Stage.GRANTED,
        Stage.USABLE: usable or wanted is Stage.USABLE,
    }
    return tuple(each for each in Stage if optional.get(each, True))


def watched_stages(wanted: Stage, *, usable: bool = False) -> tuple[Stage, ...]:
    """Return the recorded stages up to the wanted one: requests are watched until these."""
    return tuple(each for each in recorded_stages(wanted, usable=usable) if each <= wanted)


def is_instance_id(name: str) -> bool:
    """Whether a row is an instance itself: some methods launch at once, without a request."""
    return name.startswith("i-")


def image_family(image: str, name: str, owner: str | None) -> str:
    """Return the name that all releases of an image share: al2023-ami-kernel-6.1-arm64, ...

    Amazon releases its Linux every two weeks, with a new id and name.  Any other image is a family
    of its own, named by its id.  So is an image whose owner is not recorded, because anybody can
    give an image such a name.

    Examples
    --------
    >>> image_family("ami-1", "al2023-ami-2023.6.20250128.0-kernel-6.1-arm64", "amazon")
    'al2023-ami-kernel-6.1-arm64'
    >>> image_family("ami-1", "al2023-ami-2023.6.20250128.0-kernel-6.1-arm64", "123456789012")
    'ami-1'
    """
    family, releases = _RELEASE.subn("", name)
    known = owner == AMAZON and AMAZON_LINUX.match(name) and releases == 1
    return family if known else image


@dataclass(frozen=True, order=True)
class Target:
    """What is measured: an instance type in a region, or in one of its availability zones.

    Parameters
    ----------
    instance_type
        As EC2 names it, such as ``t3.nano``.
    region
        As EC2 names it, such as ``us-east-1``.
    availability_zone_id
        The zone's **id**, such as ``use1-az4``: zone names differ between accounts.  None lets EC2
        choose the zone, which is a different variable and never pooled with a zone target.

    Raises
    ------
    ValueError
        If a name cannot be one of EC2's.

    Examples
    --------
    >>> from spotlib import Target
    >>> str(Target("t3.nano", "us-east-1"))
    't3.nano in us-east-1'
    >>> Target("t3.nano", "us-east-1", "use1-az4").placement
    'zone'
    """

    instance_type: str
    region: str
    availability_zone_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that cannot be EC2's."""
        _require_match("instance_type", self.instance_type, _INSTANCE_TYPE, "t3.nano")
        _require_match("region", self.region, _REGION, "us-east-1")
        if self.availability_zone_id is not None:
            _require_match(
                "availability_zone_id",
                self.availability_zone_id,
                _ZONE_ID,
                "use1-az4; zone ids, not zone names such as us-east-1a",
            )

    def __str__(self) -> str:
        return f"{self.instance_type} in {self.availability_zone_id or self.region}"

    @property
    def placement(self) -> str:
        """``region`` if EC2 chooses the zone, ``zone`` if we do; never pooled."""
        return "zone" if self.availability_zone_id else "region"


@dataclass(frozen=True)
class Plan:
    """One request call: ``count`` instances of a target, and how long to wait for which stage.

    Parameters
    ----------
    target
        What is measured.
    count
        Instances asked for in the one call, 1 to 3000.
    timeout_s
        Seconds after which a request that is still waiting is right-censored.
    wanted
        The stage that ends the watching of a request: ``Stage.RUNNING``, ``Stage.USABLE``,
        ``Stage.READY``, or ``Stage.GRANTED`` for a probe, which also ends when EC2 holds the
        request.
    image
        An AMI id; None is the newest Amazon Linux 2023 for the type's architecture.
    max_price_usd
        The most to pay per instance and hour, sent as SpotPrice; None leaves it to EC2.
    method, purchase
        The API call that launches, and whether it buys ``spot`` or ``on-demand``.
    usable
        Record ``Stage.USABLE`` too.  A plan that waits for it does so anyway.

    Raises
    ------
    ValueError
        If EC2 would refuse a value, or it could never be measured.

    Examples
    --------
    >>> from spotlib import Plan, Stage, Target
    >>> plan = Plan(Target("t3.nano", "us-east-1"), 5, timeout_s=300, wanted=Stage.RUNNING)
    >>> plan.wanted.label
    'running'
    """

    target: Target
    count: int
    timeout_s: float = 600.0
    wanted: Stage = Stage.READY
    image: str | None = None
    max_price_usd: float | None = None
    method: str = DEFAULT_METHOD
    purchase: Purchase = SPOT
    usable: bool = False

    def __post_init__(self) -> None:
        """Refuse what EC2 would refuse, or what could never be measured."""
        if not is_whole(self.count) or not 1 <= self.count <= MOST_INSTANCES_PER_CALL:
            raise ParameterError(
                f"n must be a whole number from 1 to {MOST_INSTANCES_PER_CALL} "
                f"(instances per target), got {self.count!r}"
            )
        if not is_finite_number(self.timeout_s) or not 0 < self.timeout_s <= LONGEST_PAUSE_S:
            raise ParameterError(
                f"timeout_s must be above 0 and at most {LONGEST_PAUSE_S:.0f} (a year), "
                f"got {self.timeout_s!r}"
            )
        if self.wanted not in WANTED:
            names = ", ".join(each.label for each in WANTED)
            raise ParameterError(f"wanted must be one of {names}, got {self.wanted!r}")
        require_watched_usable(self.wanted, usable=self.usable)
        if self.arm not in ARMS:
            raise ParameterError(_no_arm(self.arm))
        if self.max_price_usd is not None and not self.max_price_usd > 0:
            raise ParameterError(
                f"max_price_usd must be above 0 or left out, got {self.max_price_usd!r}"
            )
        if self.max_price_usd is not None and self.purchase == ON_DEMAND:
            raise ParameterError(
                f"max_price_usd={self.max_price_usd:g} is for spot, {self.arm} buys on demand: "
                "leave one of them out"
            )

    @property
    def arm(self) -> str:
        """Method and purchase as parameters name them: the purchase only if it is not spot."""
        return self.method if self.purchase == SPOT else f"{self.method}:{self.purchase}"

    @property
    def key(self) -> tuple[Target, str]:
        """What distinguishes it from the other plans of its round: target and arm."""
        return self.target, self.arm

    @property
    def is_probe(self) -> bool:
        """Whether it asks only whether EC2 grants the request."""
        return self.wanted is Stage.GRANTED

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that it records."""
        return recorded_stages(self.wanted, usable=self.usable)

    @property
    def is_stamped(self) -> bool:
        """Whether its guests report when they are usable."""
        return Stage.USABLE in self.stages


def plan_launches(
    targets: Iterable[Target],
    *,
    count: int,
    timeout_s: float | None = None,
    wanted: Stage = Stage.READY,
    image: str | None = None,
    max_price_usd: float | None = None,
    methods: Iterable[str] = (DEFAULT_METHOD,),
    usable: bool = False,
) -> list[Plan]:
    """Return one plan per target and launch method, with the same other values.

    Parameters
    ----------
    targets
        What is measured, each once.
    methods
        The arms that each target meets in each round: a method, or ``METHOD:on-demand``.
    timeout_s
        As in ``Plan``; by default 600 s, or 30 s for probes: EC2 decides within seconds.
    count, wanted, image, max_price_usd, usable
        As in ``Plan``.

    Raises
    ------
    ValueError
        If there is no target or method, one is named twice, or a value is out of its range.

    Examples
    --------
    >>> from spotlib import Target, plan_launches
    >>> plans = plan_launches([Target("t3.nano", region) for region in ("us-east-1", "sa-east-1")],
    ...                       count=5)
    >>> [str(plan.target) for plan in plans]
    ['t3.nano in us-east-1', 't3.nano in sa-east-1']
    """
    chosen, arms = list(targets), list(methods)
    if not chosen:
        raise ParameterError(
            "there is no target to launch: name a selection, or a type and a region"
        )
    if len(set(chosen)) < len(chosen):
        twice = sorted({str(target) for target in chosen if chosen.count(target) > 1})
        raise ParameterError(
            f"each target may be planned once per round, got twice: {', '.join(twice)}"
        )
    require_arms(arms)
    shared: dict[str, Any] = {"image": image, "max_price_usd": max_price_usd, "usable": usable}
    if timeout_s is None:
        timeout_s = usual_timeout_s(wanted)
    return [
        Plan(target, count, timeout_s, wanted, **shared, **_method_and_purchase(arm))
        for target in chosen
        for arm in arms
    ]


def require_watched_usable(wanted: Stage, *, usable: bool) -> None:
    """Refuse to record USABLE where instances are ended before they can be."""
    if usable and wanted < Stage.USABLE:
        raise ParameterError(
            f"with ready={wanted.label!r} an instance is ended before it is usable: leave usable "
            "out, or wait for 'usable' or 'ready'"
        )


def usual_timeout_s(wanted: Stage) -> float:
    """Return how long a request is watched if nobody says otherwise, in seconds."""
    return 30.0 if wanted is Stage.GRANTED else 600.0


def require_arms(arms: Sequence[str]) -> None:
    """Refuse launch methods that do not exist, that are named twice, or none at all."""
    if not arms:
        raise ParameterError(f"there is no launch method: name some of {', '.join(ARMS)}")
    for arm in arms:
        if arm not in ARMS:
            raise ParameterError(_no_arm(arm))
    if len(set(arms)) < len(arms):
        raise ParameterError(f"each method may be named once, got {' '.join(arms)!r}")


def _no_arm(arm: str) -> str:
    hint = _SEVERAL if "," in arm else did_you_mean(arm, ARMS)
    return f"a method must be one of {', '.join(ARMS)}, got {arm!r}{hint}"


def _method_and_purchase(arm: str) -> dict[str, Any]:
    method, _, purchase = arm.partition(":")
    return {"method": method, "purchase": purchase or SPOT}


_NO_QUEUES = {"true", "false", "none", "yes", "no", "on", "off", "0", "1", *ARMS}  # slips


def require_events(events: bool | str) -> None:
    """Refuse what neither says whether to record EC2's own events nor can be a queue's name."""
    said = isinstance(events, bool)
    named = isinstance(events, str) and is_queue_name(events)
    if not said and (not named or str(events).lower() in _NO_QUEUES):
        raise ParameterError(
            "events must be True or False (not as text), or the name of a queue of yours (1 to 80 "
            f"letters, digits, - or _), got {events!r}"
        )


def is_queue_name(name: str) -> bool:
    """Whether a queue of SQS can be called so; it asks for no other name."""
    return _QUEUE.fullmatch(name) is not None


def _require_match(name: str, value: object, pattern: re.Pattern[str], example: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ParameterError(
            f"{name} {value!r} is not a name EC2 could know (example: {example})"
            f"{_slip(name, str(value))}"
        )


def _slip(name: str, value: str) -> str:
    """What was probably meant by a name that cannot be one."""
    if "," in value:
        return _SEVERAL
    if name == "instance_type" and _REGION.fullmatch(value):
        return "; that is a region"
    if name == "region" and _REGION.fullmatch(value[:-1]):
        return f"; that is a zone of the region {value[:-1]}"
    return ""


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite_number(value: object) -> bool:
    """Whether a value is a number that can be reached; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
