"""Another program that answers for EC2, such as moto: what it may lack, and how we work without it.

EC2 finds instances by their request, and lists an ended request for hours.  Other programs may do
neither.  Then an instance is found by its id, which its request names, and a request that is not
listed is no longer expected if it was cancelled or its instance has ended.  Nothing here depends on
an error code: each program has its own.  Amazon's endpoint and the sandbox are not judged by these
rules.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind
from spotlib.track import GONE_STATES

_BY_REQUEST = "spot-instance-request-id"


def finds_by_request(connection: Caller, region: str) -> bool:
    """Whether instances are found by their request's id, as far as is known.

    The question is asked until an answer decides it.  The program may refuse the filter: it does so
    twice, and answers the same call with another filter.  Or it may ignore the filter: then it
    finds instances for a request that does not exist.  As long as there are no instances, neither
    may show.

    Raises
    ------
    Refusal
        If no such call is answered.
    """
    memory = connection.memory
    if connection.foreign and memory.finds_by_request is None and not _may_find(connection, region):
        memory.finds_by_request = False
    return memory.finds_by_request is not False


def _may_find(connection: Caller, region: str) -> bool:
    ask = partial(connection.call, region, "describe_instances", quick=True)
    for _ in range(2):
        try:
            nobody = [{"Name": _BY_REQUEST, "Values": ["sir-00000000"]}]
            return not ask(Filters=nobody)["Reservations"]
        except Refusal as refusal:
            if refusal.kind is Kind.THROTTLED:
                raise
    ask(Filters=[{"Name": "instance-id", "Values": ["i-00000000000000000"]}])
    return False


def remember(connection: Caller, requests: Iterable[Mapping[str, Any]]) -> None:
    """Keep the instance that each request names: after its end it may not be listed any more."""
    connection.memory.named |= {
        each["InstanceId"]: each["SpotInstanceRequestId"]
        for each in requests
        if each.get("InstanceId")
    }


def instance_filter(
    connection: Caller, region: str, request_ids: Collection[str]
) -> tuple[str, list[str]]:
    """Return the name and the values of the filter that finds the instances of requests."""
    if finds_by_request(connection, region):
        return _BY_REQUEST, list(request_ids)
    wanted, named = set(request_ids), connection.memory.named
    return "instance-id", [each for each, request_id in named.items() if request_id in wanted]


def request_of(connection: Caller, instance: Mapping[str, Any]) -> str | None:
    """Return the request that an instance names, or that has named it."""
    memory = connection.memory
    if "SpotInstanceRequestId" not in instance:
        return memory.named.get(instance["InstanceId"])
    if memory.finds_by_request is None:
        memory.finds_by_request = True
    return str(instance["SpotInstanceRequestId"])


def forgotten(connection: Caller, instances: Mapping[str, str]) -> set[str]:
    """Return the requests that need not be listed, from the states of the instances found."""
    if not connection.foreign:
        return set()
    named = connection.memory.named
    ended = {named[each] for each in named if instances.get(each) in GONE_STATES}
    return connection.memory.cancelled | ended
