"""How EventBridge delivers events and how SQS keeps its queues: what is lost, doubled, late.

``Delivery()`` is usual; its settings make it perfect or worse.  All its numbers are invented: AWS
says only that events are emitted as well as possible, delivered at least once and in no order.  Its
draws have names of their own, and none is made while no rule exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, inf, log

from spotlib.sandbox.chance import normals, uniforms

_SHARES = ("lost_share", "doubled_share", "with_notice_share", "missed_share")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The way of events from EC2 to a queue."""

    lost_share: float = field(default=0.01, repr=False)  # events that never arrive
    doubled_share: float = field(default=0.02, repr=False)  # events that arrive a second time
    delay_median_s: float = field(default=0.5, repr=False)  # until they are in the queue
    delay_sigma: float = field(default=1.2, repr=False)  # of a log-normal distribution
    delay_most_s: float = field(default=30.0, repr=False)
    foreign_per_hour: float = field(default=20.0, repr=False)  # events of instances of others
    rebalance_most_s: float = field(default=600.0, repr=False)  # a recommendation before a warning
    with_notice_share: float = field(default=0.5, repr=False)  # of them that come with the warning
    missed_share: float = field(default=0.0, repr=False)  # messages that a short poll does not see
    listed_most_s: float = field(default=60.0, repr=False)  # after a queue's deletion
    queue_clock_off_s: float = field(default=0.0, repr=False)  # SQS's clock, against EC2's

    def __post_init__(self) -> None:
        """Refuse values that no delivery could have."""
        for name, value in vars(self).items():
            if name in _SHARES:
                if not 0 <= value <= 1:
                    raise ValueError(f"need 0 <= {name} <= 1, got {value!r}")
            elif not (0 <= value < inf or (name == "queue_clock_off_s" and -inf < value < 0)):
                raise ValueError(f"need a finite {name} >= 0, got {value!r}")

    def delays_s(self, *name: object) -> list[float]:
        """The delay of each delivery of an event to one target: none if it is lost."""
        lost, doubled = map(float, uniforms(2, "event", *name))
        times = 0 if lost < self.lost_share else 1 + (doubled < self.doubled_share)
        spread = normals(2, "event delay", *name)[:times]
        delays_s = (self.delay_median_s * exp(self.delay_sigma * float(each)) for each in spread)
        return [min(each, self.delay_most_s) for each in delays_s]

    def rebalance_lead_s(self, *name: object) -> float:
        """How long before its interruption warning an instance gets a recommendation."""
        early, share = map(float, uniforms(2, "rebalance", *name))
        return 0.0 if early < self.with_notice_share else share * self.rebalance_most_s

    def listed_s(self, *name: object) -> float:
        """How long a deleted queue is still listed."""
        return self.listed_most_s * float(uniforms(1, "deleted queue", *name)[0])

    def is_missed(self, *name: object) -> bool:
        """Whether a short poll does not see a message."""
        return self.missed_share > 0 and uniforms(1, "short poll", *name)[0] < self.missed_share

    def next_foreign_s(self, *name: object) -> float:
        """The time until the next event of an instance of others: for ever if there are none."""
        if not self.foreign_per_hour:
            return inf
        return float(-3600.0 / self.foreign_per_hour * log(uniforms(1, "foreign", *name)[0]))
