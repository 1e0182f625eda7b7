"""A call that nobody measures is made again after an error that passes, for a while."""

import pickle

import pytest
from conftest import NANO, scripted

from spotlib.ec2.clock import VirtualClock
from spotlib.ec2.connection import Connection
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind
from spotlib.sandbox.clock import VirtualTime
from spotlib.sandbox.faults import Fault, fail

REGION = NANO.region


@pytest.fixture
def struck(in_process):
    """A world, and a patient caller to whom it answered once before the faults began."""

    def build(*faults, reached=True, **settings):
        world = scripted()
        connection = in_process(world)
        if reached:
            connection.call(REGION, "describe_regions")
        world.faults += faults
        return world, Patient(connection, **settings)

    return build


class RealClock(VirtualClock):
    """Like a machine's clock, on which clients draw their pauses; it notes them."""

    inline = False

    def __init__(self):
        self.world = VirtualTime()
        self.pauses_s = []

    def now_s(self):
        return self.world.now_s

    def sleep(self, seconds):
        self.pauses_s.append(seconds)
        self.world.advance(seconds)


class Failing(Connection):
    """A connection on which every call fails at once."""

    kind = Kind.THROTTLED

    def call(self, region, action, /, **_):
        raise Refusal("Busy", "m", kind=self.kind, advice="a", action=action, region=region)


def test_the_pauses_grow_are_drawn_and_end_after_a_minute():
    drawn = []
    for _ in range(2):
        clock = RealClock()
        with pytest.raises(Refusal, match=r"Busy \(m\) after \d+ attempts in \d+ s: a"):
            Patient(Failing("aws", clock, object)).call(REGION, "describe_vpcs")
        drawn.append(clock.pauses_s)
        ceilings = [1.0, 2.0, 4.0, 8.0, *[16.0] * 9][: len(clock.pauses_s)]
        assert all(c / 2 <= p <= c for p, c in zip(clock.pauses_s, ceilings, strict=True))
        assert 40.0 < sum(clock.pauses_s) <= 60.0

    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UnauthorizedOperation", Kind.PERMISSION),
        ("InvalidInstanceID.NotFound", Kind.NOT_FOUND),
        ("InsufficientInstanceCapacity", Kind.CAPACITY),
    ],
)
def test_what_does_not_pass_is_refused_at_once(struck, code, kind):
    world, patient = struck(fail("DescribeVpcs", 1, code))

    with pytest.raises(Refusal) as caught:
        patient.call(REGION, "describe_vpcs")

    assert caught.value.kind is kind
    assert "attempts" not in str(caught.value)
    assert len(world.fired) == 1


@pytest.mark.parametrize("kind", ["refused", "dns", "cut_off", "malformed"])
def test_an_endpoint_that_never_answered_is_given_up_within_seconds(struck, kind):
    """Somebody offline, or a typing error in the port; but a slow answer is waited for."""
    world, patient = struck(Fault(kind=kind), reached=False)
    _, slowly = struck(*[Fault(kind="slow", nth=1, seconds=30.0)] * 2, reached=False)

    with pytest.raises(Refusal, match=r"after 3 attempts in \d s"):
        patient.call(REGION, "describe_vpcs")

    assert world.now_s < 6.0
    assert slowly.call(REGION, "describe_vpcs")["Vpcs"]


@pytest.mark.parametrize(
    ("endpoint", "kind", "waits"),
    [
        ("http://127.0.0.1:9", Kind.SERVER, False),
        ("http://127.0.0.1:9", Kind.UNREACHABLE, False),
        ("http://127.0.0.1:9", Kind.THROTTLED, True),
        ("aws", Kind.SERVER, True),
    ],
)
def test_what_another_program_may_lack_is_given_up_within_seconds(endpoint, kind, waits):
    """It answers as if it had failed, such as moto where an action is not written yet."""
    connection = Failing(endpoint, RealClock(), None, reached=True)
    connection.kind = kind

    with pytest.raises(Refusal):
        Patient(connection).call(REGION, "describe_vpcs")

    assert (connection.clock.now_s() > 20.0) is waits
    assert len(connection.clock.pauses_s) >= 2


@pytest.mark.parametrize(("drawn", "attempts"), [(0.57, 4), (0.58, 3)])
def test_what_is_hopeless_is_tried_three_times_and_for_four_seconds(drawn, attempts):
    """The pauses are so much of 1, 2 and 4 s: 3.99 s are within 4 s, and 4.06 s are not."""
    connection = Failing("http://127.0.0.1:9", RealClock(), None, reached=True)
    connection.kind = Kind.SERVER
    patient = Patient(connection)
    patient._chance.uniform = lambda *_: drawn

    with pytest.raises(Refusal) as caught:
        patient.call(REGION, "describe_vpcs")
    assert caught.value.attempts == attempts


