"""The life cycles of a spot request and of an instance: two tables of the only possible moves.

The status code of a request determines its state, except that a cancelled request stays
``cancelled``.  Sources: the EC2 user guide's pages on the states of spot requests, on their status
codes and on the life cycle of instances.
"""

from __future__ import annotations

from collections.abc import Mapping

STATE_OF_CODE: Mapping[str, str] = {
    "pending-evaluation": "open",
    "pending-fulfillment": "open",
    "capacity-not-available": "open",
    "constraint-not-fulfillable": "open",
    "price-too-low": "open",
    "fulfilled": "active",
    "marked-for-termination": "active",
    "instance-stopped-by-user": "disabled",
    "instance-terminated-by-user": "closed",
    "instance-terminated-no-capacity": "closed",
    "request-canceled-and-instance-running": "cancelled",
    "canceled-before-fulfillment": "cancelled",
    "schedule-expired": "cancelled",
    "bad-parameters": "failed",
    "system-error": "closed",
}

# (status code before, after) -> the cause.
REQUEST_MOVES: Mapping[tuple[str, str], str] = {
    ("", "pending-evaluation"): "the request is accepted",
    ("pending-evaluation", "pending-fulfillment"): "there is capacity",
    ("pending-evaluation", "capacity-not-available"): "there is none",
    ("pending-evaluation", "price-too-low"): "the request's maximum price is below the market's",
    ("pending-evaluation", "constraint-not-fulfillable"): "a constraint cannot be met now",
    ("pending-evaluation", "bad-parameters"): "the parameters do not fit together",
    ("pending-evaluation", "system-error"): "EC2 fails",
    ("pending-evaluation", "canceled-before-fulfillment"): "the user cancels",
    ("pending-evaluation", "schedule-expired"): "ValidUntil passes",
    ("capacity-not-available", "pending-fulfillment"): "capacity becomes free",
    ("capacity-not-available", "price-too-low"): "the price rises while it waits",
    ("capacity-not-available", "canceled-before-fulfillment"): "the user cancels",
    ("capacity-not-available", "schedule-expired"): "ValidUntil passes",
    ("constraint-not-fulfillable", "pending-fulfillment"): "the constraint can be met",
    ("constraint-not-fulfillable", "canceled-before-fulfillment"): "the user cancels",
    ("constraint-not-fulfillable", "schedule-expired"): "ValidUntil passes",
    ("price-too-low", "pending-fulfillment"): "the price falls and there is capacity",
    ("price-too-low", "capacity-not-available"): "the price falls and there is none",
    ("price-too-low", "canceled-before-fulfillment"): "the user cancels",
    ("price-too-low", "schedule-expired"): "ValidUntil passes",
    ("pending-fulfillment", "fulfilled"): "the instance is launched",
    ("pending-fulfillment", "canceled-before-fulfillment"): "the user cancels too late",
    ("canceled-before-fulfillment", "request-canceled-and-instance-running"): (
        "the launch was already in flight and completes"
    ),
    ("fulfilled", "request-canceled-and-instance-running"): "the user cancels",
    ("fulfilled", "instance-terminated-by-user"): "the instance has ended",
    ("fulfilled", "instance-terminated-no-capacity"): "interruption notice",
    ("fulfilled", "marked-for-termination"): "interruption notice, in its other form",
    (
        "fulfilled",
        "instance-stopped-by-user",
    ): "the guest shuts down, in the form where that stops it",
    ("marked-for-termination", "instance-terminated-no-capacity"): "the notice period has ended",
    ("marked-for-termination", "instance-terminated-by-user"): "the user terminates first",
    ("marked-for-termination", "request-canceled-and-instance-running"): "the user cancels",
    ("request-canceled-and-instance-running", "instance-terminated-by-user"): (
        "the instance has ended"
    ),
    ("request-canceled-and-instance-running", "instance-terminated-no-capacity"): (
        "the instance is interrupted"
    ),
    ("instance-stopped-by-user", "instance-terminated-by-user"): "the user terminates or cancels",
}

INSTANCE_MOVES: Mapping[tuple[str, str], str] = {
    ("", "pending"): "launched",
    ("pending", "running"): "booted",
    ("pending", "shutting-down"): "terminated while booting",
    ("running", "shutting-down"): "terminated by the user, the guest or the market",
    ("running", "stopping"): "the guest shuts down, in the form where that stops it",
    ("stopping", "stopped"): "it has stopped",
    ("stopping", "shutting-down"): "terminated by the user",
    ("stopped", "shutting-down"): "terminated by the user, or its request was cancelled",
    ("shutting-down", "terminated"): "it has ended",
}
