"""How much one call asks for, how long it may take, and what each kind of thing is surveyed for."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from botocore.exceptions import EndpointConnectionError

from spotlib.collect.answers import Answers, describe_types
from spotlib.collect.free_vcpus import free_vcpus_of
from spotlib.collect.quotas import quota_of
from spotlib.ec2.caller import Caller, Memory
from spotlib.ec2.clock import ScaledClock, SystemClock
from spotlib.ec2.connection import Connection
from spotlib.ec2.console import read_console
from spotlib.ec2.fleets import FLEETS, see_fleets
from spotlib.ec2.foreign import finds_by_request
from spotlib.ec2.instances import INSTANCES, see_instances, terminate
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES
from spotlib.ec2.methods.registry import METHODS
from spotlib.ec2.poll import Known, Seen
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import NOT_DESCRIBED, Resource, Survey
from spotlib.ec2.spot_requests import SPOT_REQUESTS, cancel, see_requests
from spotlib.model import Kind

NOTHING = {
    "ResponseMetadata": {"HTTPHeaders": {}},
    "FleetId": "fleet-1",
    "Fleets": [],
    "InstanceStatuses": [],
    "InstanceTypes": [],
    "Quotas": [],
    "Reservations": [],
    "SpotInstanceRequests": [],
}


class Noting(Caller):
    """An EC2 that has nothing, and notes what is asked of it."""

    foreign, clock = False, SystemClock()

    def __init__(self):
        self.memory, self.asked = Memory(), []

    def server_utc(self):
        return datetime(2026, 1, 1, tzinfo=UTC)

    def region_names(self, region, service="ec2"):
        return [region, service]

    def call(self, _, action, /, **given):
        self.asked.append((action, given))
        return NOTHING


def ask_checks(there, _, ids):
    seen = Seen(there, "x")
    seen.instances = {each: {"InstanceId": each, "State": {"Name": "running"}} for each in ids}
    seen.ask_checks()


def watch(there, _, ids):
    see_instances(Seen(there, "x"), "", ids)


def watch_fleets(there, _, ids):
    known = {f"{each}#1": Known("0") for each in ids}
    see_fleets(Seen(there, "x", known), "b/0", [*known])


def names_in(given):
    """What a call names: by a filter, as a list, or one thing alone."""
    if "Filters" in given:
        return given["Filters"][0]["Values"]
    [found] = [each for each in given.values() if not isinstance(each, bool)]
    return [found] if isinstance(found, str) else found


@pytest.mark.parametrize(
    ("ask", "action", "most"),
    [
        (terminate, "terminate_instances", 500),
        (cancel, "cancel_spot_instance_requests", 200),
        (FLEETS.end, "delete_fleets", 100),
        (LAUNCH_TEMPLATES.end, "delete_launch_template", 1),
        (watch, "describe_instances", 200),
        (watch_fleets, "describe_fleets", 100),
        (ask_checks, "describe_instance_status", 100),
        (
            lambda there, region, ids: describe_types(Answers(there), region, set(ids)),
            "describe_instance_types",
            100,
        ),
    ],
)
def test_a_call_names_as_many_things_as_ec2_takes_and_no_more(ask, action, most):
    there, ids = Noting(), [f"id-{number:04}" for number in range(most + 1)]

    ask(there, "x", ids[:-1])
    ask(there, "x", ids)

    found = [names_in(given) for what, given in there.asked if what == action]
    assert [len(each) for each in found] == [most, most, 1]
    assert found[0] == found[1] == ids[:-1]


def test_what_is_listed_is_listed_in_the_largest_pages_that_ec2_gives():
    there = Noting()
    there.call = lambda _, action, /, **given: (
        there.asked.append((action, given))
        or NOTHING | {"Quotas": [{"QuotaCode": "L-34B43A08", "Value": 5.0}]}
    )
    seen = Seen(there, "x", {"fleet-1#1": Known("0")})

    watch(there, "x", ["i-1"])
    see_requests(seen, "b/0", ["sir-1"])
    see_fleets(seen, "b/0", ["fleet-1#1"])
    for each in (FLEETS, INSTANCES, SPOT_REQUESTS):
        each.survey(there, "x", batch_id="b", ids=())
    assert free_vcpus_of(Answers(there), "x", {quota_of("t3.nano")})

    sizes = [given["MaxResults"] for _, given in there.asked if "MaxResults" in given]
    assert sizes == [1000] * len(sizes)
    assert len(sizes) == 8


def test_what_is_only_read_is_given_up_soon_and_what_acts_is_waited_for():
    there = Noting()

    list(there.pages("x", "describe_fleets", "Fleets"))
    list(Seen(there, "x").replies("describe_instances"))
    read_console(there, "x", "i-1", latest=False)
    there.foreign = True
    finds_by_request(there, "x")
    assert [given["quick"] for _, given in there.asked] == [True] * 4

    class Away(Connection):
        waits_s = []

        def _new_client(self, service, region, read_s):
            self.waits_s.append(read_s)
            raise EndpointConnectionError(endpoint_url="x")

    for given in ({}, {"quick": False}, {"quick": True}):
        with pytest.raises(Refusal):
            Away("aws", SystemClock(), object).call("x", "run_instances", **given)
    assert Away.waits_s == [20, 20, 5]


@pytest.mark.parametrize(
    ("url", "clock", "read_s", "proxies"),
    [
        (None, SystemClock(), 5, None),
        ("http://127.0.0.1:9", SystemClock(), 5, {}),  # a proxy does not reach it
        ("http://localhost:9", SystemClock(), 5, {}),
        ("http://10.0.0.1:9", SystemClock(), 5, None),
        ("http://127.0.0.1:9", ScaledClock(speed=2.0, utc=datetime(2026, 1, 1, tzinfo=UTC)), 5, {}),
        ("http://127.0.0.1:9", SimpleNamespace(inline=True), 120, {}),  # virtual time
    ],
)
def test_a_client_makes_one_attempt_and_asks_no_proxy_for_this_machine(url, clock, read_s, proxies):
    session = SimpleNamespace(client=lambda service, **given: given | {"service": service})
    made = Connection("http://x", clock, lambda: session, url=url)._client("sqs", "eu-west-1", 5)

    config = made.pop("config")
    assert made == {"service": "sqs", "region_name": "eu-west-1", "endpoint_url": url}
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}
    assert (config.connect_timeout, config.read_timeout) == (3, read_s)
    assert config.proxies == proxies
    assert config.ignore_configured_endpoint_urls is True


def test_in_a_market_of_this_process_a_client_is_handed_over_and_waits_as_for_aws():
    handed = []
    session = SimpleNamespace(client=lambda _, **given: given)
    there = Connection(
        "sandbox", SimpleNamespace(inline=True), lambda: session, attach=handed.append
    )

    client = there._client("ec2", "x", 20)

    assert handed == [client]
    assert client["config"].read_timeout == 20


@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        (FLEETS, timedelta(days=2)),
        (SPOT_REQUESTS, timedelta(hours=4)),
        (INSTANCES, timedelta(hours=1)),
    ],
)
def test_what_is_not_listed_is_believed_gone_only_when_ec2_would_still_list_it(kind, longest):
    """With a margin: EC2 says how long it lists what has ended, and others may list it shorter."""
    assert longest / 4 <= kind.listed_for < longest
    assert LAUNCH_TEMPLATES.listed_for == timedelta(0)  # it is deleted, and then it is gone


def test_only_what_some_methods_make_needs_a_permission_of_its_own():
    assert [each.special for each in (FLEETS, LAUNCH_TEMPLATES)] == [True, True]
    assert [each.special for each in (SPOT_REQUESTS, INSTANCES)] == [False, False]
    born_tagged = {name for name, method in METHODS.items() if method.tags_at_birth}
    assert born_tagged == METHODS.keys() - {"request_spot_instances"}


OPEN, ALIVE = {"sir-1": "open"}, {"i-1": "running"}


@pytest.mark.parametrize(
    ("survey", "idle", "quiet"),
    [
        (Survey({"sir-1": "closed"}, {"i-1": "terminated"}, frozenset()), True, True),
        (Survey({}, {}, frozenset({"sir-2"})), True, False),
        (Survey(OPEN, {}, frozenset()), False, False),
        (Survey({}, ALIVE, frozenset()), False, False),
        (Survey({}, {"i-1": NOT_DESCRIBED}, frozenset()), False, False),
        (Survey({}, {}, frozenset(), "EC2 is busy"), False, False),
        (Survey(OPEN, ALIVE, frozenset({"sir-2"}), "EC2 is busy"), False, False),
    ],
)
def test_all_is_quiet_only_if_nothing_is_open_alive_unaccounted_for_or_unread(survey, idle, quiet):
    assert (survey.idle, survey.quiet) == (idle, quiet)


def test_surveys_are_joined_so_that_nothing_that_one_of_them_knows_is_lost():
    undescribed = Survey(OPEN, {"i-1": NOT_DESCRIBED, "i-2": NOT_DESCRIBED}, frozenset({"a"}))
    described = Survey(
        {"fleet-1": "active"}, {"i-1": "running", "i-3": "zombie"}, frozenset({"b"}), "busy"
    )
    over = Survey({}, {}, frozenset(), "late", frozenset({"c"}))

    for parts in ([undescribed, described, over], [described, undescribed, over]):
        assert Survey.joined(parts) == Survey(
            OPEN | {"fleet-1": "active"},
            {"i-1": "running", "i-2": NOT_DESCRIBED, "i-3": "zombie"},
            frozenset({"a", "b"}),
            "busy",
            frozenset({"c"}),
        )


def things(*tags):
    """A kind of things of which some carry these tags."""
    listed = [
        (f"x-{number}", {"Tags": [{"Key": key, "Value": each[key]} for key in each]})
        for number, each in enumerate(tags)
    ]
    asked = []

    def tagged(_, __, wanted):
        asked.append(wanted)
        return listed

    named = {"prefix": "x-", "survey": None, "end": None, "commands": None, "dry_run": None}
    return Resource(**named, tagged=tagged, listed_for=timedelta(0)), asked


def test_ours_is_what_carries_our_tag_whatever_else_is_listed():
    tags = {"spotlib:batch": "a", "spotlib:round": "a/3", "spotlib:plan": "2"}
    odd = {"spotlib:batch": "b", "spotlib:round": "b/x", "spotlib:plan": "", "spotlib:expires": ""}
    expires = {"spotlib:expires": "2026-01-01T00:00:00+00:00"}
    kind, asked = things(tags | expires, odd, {"Name": "web"}, {"spotlib:batch": "a"} | expires)

    everything = list(kind.find_ours(None, "x", None))
    of_a = list(kind.find_ours(None, "x", "a"))

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    first, second, third = everything
    assert vars(first) == {
        **{"thing_id": "x-0", "batch_id": "a", "round": 3, "plan": 2, "expires_at": moment}
    }
    assert vars(second) == {
        **{"thing_id": "x-1", "batch_id": "b", "round": None, "plan": None, "expires_at": None}
    }
    assert (third.thing_id, third.round, third.expires_at) == ("x-3", None, moment)
    assert of_a == [first, third]
    assert asked == [
        {"Name": "tag-key", "Values": ["spotlib:batch"]},
        {"Name": "tag:spotlib:batch", "Values": ["a"]},
    ]


@pytest.mark.parametrize("words", ["2026-01-01T00:00:00", "soon", ""])
def test_an_expiry_that_somebody_edited_is_unknown(words):
    kind, _ = things({"spotlib:batch": "a", "spotlib:expires": words})

    assert [each.expires_at for each in kind.find_ours(None, "x", None)] == [None]


class Refusing(Noting):
    """Refuses every call."""

    def call(self, region, action, /, **_):
        about = {"kind": Kind.SERVER, "advice": "later", "action": action, "region": region}
        raise Refusal("InternalError", "m", **about)


@pytest.mark.parametrize("kind", [FLEETS, SPOT_REQUESTS, LAUNCH_TEMPLATES, INSTANCES])
def test_a_survey_that_is_refused_proves_nothing_and_says_so(kind):
    survey = kind.survey(Refusing(), "x", batch_id="b", ids=[f"{kind.prefix}1"])

    assert survey.error.startswith("describe_")
    assert "InternalError (m)" in survey.error
    assert not survey.quiet
    assert (survey.requests, survey.instances, survey.over) == ({}, {}, frozenset())