def test_one_that_has_answered_is_waited_for(struck):
    world, patient = struck(Fault(kind="refused", to_s=40.0))

    assert patient.call(REGION, "describe_vpcs")["Vpcs"]
    assert len(world.fired) > 4


def test_a_place_that_failed_for_good_keeps_nobody_waiting_again_until_it_answers(struck):
    world, patient = struck(Fault(kind="throttled", region=REGION, to_s=100.0), most_s=20.0)

    def attempts():
        before = len(world.fired)
        with pytest.raises(Refusal):
            patient.call(REGION, "describe_vpcs")
        return len(world.fired) - before

    first, again = attempts(), attempts()
    patient.call("us-east-1", "describe_vpcs")
    world.advance(100.0)
    patient.call(REGION, "describe_vpcs")
    world.faults.append(Fault(kind="throttled", region=REGION))

    assert first > 3
    assert again == 1
    assert attempts() == first


def test_a_json_answer_that_cannot_be_read_is_a_lost_answer(struck):
    """botocore makes an empty answer of it, which must not be read as a missing value."""
    world, patient = struck(Fault(kind="malformed", action="GetParameters", nth=1))
    given = {"service": "ssm", "Names": ["/aws/service/x"]}

    with pytest.raises(Refusal, match="GarbledAnswer") as caught:
        patient.connection.call(REGION, "get_parameters", **given)
    world.faults.append(Fault(kind="malformed", action="GetParameters", nth=1))
    reply = patient.call(REGION, "get_parameters", **given)

    assert caught.value.kind is Kind.UNREACHABLE
    assert caught.value.maybe_done
    assert reply["InvalidParameters"] == ["/aws/service/x"]
    assert len(world.fired) == 2


def test_a_member_that_an_answer_lacks_is_named(struck):
    _, patient = struck()
    reply = patient.call("us-east-1", "get_caller_identity", service="sts")

    with pytest.raises(Refusal, match="the answer has no Parameters"):
        reply["Parameters"]


def test_a_member_that_a_part_of_an_answer_lacks_is_named_too(struck):
    _, patient = struck()
    reply = patient.call(REGION, "describe_regions")
    copied = pickle.loads(pickle.dumps(reply))

    for [region, *_] in (reply["Regions"], copied["Regions"]):
        assert region.get("Price") is None
        assert "Price" not in {**region}
        with pytest.raises(Refusal, match=f"describe_regions in {REGION}.* has no Price"):
            region["Price"]
    assert copied == reply


def test_an_unreadable_page_is_one_sentence_without_the_page(struck):
    _, patient = struck(Fault(kind="malformed", action="DescribeVpcs"))

    with pytest.raises(Refusal) as caught:
        patient.connection.call(REGION, "describe_vpcs")

    assert "cannot be read" in str(caught.value)
    assert "<" not in str(caught.value)


def test_a_pause_is_at_least_half_of_what_doubles_up_to_sixteen_seconds():
    connection, bounds = Failing("aws", RealClock(), None, reached=True), []
    patient = Patient(connection)
    patient._chance.uniform = lambda *given: bounds.append(given) or 1.0

    with pytest.raises(Refusal) as caught:
        patient.call(REGION, "describe_vpcs")

    assert connection.clock.pauses_s == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]
    assert set(bounds) == {(0.5, 1.0)}
    assert (caught.value.attempts, caught.value.tried_s) == (7, 47.0)


@pytest.mark.parametrize(
    ("endpoint", "kind", "reached", "hopeless"),
    [
        ("aws", Kind.UNREACHABLE, False, True),
        ("aws", Kind.UNREACHABLE, True, False),
        ("aws", Kind.SERVER, False, False),
        ("http://127.0.0.1:9", Kind.THROTTLED, True, False),
        ("http://127.0.0.1:9", Kind.THROTTLED, False, False),
        ("http://127.0.0.1:9", Kind.SERVER, True, True),
    ],
)
def test_a_call_is_hopeless_if_nothing_was_reached_or_another_program_may_lack_it(
    endpoint, kind, reached, hopeless
):
    connection = Failing(endpoint, RealClock(), None, reached=reached)
    connection.kind = kind
    patient = Patient(connection)
    patient._chance.uniform = lambda *_: 1.0

    with pytest.raises(Refusal) as caught:
        patient.call(REGION, "describe_vpcs")

    assert caught.value.attempts == (3 if hopeless else 7)
    lacks = hopeless and endpoint != "aws"
    assert (caught.value.advice == "this endpoint may lack the call") is lacks
    with pytest.raises(Refusal) as caught:
        Patient(connection, most_s=2.0).call(REGION, "describe_vpcs")
    assert caught.value.tried_s <= 2.0
