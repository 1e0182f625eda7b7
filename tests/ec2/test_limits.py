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
from spotlib.ec2.foreign import (
    finds_by_request,
    forgotten,
    instance_filter,
    remember,
    request_of,
)
from spotlib.ec2.instances import INSTANCES, see_instances, terminate
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES, make
from spotlib.ec2.methods.registry import METHODS
from spotlib.ec2.poll import Known, Seen, sighting_of
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import NOT_DESCRIBED, Resource, Survey
from spotlib.ec2.spot_requests import SPOT_REQUESTS, cancel, see_requests
from spotlib.ec2.survey import end_things, survey
from spotlib.model import Kind

NOTHING = {
    "ResponseMetadata": {"HTTPHeaders": {}},
    "FleetId": "fleet-1",
    "Fleets": [],
    "InstanceStatuses": [],
    "InstanceTypes": [],
    "LaunchTemplates": [],
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

    waits_s, away = [], Connection("aws", SystemClock(), object)

    def new_client(_, __, read_s):
        waits_s.append(read_s)
        raise EndpointConnectionError(endpoint_url="x")

    away._new_client = new_client
    for given in ({}, {"quick": False}, {"quick": True}):
        with pytest.raises(Refusal):
            away.call("x", "run_instances", **given)
    assert waits_s == [20, 20, 5]


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
    made = Connection("http://x", clock, lambda: session, url=url)._client("events", "eu-west-1", 5)

    config = made.pop("config")
    assert made == {"service": "events", "region_name": "eu-west-1", "endpoint_url": url}
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


def listed_as(kind, name, batch=None, state="active"):
    """A thing as EC2 lists it."""
    key = {
        FLEETS: "FleetId",
        SPOT_REQUESTS: "SpotInstanceRequestId",
        LAUNCH_TEMPLATES: "LaunchTemplateId",
        INSTANCES: "InstanceId",
    }[kind]
    tags = [] if batch is None else [{"Key": "spotlib:batch", "Value": batch}]
    states = {"State": {"Name": state}} if kind is INSTANCES else {"State": state}
    return {key: name, "Tags": tags, "FleetState": state, **states}


class Listing(Noting):
    """An EC2 that lists the same things of a kind whatever it is asked."""

    def __init__(self, kind, *things):
        super().__init__()
        key = {FLEETS: "Fleets", SPOT_REQUESTS: "SpotInstanceRequests"}.get(kind, "LaunchTemplates")
        self.things = {key: list(things)}
        if kind is INSTANCES:
            self.things = {"Reservations": [{"Instances": list(things)}]}

    def call(self, _, action, /, **given):
        self.asked.append((action, given))
        return NOTHING | self.things


KINDS = pytest.mark.parametrize("kind", [FLEETS, SPOT_REQUESTS, LAUNCH_TEMPLATES, INSTANCES])


@KINDS
def test_ours_is_what_is_named_to_us_or_carries_the_batchs_tag_whatever_is_listed(kind):
    names = [f"{kind.prefix}{number}" for number in range(1, 6)]
    batches = [None, "b", "a", "c", None]
    there = Listing(kind, *(listed_as(kind, *each) for each in zip(names, batches, strict=True)))

    def found(batch_id, *ids):
        survey = kind.survey(there, "x", batch_id=batch_id, ids=ids)
        assert survey.error is None
        if kind is not LAUNCH_TEMPLATES:  # one that is not listed is gone
            lacking = {each for each in ids if each not in names}
            assert survey.missing == lacking
        return survey.requests.keys() | survey.instances.keys()

    assert found("b", names[0], f"{kind.prefix}9") == set(names[:2])
    assert found("b") == {names[1]}
    assert found(None, names[0], names[2]) == {names[0], names[2]}
    there.memory.owners.clear()
    there.asked.clear()
    assert found(None) == set()
    assert kind is FLEETS or there.asked == []  # fleets are listed all, by no filter
    if kind is INSTANCES:
        found("b", names[0], names[2])
        assert there.memory.owners == {names[1]: "b", names[2]: "a"}


@pytest.mark.parametrize(
    ("kind", "over"),
    [(FLEETS, {"deleted"}), (INSTANCES, {"shutting-down", "terminated"})],
)
def test_what_is_over_is_what_was_seen_to_have_ended_for_good(kind, over):
    states = ["active", "deleted", "deleted_running", "running", "shutting-down", "terminated", "z"]
    names = {state: f"{kind.prefix}{state}" for state in states}
    there = Listing(kind, *(listed_as(kind, name, None, state) for state, name in names.items()))

    survey = kind.survey(there, "x", batch_id=None, ids=[*names.values(), f"{kind.prefix}9"])

    assert survey.over == {names[each] for each in over}


def test_what_a_filter_of_launch_templates_is_depends_on_what_is_looked_for():
    there = Listing(LAUNCH_TEMPLATES)
    for batch_id, ids in (("b", ["lt-1"]), ("b", []), (None, ["lt-1"])):
        LAUNCH_TEMPLATES.survey(there, "x", batch_id=batch_id, ids=ids)

    ours = [{"Name": "tag-key", "Values": ["spotlib:batch"]}]
    of_b = [{"Name": "tag:spotlib:batch", "Values": ["b"]}]
    assert [given["Filters"] for _, given in there.asked] == [ours, of_b, of_b, ours]


@pytest.mark.parametrize(
    ("shown_at", "slept_s"), [(1, []), (3, [0.5, 1.0]), (9, [0.5, 1.0, 2.0, 4.0])]
)
def test_a_new_template_is_waited_for_until_it_is_listed_or_for_some_seconds(shown_at, slept_s):
    there = Listing(LAUNCH_TEMPLATES)
    slept, call = [], there.call
    there.clock = SimpleNamespace(inline=True, now_s=lambda: 0.0, sleep=slept.append)

    def shown(region, action, /, **given):
        looks = [what for what, _ in there.asked if what.startswith("describe")]
        there.things["LaunchTemplates"] = [{"A": 1}] if len(looks) + 1 >= shown_at else []
        return call(region, action, **given)

    there.call = shown
    make(there, "x", {"LaunchTemplateName": "spotlib-t", "ClientToken": "t"})

    made, *looks = there.asked
    given = {"LaunchTemplateName": "spotlib-t", "ClientToken": "t"}
    assert made == ("create_launch_template", given)
    assert slept == slept_s
    assert {str(each["Filters"]) for _, each in looks} == {
        str([{"Name": "launch-template-name", "Values": ["spotlib-t"]}])
    }


@KINDS
def test_what_is_left_comes_with_the_command_that_ends_it(kind):
    commands = kind.commands("--region x", [f"{kind.prefix}1", f"{kind.prefix}2"])

    ends = {
        FLEETS: ["delete-fleets --region x --terminate-instances --fleet-ids fleet-1 fleet-2"],
        INSTANCES: ["terminate-instances --region x --instance-ids i-1 i-2"],
        LAUNCH_TEMPLATES: [
            "delete-launch-template --region x --launch-template-id lt-1",
            "delete-launch-template --region x --launch-template-id lt-2",
        ],
        SPOT_REQUESTS: [
            "cancel-spot-instance-requests --region x --spot-instance-request-ids sir-1 sir-2",
            "describe-instances --region x --filters Name=spot-instance-request-id,Values=sir-1,"
            "sir-2 --query 'Reservations[].Instances[].[InstanceId,State.Name]'",
        ],
    }
    assert commands == [f"aws ec2 {each}" for each in ends[kind]]


# A poll.


def test_a_poll_counts_its_calls_page_by_page_and_keeps_the_last_date():
    pages = [
        {"ResponseMetadata": {"HTTPHeaders": {"date": "a"}}, "NextToken": "t"},
        {"ResponseMetadata": {"HTTPHeaders": {"date": "b"}}},
    ]
    there = Noting()
    there.call = lambda *_, **given: there.asked.append(given) or pages[len(there.asked) - 1]
    seen = Seen(there, "x")
    assert seen.calls == 0

    assert list(seen.replies("describe_instances", MaxResults=5)) == pages
    assert (seen.calls, seen.server_date) == (2, "b")
    assert [each.get("NextToken") for each in there.asked] == [None, "t"]


def test_status_checks_are_asked_for_of_what_runs_and_of_nothing_else():
    there = Noting()
    seen = Seen(there, "x")
    states = ["pending", "running", "stopped", "shutting-down", "terminated", "a", "z"]
    for state in states:
        seen.instances[state] = {"InstanceId": f"i-{state}", "State": {"Name": state}}
    found = {"InstanceId": "i-running", "InstanceStatus": {"Status": "ok"}, "SystemStatus": None}
    there.call = lambda *_, **given: (
        there.asked.append(given) or NOTHING | {"InstanceStatuses": [found]}
    )

    seen.ask_checks()

    assert [each["InstanceIds"] for each in there.asked] == [["i-running"]]
    assert seen.sighting("running").checks == {"instance": "ok"}
    assert seen.sighting("stopped").checks is None
    seen.requests["only"] = {"State": "open"}
    assert [seen.shows(each) for each in ("running", "only", "none")] == [True, True, False]


@pytest.mark.parametrize(
    ("request_", "instance", "shown"),
    [
        ({}, {}, {}),
        ({"InstanceId": "i-1", "State": "active"}, {}, {"instance_id": "i-1"}),
        ({"InstanceId": "i-1"}, {"InstanceId": "i-2"}, {"instance_id": "i-2"}),
        ({}, {"InstanceId": "i-2"}, {"instance_id": "i-2"}),
        (
            {"LaunchedAvailabilityZoneId": "a"},
            {"Placement": {"AvailabilityZoneId": "b"}},
            {"availability_zone_id": "a"},
        ),
        ({}, {"Placement": {"AvailabilityZoneId": "b"}}, {"availability_zone_id": "b"}),
        ({"LaunchedAvailabilityZoneId": "a"}, {}, {"availability_zone_id": "a"}),
    ],
)
def test_what_a_request_or_its_instance_says_is_shown(request_, instance, shown):
    found = sighting_of(request_, instance)

    assert found.instance_id == shown.get("instance_id")
    assert found.availability_zone_id == shown.get("availability_zone_id")
    assert found.checks is None
    assert sighting_of(request_, instance, {"i-2": {"system": "ok"}}).checks == (
        {"system": "ok"} if shown.get("instance_id") == "i-2" else None
    )


@pytest.mark.parametrize("kind", [INSTANCES, SPOT_REQUESTS])
def test_a_poll_shows_nothing_that_was_not_asked_for(kind):
    """An endpoint may ignore the filter."""
    owners = {"i-1": "sir-1", "i-2": "sir-2"}
    listed = [
        listed_as(INSTANCES, name) | {"SpotInstanceRequestId": owner}
        for name, owner in owners.items()
    ]
    seen = Seen(Listing(INSTANCES, *listed), "x")

    if kind is INSTANCES:
        see_instances(seen, "", ["i-1"])
        assert seen.instances == {"i-1": listed[0]}
    else:
        see_requests(seen, "b/0", ["sir-1"])
        assert seen.instances == {"sir-1": listed[0]}


# What several kinds share.


def test_things_are_surveyed_by_their_kinds_and_ids_whatever_kind_they_are_of():
    there = Listing(INSTANCES, listed_as(INSTANCES, "i-1", "b"))

    def actions(*resources, ids=()):
        there.asked.clear()
        found = survey(there, "x", resources=resources, batch_id="b", ids=ids)
        assert found.instances == ({"i-1": "running"} if INSTANCES in resources or ids else {})
        return [action for action, _ in there.asked]

    there.things["Reservations"][0]["Instances"][0]["State"]["Name"] = "running"
    assert actions(INSTANCES) == ["describe_instances"]
    assert set(actions(FLEETS)) == {"describe_fleets"}
    assert set(actions(FLEETS, INSTANCES)) == {"describe_fleets", "describe_instances"}
    assert set(actions(FLEETS, ids=["i-1"])) == {"describe_fleets", "describe_instances"}
    assert set(actions(ids=["i-1"])) == {"describe_instances"}


def test_each_thing_is_ended_in_the_way_of_its_kind():
    there = Noting()

    ended = end_things(there, "x", ["i-1", "sir-1", "lt-1", "i-2"])

    assert [action for action, _ in there.asked] == [
        "cancel_spot_instance_requests",
        "delete_launch_template",
        "terminate_instances",
    ]
    assert sorted(ended.ids) == ["i-1", "i-2", "lt-1", "sir-1"]
    assert ended.errors == ()
    assert there.memory.cancelled == {"sir-1"}


# Elsewhere.


@pytest.mark.parametrize(
    ("is_foreign", "over"), [(True, {"sir-1", "sir-4", "sir-9"}), (False, set())]
)
def test_only_elsewhere_a_request_may_be_forgotten_that_was_cancelled_or_has_ended(
    is_foreign, over
):
    there = Noting()
    there.foreign = is_foreign
    remember(there, [{"SpotInstanceRequestId": f"sir-{n}", "InstanceId": f"i-{n}"} for n in (1, 2)])
    remember(there, [{"SpotInstanceRequestId": "sir-3"}])
    there.memory.named |= {"i-4": "sir-4", "i-5": "sir-5"}
    there.memory.cancelled.add("sir-9")
    states = {"i-1": "terminated", "i-2": "running", "i-4": "shutting-down"}

    assert forgotten(there, states) == over
    assert there.memory.named.keys() == {"i-1", "i-2", "i-4", "i-5"}


def test_instances_are_found_by_their_request_or_by_the_ids_that_requests_name():
    there = Noting()
    there.memory.named = {"i-1": "sir-1", "i-2": "sir-2"}

    assert instance_filter(there, "x", {"sir-1": 1}) == ("spot-instance-request-id", ["sir-1"])
    assert request_of(there, {"InstanceId": "i-2"}) == "sir-2"
    assert request_of(there, {"InstanceId": "i-9"}) is None
    there.memory.finds_by_request = False
    assert instance_filter(there, "x", ["sir-1", "sir-9"]) == ("instance-id", ["i-1"])
    assert request_of(there, {"InstanceId": "i-2", "SpotInstanceRequestId": "sir-7"}) == "sir-7"
    assert there.memory.finds_by_request is False  # what is known stays


@pytest.mark.parametrize("latest", [True, False])
def test_a_console_is_read_as_it_is_now_only_if_that_is_asked_for(latest):
    there = Noting()
    reply = NOTHING | {"Output": "words", "ResponseMetadata": {"HTTPHeaders": {"date": "d"}}}
    there.call = lambda _, action, /, **given: there.asked.append((action, given)) or reply

    read = read_console(there, "x", "i-1", latest=latest)

    [(action, given)] = there.asked
    assert action == "get_console_output"
    assert given == {"InstanceId": "i-1", "quick": True} | ({"Latest": True} if latest else {})
    assert (read.output, read.server_date, read.error, read.stamp) == ("words", "d", None, None)
    there.call = lambda *_, **__: NOTHING
    assert read_console(there, "x", "i-1", latest=latest).output == ""
    refused = Refusing()
    assert read_console(refused, "x", "i-1", latest=latest).error == "InternalError: m"


@pytest.mark.parametrize(
    ("kind", "shown", "asked", "finds"),
    [
        (Kind.UNKNOWN, [], 3, False),  # refused twice, and another filter is answered
        (None, [{"Instances": []}], 1, False),  # ignored
        (None, [], 1, True),
        (Kind.THROTTLED, [], 1, None),
    ],
)
def test_a_filter_that_may_be_lacking_is_asked_for_twice_and_then_another(
    kind, shown, asked, finds
):
    there = Noting()
    there.foreign = True

    def call(region, action, /, *, quick, Filters):
        [named] = Filters
        there.asked.append((named["Name"], named["Values"], quick))
        if named["Name"] == "spot-instance-request-id" and kind is not None:
            raise Refusal("No", "m", kind=kind, advice="", action=action, region=region)
        return {"Reservations": shown}

    there.call = call
    if finds is None:
        with pytest.raises(Refusal):
            finds_by_request(there, "x")
    else:
        assert finds_by_request(there, "x") is finds

    by_request = ("spot-instance-request-id", ["sir-00000000"], True)
    by_id = ("instance-id", ["i-00000000000000000"], True)
    assert there.asked == ([by_request] * 2 + [by_id])[:asked]
    assert there.memory.finds_by_request is (False if finds is False else None)
