"""What is left of spot requests: only what is ours, and over only what launches nothing more."""

from datetime import UTC, datetime, timedelta

import pytest

from spotlib.ec2.caller import Caller, Memory
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import NOT_DESCRIBED
from spotlib.ec2.spot_requests import SPOT_REQUESTS
from spotlib.model import Kind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = "spotlib:batch"


class Account(Caller):
    """An EC2 that shows all it has, whatever the filter, or refuses an action from a call on."""

    foreign = False

    def __init__(self, requests=(), instances=(), *, refused_from=None):
        self.memory = Memory()
        self._has = {
            "describe_spot_instance_requests": {"SpotInstanceRequests": list(requests)},
            "describe_instances": {"Reservations": [{"Instances": list(instances)}]},
        }
        self._refused_from = refused_from or {}
        self.asked = []

    def server_utc(self):
        return NOW

    def region_names(self, region, _="ec2"):
        return [region]

    def call(self, region, action, /, **_):
        self.asked.append(action)
        if self.asked.count(action) >= self._refused_from.get(action, 1000):
            about = {"kind": Kind.SERVER, "advice": "", "action": action, "region": region}
            raise Refusal("InternalError", "", **about)
        return self._has[action]


def request(name, state="active", *, code="", minutes=0.0, **more):
    changed_at = NOW - timedelta(minutes=minutes)
    status = {"Code": code, "UpdateTime": changed_at}
    return {"SpotInstanceRequestId": name, "State": state, "Status": status} | more


def instance(name, owner=None, state="running"):
    named = {} if owner is None else {"SpotInstanceRequestId": owner}
    return {"InstanceId": name, "State": {"Name": state}} | named


def left(account, *ids, batch_id=None):
    return SPOT_REQUESTS.survey(account, "us-east-1", batch_id=batch_id, ids=ids)


def test_what_an_endpoint_shows_without_having_been_asked_for_it_is_not_ours():
    """Found by request is the first instance, by its id the second; others have the rest."""
    account = Account(
        [request("sir-1"), request("sir-2", InstanceId="i-2"), request("sir-9", InstanceId="i-9")],
        [instance("i-1", "sir-1"), instance("i-2"), instance("i-9", "sir-9"), instance("i-8")],
    )

    survey = left(account, "sir-1", "sir-2")

    assert survey.requests == {"sir-1": "active", "sir-2": "active"}
    assert survey.instances == {"i-1": "running", "i-2": "running"}


def test_a_batch_has_the_requests_that_carry_its_tag_and_those_named_to_it():
    tags = {name: [{"Key": BATCH, "Value": name}] for name in ("a", "b")}
    account = Account(
        [
            request("sir-1"),
            request("sir-2", Tags=tags["a"]),
            request("sir-3", Tags=tags["b"]),
            request("sir-4"),
        ],
        [instance("i-2", "sir-2"), instance("i-3", "sir-3"), instance("i-4", "sir-4")],
    )

    survey = left(account, "sir-1", "sir-5", batch_id="a")

    assert set(survey.requests) == {"sir-1", "sir-2"}
    assert set(survey.instances) == {"i-2"}
    assert survey.missing == {"sir-5"}
    assert left(account, "sir-1").requests == {"sir-1": "active"}  # no batch is not every batch


@pytest.mark.parametrize(
    ("state", "code", "instances"),
    [
        ("active", "fulfilled", {"i-1": NOT_DESCRIBED}),
        ("cancelled", "request-canceled-and-instance-running", {"i-1": NOT_DESCRIBED}),
        ("cancelled", "instance-terminated-by-user", {}),
        ("closed", "a-code-of-tomorrow", {}),
        ("failed", "a-code-of-tomorrow", {}),
    ],
)
def test_an_instance_that_a_request_names_is_ours_until_the_request_says_that_it_ended(
    state, code, instances
):
    account = Account([request("sir-1", state, code=code, minutes=60, InstanceId="i-1")])
    survey = left(account, "sir-1")

    assert survey.instances == instances
    assert survey.over == (set() if instances else {"sir-1"})


@pytest.mark.parametrize(
    ("state", "minutes", "instances", "over"),
    [
        ("cancelled", 9.9, [], False),
        ("cancelled", 10.0, [], True),
        ("open", 60.0, [], False),
        ("closed", 0.0, [instance("i-1", "sir-1", "terminated")], True),
        ("closed", 60.0, [instance("i-1", "sir-1", "stopped")], False),
        (
            *("closed", 60.0),
            [instance("i-1", "sir-1", "terminated"), instance("i-2", "sir-1", "running")],
            False,
        ),
    ],
)
def test_a_request_is_over_when_its_instance_has_ended_or_none_can_be_on_its_way(
    state, minutes, instances, over
):
    account = Account([request("sir-1", state, minutes=minutes)], instances)

    assert left(account, "sir-1").over == ({"sir-1"} if over else set())


def test_a_request_that_does_not_say_since_when_it_has_ended_is_not_over():
    ended = request("sir-1", "cancelled") | {"Status": {}}

    assert left(Account([ended]), "sir-1").over == set()


@pytest.mark.parametrize(
    "refused_from",
    [
        {"describe_instances": 1},
        {"describe_instances": 2},
        {"describe_spot_instance_requests": 2},
    ],
)
def test_what_cannot_be_read_proves_nothing_over_and_keeps_what_was_found(refused_from):
    tagged = [{"Key": BATCH, "Value": "a"}]
    ended = request("sir-1", "closed", minutes=60, InstanceId="i-1", Tags=tagged)
    survey = left(Account([ended], refused_from=refused_from), "sir-1", batch_id="a")

    assert survey.requests == {"sir-1": "closed"}
    unread = "describe_instances" in refused_from
    assert survey.instances == ({"i-1": NOT_DESCRIBED} if unread else {})
    assert survey.over == set()
    assert "InternalError" in survey.error
