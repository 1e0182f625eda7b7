"""EC2's events of instances, and their way through rules into queues.

``instance_course`` tells each event at the moment at which it happens.  Without a rule in the
region nothing is done.  An event that a rule matches is scheduled to arrive in the queues of its
targets, late, twice or never, as ``delivery`` says; it arrives if the queue is still there and its
policy allows the rule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from spotlib.sandbox import catalogue, patterns
from spotlib.sandbox.account import Instance, Rule
from spotlib.sandbox.chance import digest
from spotlib.sandbox.world import World

_STATE = "EC2 Instance State-change Notification"
_FULFILLED = "EC2 Spot Instance Request Fulfillment"
_WARNING = "EC2 Spot Instance Interruption Warning"
_REBALANCE = "EC2 Instance Rebalance Recommendation"
_FOREIGN_STATES = ("pending", "running", "shutting-down", "terminated")


def state_changed(world: World, instance: Instance, at_s: float) -> None:
    """The instance has a new state."""
    _tell(world, instance, at_s, _STATE, ("state", instance.state))


def fulfilled(world: World, instance: Instance, at_s: float) -> None:
    """Its spot request is fulfilled."""
    request = instance.request
    if not request.on_demand:
        _tell(world, instance, at_s, _FULFILLED, ("spot-instance-request-id", request.request_id))


def interruption_warned(world: World, instance: Instance, at_s: float) -> None:
    """It will be interrupted in two minutes."""
    _tell(world, instance, at_s, _WARNING, ("instance-action", "terminate"))


def interruption_foreseen(world: World, instance: Instance, warning_s: float, at_s: float) -> None:
    """It will be warned: a recommendation comes with that warning or before it."""
    request = instance.request
    if world.region(request.pool.region).rules:
        lead_s = world.events.rebalance_lead_s(request.name, request.index)
        world.schedule(max(at_s, warning_s - lead_s), _recommend, instance)


def meet_strangers(world: World, region: str, rule: Rule, at_s: float) -> None:
    """Schedule the next event of an instance that nobody here knows, for as long as a rule lives.

    The instances of ``company`` have their own events beside these.
    """
    account = world.region(region)
    wait_s = world.events.foreign_wait_s(world.seed, region, account.foreign_events)
    if wait_s is not None:
        world.schedule(at_s + wait_s, _stranger, region, rule, account.foreign_events)
        account.foreign_events += 1


def _recommend(world: World, instance: Instance, at_s: float) -> None:
    if instance.state in ("pending", "running"):
        instance.request.happened_s["rebalance"] = at_s
        _tell(world, instance, at_s, _REBALANCE)


def _stranger(world: World, region: str, rule: Rule, number: int, at_s: float) -> None:
    name = (world.seed, region, "foreign", number)
    state = _FOREIGN_STATES[digest(1, *name)[0] % len(_FOREIGN_STATES)]
    detail = {"instance-id": "i-0" + digest(8, *name, "i").hex(), "state": state}
    if world.region(region).rules.get(rule.name) is rule:  # not another one of its name
        _send(world, rule, _Event(region, at_s, name, _STATE, detail))
        meet_strangers(world, region, rule, at_s)


@dataclass(frozen=True)
class _Event:
    """One event: where and when it happened, the name of its draws, what it says."""

    region: str
    at_s: float
    name: tuple[object, ...]
    kind: str
    detail: dict[str, str]
    zone: str = ""  # where its ARN names the zone alone

    def body(self, world: World) -> dict[str, Any]:
        """The event as EventBridge shows it; its time is cut to whole seconds."""
        place = self.zone or f"{self.region}:{world.account_id}"
        arn = f"arn:{world.partition}:ec2:{place}:instance/{self.detail['instance-id']}"
        return {
            "version": "0",
            "id": str(UUID(bytes=digest(16, "event id", *self.name))),
            "detail-type": self.kind,
            "source": "aws.ec2",
            "account": world.account_id,
            "time": f"{world.utc(self.at_s):%Y-%m-%dT%H:%M:%SZ}",
            "region": self.region,
            "resources": [arn],
            "detail": self.detail,
        }


def _tell(
    world: World, instance: Instance, at_s: float, kind: str, more: tuple[str, str] | None = None
) -> None:
    """Send an event of an instance by every rule that matches it."""
    request, pool = instance.request, instance.request.pool
    rules = world.region(pool.region).rules
    if not rules:
        return
    detail = {"instance-id": instance.instance_id, **dict([more] if more else [])}
    name = (world.seed, request.name, request.index, kind, detail.get("state", ""))
    zones = catalogue.zones(pool.region) if kind == _WARNING else ()
    zone = next((each.name for each in zones if each.zone_id == pool.zone_id), "")
    event = _Event(pool.region, at_s, name, kind, detail, zone)
    for rule in rules.values():
        _send(world, rule, event)


def _send(world: World, rule: Rule, event: _Event) -> None:
    shown = event.body(world)
    if not (rule.enabled and patterns.matches(rule.pattern, shown)):
        return
    body = json.dumps(shown, separators=(",", ":"))
    for target_id, queue_arn in rule.targets.items():
        for delay_s in world.events.delays_s(*event.name, rule.name, target_id):
            world.schedule(event.at_s + delay_s, _arrive, queue_arn, rule.arn, body)


def _arrive(world: World, queue_arn: str, rule_arn: str, body: str, at_s: float) -> None:
    *_, region, _, name = queue_arn.split(":")
    queue = world.region(region).queues.get(name)
    if queue is not None and queue.accepts_events_of(rule_arn, world.account_id):
        queue.put(body, at_s)
