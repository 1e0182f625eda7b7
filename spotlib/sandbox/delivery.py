"""How EventBridge delivers events and how SQS keeps its queues: what is lost, doubled, late.

``Delivery()`` is usual; its settings make it perfect or worse.  Its draws have names of their own,
and none is made while no rule exists.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from math import exp, inf, log
from typing import Any

from spotlib.sandbox.chance import normals, uniforms


def _number(default: float, what: str) -> Any:
    """One invented number; it changes no world's id while it has its default."""
    return field(default=default, repr=False, metadata={"what": what})


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The way of events from EC2 to a queue, and what calls of SQS show of it."""

    lost_share: float = _number(0.01, "events that never arrive")
    doubled_share: float = _number(0.02, "events that arrive a second time")
    delay_median_s: float = _number(0.5, "median time until an event is in the queue")
    delay_sigma: float = _number(1.2, "its spread (log-normal)")
    delay_most_s: float = _number(30.0, "the longest it takes")
    foreign_per_hour: float = _number(20.0, "events of instances that nobody here knows, of a rule")
    rebalance_most_s: float = _number(600.0, "a rebalance recommendation before its warning")
    with_notice_share: float = _number(0.5, "recommendations that come together with the warning")
    missed_share: float = _number(0.0, "messages that a short poll of a queue does not see")
    listed_most_s: float = _number(60.0, "how long a deleted queue may still be listed")
    unlisted_most_s: float = _number(0.0, "how long a new queue or rule may not be listed yet")
    queue_clock_off_s: float = _number(0.0, "SQS's clock (SentTimestamp) against EC2's")

    def __post_init__(self) -> None:
        """Refuse values that no delivery could have."""
        for name, value in vars(self).items():
            most = 1.0 if name.endswith("_share") else inf
            least = -inf if name == "queue_clock_off_s" else 0.0
            if not (least <= value <= most and abs(value) < inf):
                raise ValueError(f"need a finite {least:g} <= {name} <= {most:g}, got {value!r}")

    def delays_s(self, *name: object) -> list[float]:
        """The delay of each delivery of an event to one target: none if it is lost."""
        lost, doubled = map(float, uniforms(2, "event", *name))
        times = 0 if lost < self.lost_share else 1 + (doubled < self.doubled_share)
        spread = normals(2, "event delay", *name)[:times]
        delays_s = (self.delay_median_s * exp(self.delay_sigma * float(each)) for each in spread)
        return [min(each, self.delay_most_s) for each in delays_s]

    def rebalance_lead_s(self, *name: object) -> float:
        """How long before its interruption warning an instance gets a recommendation."""
        together, share = map(float, uniforms(2, "rebalance", *name))
        return 0.0 if together < self.with_notice_share else share * self.rebalance_most_s

    def foreign_wait_s(self, *name: object) -> float | None:
        """The time until the next event of an unknown instance; None if there are none."""
        if not self.foreign_per_hour:
            return None
        return -3600.0 / self.foreign_per_hour * log(float(uniforms(1, "foreign", *name)[0]))

    def is_missed(self, *name: object) -> bool:
        """Whether a short poll does not see a message."""
        draw = uniforms(1, "short poll", *name)[0] if self.missed_share else 1.0
        return float(draw) < self.missed_share

    def unlisted_s(self, *name: object) -> float:
        """How long a new queue or rule is not listed yet."""
        draw = uniforms(1, "new queue", *name)[0] if self.unlisted_most_s else 0.0
        return self.unlisted_most_s * float(draw)

    def listed_s(self, *name: object) -> float:
        """How long a deleted queue is still listed."""
        return self.listed_most_s * float(uniforms(1, "deleted queue", *name)[0])


def table_markdown() -> str:
    """The numbers as Markdown, for the documentation."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for item in dataclasses.fields(Delivery):
        lines.append(f"| `{item.name}` | {item.default:g} | {item.metadata['what']} |")
    return "\n".join(lines) + "\n"
