"""EC2's events of instances: which there are, and how EventBridge brings them into a queue."""

import copy
import json
from statistics import median

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox import event_api, events, patterns, queue_api
from spotlib.sandbox.company import Neighbours, crowd, move_in
from spotlib.sandbox.market import Market
from spotlib.sandbox.world import Delivery, Fate, World

from .listening import (
    FULFILLED,
    PATTERN,
    REBALANCE,
    STATE,
    WARNING,
    allowing,
    arn,
    heard,
    listen,
    perfect,
    received,
    said,
    sent_s,
)

REGION = "us-east-1"
# Ours, although no call asked for them; the tight market interrupts them within two days.
OURS = Neighbours(region=REGION, count=10, instance_type="c5.xlarge", owner="", fate=None)
QUICK = Fate(evaluate_s=0.5, in_flight_s=0.5, boot_s=2.0, ok_s=5.0)


def refusal(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


def what(event):
    return event["detail"].get("state", event["detail-type"])


# What happens to an instance.


def test_each_event_of_an_instance_says_when_it_happened_in_whole_seconds(make_account):
    account = make_account(events=perfect())
    url = listen(account)
    ids = account.request(2)
    account.until(lambda: account.states(ids) == ["running"] * 2)
    instances = [each["InstanceId"] for each in account.instances(ids)]
    account.ec2.terminate_instances(InstanceIds=instances)
    account.world.advance(600.0)
    messages = heard(account, url)
    events = {
        (event["detail"]["instance-id"], what(event)): (event, sent_s(account, message))
        for message, event in zip(messages, said(messages), strict=True)
    }
    assert len(events) == len(messages) == 10
    for request in account.world.truth():
        happened_s, instance = request["happened_s"], request["instance_id"]
        for name, stage in {
            "pending": "fulfilled",
            FULFILLED: "fulfilled",
            "running": "running",
            "shutting-down": "shutting-down",
            "terminated": "ended",
        }.items():
            event, at_s = events[instance, name]
            assert at_s == pytest.approx(happened_s[stage], abs=0.002)
            assert event["time"] == f"{account.world.utc(happened_s[stage]):%Y-%m-%dT%H:%M:%SZ}"
            assert (event["version"], event["source"]) == ("0", "aws.ec2")
            assert (event["account"], event["region"]) == ("123456789012", REGION)
            assert event["resources"] == [arn("ec2", f"instance/{instance}")]
        event, _ = events[instance, FULFILLED]
        assert event["detail"] == {
            "spot-instance-request-id": request["request_id"],
            "instance-id": instance,
        }
        assert events[instance, "running"][0]["detail-type"] == STATE
    assert len({event["id"] for event, _ in events.values()}) == 10


def test_an_on_demand_launch_is_fulfilled_without_an_event_and_a_spot_launch_with_one(
    make_account,
):
    account = make_account(events=perfect())
    url = listen(account)
    [plain], [spot] = account.run(spot=False), account.run()
    account.world.advance(1.0)
    events = said(heard(account, url))
    assert {e["detail"]["instance-id"] for e in events if what(e) == "pending"} == {plain, spot}
    [fulfilled] = [e for e in events if what(e) == FULFILLED]
    assert fulfilled["detail"]["instance-id"] == spot


def test_an_instance_that_stops_says_so(make_account):
    account = make_account(events=perfect())
    url = listen(account)
    account.run(spot=False, UserData="#!/bin/sh\nshutdown -h +1\n")
    account.world.advance(600.0)
    states = [what(event) for event in said(heard(account, url))]
    assert states == ["pending", "running", "stopping", "stopped"]


@pytest.mark.parametrize(("together", "most_s"), [(1.0, 0.0), (0.0, 600.0)])
def test_an_interruption_is_warned_of_two_minutes_before_and_recommended_then_or_earlier(
    make_account, together, most_s
):
    fate = Fate(boot_s=2.0, interrupted_s=900.0)
    account = make_account(events=perfect(with_notice_share=together), script=lambda _: fate)
    url = listen(account)
    account.request(3)
    account.world.advance(1200.0)
    messages = heard(account, url)
    at_s, of = {}, {}
    for message, event in zip(messages, said(messages), strict=True):
        name = event["detail"]["instance-id"], what(event)
        at_s[name], of[name] = sent_s(account, message), event
    leads_s = []
    for request in account.world.truth():
        instance, happened_s = request["instance_id"], request["happened_s"]
        warned_s, end_s = at_s[instance, WARNING], at_s[instance, "shutting-down"]
        assert warned_s == pytest.approx(happened_s["interrupted"], abs=0.002)
        assert end_s - warned_s == pytest.approx(120.0, abs=0.002)
        assert at_s[instance, REBALANCE] == pytest.approx(happened_s["rebalance"], abs=0.002)
        assert "rebalance" not in request["shown_s"]
        leads_s.append(warned_s - at_s[instance, REBALANCE])
        warning = of[instance, WARNING]
        assert warning["detail"] == {"instance-id": instance, "instance-action": "terminate"}
        [resource] = warning["resources"]  # as the user guide shows it: the zone, no account
        zone = account.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0][
            "Instances"
        ][0]["Placement"]["AvailabilityZone"]
        assert resource == f"arn:aws:ec2:{zone}:instance/{instance}"
        assert of[instance, REBALANCE]["detail"] == {"instance-id": instance}
    if most_s:
        assert len(set(leads_s)) == 3
        assert 0.0 < min(leads_s) < max(leads_s) <= most_s
    else:
        assert max(leads_s) <= 0.002


def test_an_instance_that_ends_before_gets_neither_warning_nor_recommendation(make_account):
    fate = Fate(boot_s=2.0, interrupted_s=900.0)
    account = make_account(events=perfect(), script=lambda _: fate)
    url = listen(account)
    [request] = account.request()
    account.world.advance(60.0)
    account.ec2.terminate_instances(InstanceIds=[account.requests([request])[0]["InstanceId"]])
    account.world.advance(1200.0)
    assert not {what(event) for event in said(heard(account, url))} & {WARNING, REBALANCE}


def test_the_markets_own_interruptions_are_warned_of(make_account):
    account = make_account(market=Market(profile="tight"), events=perfect())
    url = listen(account)
    account.client("sqs").set_queue_attributes(
        QueueUrl=url, Attributes={"MessageRetentionPeriod": "1209600"}
    )
    move_in(account.world, [OURS])
    for _ in range(48):
        account.world.advance(3600.0)
    events = said(heard(account, url))
    interrupted = {
        each["instance_id"] for each in account.world.truth() if "interrupted" in each["happened_s"]
    }
    assert len(interrupted) > 5
    for kind in (WARNING, REBALANCE):
        told = [each["detail"]["instance-id"] for each in events if what(each) == kind]
        assert sorted(told) == sorted(interrupted)


# Those of others.


def test_events_of_other_users_come_too(make_account):
    account = make_account(events=perfect())
    url = listen(account)
    theirs = move_in(
        account.world,
        [Neighbours(region=REGION, count=2, fate=QUICK), *crowd(["eu-west-1"])],
    )
    account.world.advance(60.0)
    found = {event["detail"]["instance-id"] for event in said(heard(account, url))}
    here = {each.instance.instance_id for each in theirs if each.pool.region == REGION}
    assert found == here != set()
    assert account.world.truth() == []


def test_events_of_unknown_instances_come_while_a_rule_lives(make_account):
    account = make_account(events=perfect(foreign_per_hour=60.0))
    url = listen(account)
    account.world.advance(3600.0)
    ids = [event["detail"]["instance-id"] for event in said(heard(account, url))]
    assert 35 < len(ids) == len(set(ids)) < 85
    events = account.client("events")
    events.remove_targets(Rule="heard", Ids=["queue"])
    events.delete_rule(Name="heard")
    account.world.advance(3600.0)
    assert heard(account, url) == []
    for _ in range(2):
        events.delete_rule(Name="heard")
        listen(account)
        account.world.advance(3600.0)
        assert 35 < len(heard(account, url)) < 85  # one stream of them, not two
        events.remove_targets(Rule="heard", Ids=["queue"])


# The way of an event.


def told(make_account, seed=1, count=400, **settings):
    """(when it happened, when it came, its id) of the events of many instances."""
    events = Delivery(**{"foreign_per_hour": 0.0, **settings})
    account = make_account(seed=seed, events=events, script=lambda _: QUICK)
    url = listen(account)
    account.request(count)
    account.world.advance(120.0)
    happened_s = {}
    for request in account.world.truth():
        for name, stage in (
            ("pending", "fulfilled"),
            (FULFILLED, "fulfilled"),
            ("running", "running"),
        ):
            happened_s[request["instance_id"], name] = request["happened_s"][stage]
    messages = heard(account, url)
    return happened_s, [
        (
            happened_s[event["detail"]["instance-id"], what(event)],
            sent_s(account, message),
            event["id"],
            message["MessageId"],
        )
        for message, event in zip(messages, said(messages), strict=True)
    ]


def test_by_default_some_events_are_lost_doubled_late_and_out_of_order(make_account):
    happened_s, rows = told(make_account)
    n, ids = len(happened_s), {row[2] for row in rows}
    assert n == 1200
    assert 0 < n - len(ids) < 0.03 * n  # 1 % by default
    assert 0 < len(rows) - len(ids) < 0.05 * n  # 2 % of them
    assert len({row[3] for row in rows}) == len(rows)
    delays_s = [came_s - at_s for at_s, came_s, *_ in rows]
    assert min(delays_s) > -0.001  # SentTimestamp is cut to milliseconds
    assert 0.4 < median(delays_s) < 0.6
    assert 10.0 < max(delays_s) <= 30.0
    times = [at_s for at_s, *_ in sorted(rows, key=lambda row: row[1])]
    assert times != sorted(times)


def test_the_same_seed_has_the_same_fate_of_each_event_and_another_seed_another(make_account):
    first, same, other = (told(make_account, seed=seed, count=40) for seed in (7, 7, 8))
    assert first == same
    assert [row[1] - row[0] for row in first[1]] != [row[1] - row[0] for row in other[1]]


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({"lost_share": 1.0}, 0),
        ({"lost_share": 0.0, "doubled_share": 0.0}, 1),
        ({"lost_share": 0.0, "doubled_share": 1.0}, 2),
    ],
)
def test_each_event_comes_as_often_as_the_shares_say(make_account, settings, times):
    happened_s, rows = told(make_account, count=10, **settings)
    assert len(rows) == times * len(happened_s)
    assert all([row[2] for row in rows].count(row[2]) == times for row in rows)


def test_the_delay_has_its_median_and_its_limit(make_account):
    _, rows = told(make_account, count=40, delay_median_s=20.0, delay_sigma=0.2, delay_most_s=25.0)
    delays_s = [came_s - at_s for at_s, came_s, *_ in rows]
    assert 18.0 < median(delays_s) < 22.0
    assert max(delays_s) == pytest.approx(25.0, abs=0.001)


def test_sqs_may_have_a_clock_of_its_own(make_account):
    _, right = told(make_account, count=2)
    _, fast = told(make_account, count=2, queue_clock_off_s=0.25)
    assert [row[1] for row in fast] == pytest.approx([row[1] + 0.25 for row in right], abs=0.002)


def test_a_copied_world_delivers_the_same_events(make_account):
    account = make_account(script=lambda _: QUICK)
    url = listen(account)
    account.request(20)
    account.world.advance(3.0)
    other = copy.copy(account)
    other.world = copy.deepcopy(account.world)
    found = []
    for each in (account, other):
        each.world.advance(3600.0)
        found.append([(m["MessageId"], m["Body"]) for m in heard(each, url)])
    assert found[0] == found[1] != []


# Without a rule.


def course_of(world, *, listens):
    """The truth of two days of some requests; no call here takes time."""
    if listens:
        statement = allowing("heard")
        attributes = {"Policy": json.dumps({"Statement": [statement]})}
        made = {"QueueName": "heard", "Attributes": attributes, "origin": ""}
        queue_api.create_queue(world, REGION, made)
        event_api.put_rule(world, REGION, {"Name": "heard", "EventPattern": json.dumps(PATTERN)})
        target = {"Id": "queue", "Arn": arn("sqs", "heard")}
        event_api.put_targets(world, REGION, {"Rule": "heard", "Targets": [target]})
    move_in(world, crowd([REGION]))
    move_in(world, [OURS])
    for _ in range(48):
        world.advance(3600.0)
    return world.truth()


def test_a_world_without_a_rule_computes_nothing_of_events(monkeypatch):
    def computed(*_):
        raise AssertionError("an event was computed")

    for name in ("delays_s", "foreign_wait_s", "rebalance_lead_s"):
        monkeypatch.setattr(Delivery, name, computed)
    monkeypatch.setattr(patterns, "matches", computed)
    monkeypatch.setattr(events, "_Event", computed)
    fate = Fate(boot_s=2.0, interrupted_s=60.0)
    world = World(script=lambda _: fate)
    assert course_of(world, listens=False)
    assert not any(region.queues or region.rules for region in world.regions.values())


def test_listening_changes_nothing_of_what_happens():
    fate = Fate(boot_s=2.0, interrupted_s=60.0)
    for settings in ({"market": Market(profile="tight")}, {"script": lambda _: fate}):
        deaf = course_of(World(5, **settings), listens=False)
        world = World(5, **settings)
        listening = course_of(world, listens=True)
        assert world.region(REGION).queues["heard"].sent > 30
        for each in listening:
            each["happened_s"].pop("rebalance", None)
        assert listening == deaf


def test_another_delivery_is_another_world_and_the_default_one_is_as_before():
    assert World(1, events=Delivery(lost_share=0.01)).world_id == World(1).world_id
    assert World(1, events=Delivery(lost_share=0.02)).world_id != World(1).world_id


@pytest.mark.parametrize(
    "bad",
    [
        {"lost_share": 1.5},
        {"doubled_share": -0.1},
        {"delay_median_s": -1.0},
        {"delay_most_s": float("inf")},
        {"foreign_per_hour": float("nan")},
        {"queue_clock_off_s": float("-inf")},
    ],
)
def test_a_delivery_that_cannot_be_is_refused(bad):
    [(name, value)] = bad.items()
    with pytest.raises(ValueError, match=rf"need a finite .* {name} .*got {value}"):
        Delivery(**bad)


# Rules.


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ({"detail-type": [FULFILLED]}, {FULFILLED}),
        ({"detail": {"state": ["running", "terminated"]}}, {"running"}),
        ({"detail": {"state": [{"prefix": "run"}]}}, {"running"}),
        ({"detail": {"state": [{"exists": False}]}}, {FULFILLED}),
        ({"detail": {"state": [{"anything-but": ["running"]}]}}, {"pending"}),
        ({"source": ["aws.ec2fleet"]}, set()),
        ({"region": [REGION], "account": ["123456789012"]}, {"pending", FULFILLED, "running"}),
        ({"$or": [{"detail-type": [FULFILLED]}, {"detail": {"state": ["running"]}}]},
         {FULFILLED, "running"}),
    ],
)  # fmt: skip
def test_a_rule_sends_the_events_that_its_pattern_matches(make_account, pattern, found):
    account = make_account(events=perfect(), script=lambda _: QUICK)
    url = listen(account, pattern=pattern)
    account.request()
    account.world.advance(60.0)
    assert {what(event) for event in said(heard(account, url))} == found


@pytest.mark.parametrize(
    "bad",
    ["", "{", "[]", "{}", '{"source": "aws.ec2"}', '{"source": []}', '{"source": [["a"]]}',
     '{"source": [{"like": "aws"}]}', '{"detail": {"state": "running"}}', '{"$or": ["a"]}',
     '{"$or": [{"source": "a"}]}'],
)  # fmt: skip
def test_a_pattern_that_is_not_valid_is_refused(account, bad):
    code = refusal(account.client("events").put_rule, Name="a", EventPattern=bad)
    assert code == ("InvalidEventPatternException" if bad else "ValidationException")
    assert account.world.leftovers().keys() == {"requests", "instances"}


def test_a_disabled_rule_sends_nothing_until_it_is_put_again(make_account):
    account = make_account(events=perfect(), script=lambda _: QUICK)
    url = listen(account, State="DISABLED")
    account.request()
    account.world.advance(60.0)
    assert received(account, url) == []
    events = account.client("events")
    events.put_rule(Name="heard", EventPattern=json.dumps(PATTERN))
    account.request()
    account.world.advance(60.0)
    assert len(heard(account, url)) == 3


def test_a_rule_sends_to_each_of_its_targets_and_rules_do_not_mix(make_account):
    account = make_account(events=perfect(), script=lambda _: QUICK)
    first = listen(account)
    second = listen(account, "other", {"detail": {"state": ["running"]}})
    both = [allowing("other"), allowing("other", Condition={})]
    policy = json.dumps({"Statement": both})
    account.client("sqs").set_queue_attributes(QueueUrl=second, Attributes={"Policy": policy})
    target = {"Id": "second", "Arn": arn("sqs", "other")}
    account.client("events").put_targets(Rule="heard", Targets=[target])
    account.request()
    account.world.advance(60.0)
    assert len(heard(account, first)) == 3
    names = [what(event) for event in said(heard(account, second))]
    assert sorted(names) == sorted(["pending", FULFILLED, "running", "running"])


def test_events_stay_in_their_region(make_account):
    account = make_account(events=perfect(), script=lambda _: QUICK)
    url = listen(account)
    account.region = "eu-west-1"
    account.images.clear()
    account.request()
    account.world.advance(60.0)
    account.region = REGION
    assert heard(account, url) == []


OTHER_RULE = {"ArnEquals": {"aws:SourceArn": arn("events", "rule/other")}}
ACCOUNT = {"StringEquals": {"aws:SourceAccount": "123456789012"}}
ANY_RULE = {"ArnLike": {"aws:sourcearn": arn("events", "rule/*")}}


@pytest.mark.parametrize(
    ("statements", "allowed"),
    [
        ([], False),
        ([allowing("heard")], True),
        ([allowing("heard", Principal="*", Action="SQS:*", Resource="*", Condition={})], True),
        ([allowing("heard", Principal={"AWS": "*"}, Condition=ACCOUNT)], True),
        ([allowing("heard", Condition=ANY_RULE)], True),
        ([allowing("heard", Action=["sqs:GetQueueUrl", "sqs:Send*"])], True),
        ([allowing("heard", Principal={"Service": "sns.amazonaws.com"})], False),
        ([allowing("heard", Principal={"AWS": "123456789012"})], False),
        ([allowing("heard", Action="sqs:ReceiveMessage")], False),
        ([allowing("heard", Resource=arn("sqs", "other"))], False),
        ([allowing("heard", Condition=OTHER_RULE)], False),
        ([allowing("heard", Condition={**ACCOUNT, **OTHER_RULE})], False),
        ([allowing("heard", Condition={"Bool": {"aws:SecureTransport": "true"}})], False),
        ([allowing("heard"), allowing("heard", Effect="Deny")], False),
        ([allowing("heard"), allowing("heard", Effect="Deny", Condition=OTHER_RULE)], True),
    ],
)
def test_a_queue_gets_only_what_its_policy_allows(make_account, statements, allowed):
    account = make_account(events=perfect(), script=lambda _: QUICK)
    url = listen(account)
    policy = json.dumps({"Statement": statements})
    account.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    account.request()
    account.world.advance(60.0)
    assert len(heard(account, url)) == (3 if allowed else 0)


def test_a_queue_without_a_policy_or_that_is_gone_gets_nothing(make_account):
    account = make_account(events=perfect(), script=lambda _: QUICK)
    url, sqs = listen(account), account.client("sqs")
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": ""})
    account.request()
    account.world.advance(60.0)
    assert received(account, url) == []
    sqs.delete_queue(QueueUrl=url)
    account.request()
    account.world.advance(600.0)
    assert account.world.region(REGION).queues == {}


def test_rules_are_described_listed_and_tagged(account):
    events = account.client("events")
    tags = [{"Key": "spotlib:batch", "Value": "b"}]
    text = json.dumps(PATTERN)
    for name in ("spotlib-b", "spotlib-a", "other"):
        made = events.put_rule(Name=name, EventPattern=text, Tags=tags, Description="why")
        assert made["RuleArn"] == arn("events", f"rule/{name}")
    shown = events.describe_rule(Name="spotlib-a")
    assert (shown["State"], shown["EventBusName"], shown["Description"]) == (
        "ENABLED", "default", "why",
    )  # fmt: skip
    assert json.loads(shown["EventPattern"]) == PATTERN
    rules = events.list_rules(NamePrefix="spotlib-")["Rules"]
    assert [each["Name"] for each in rules] == ["spotlib-a", "spotlib-b"]
    assert rules[0]["Arn"] == arn("events", "rule/spotlib-a")
    page = events.list_rules(NamePrefix="spotlib-", Limit=1)
    more = events.list_rules(NamePrefix="spotlib-", Limit=1, NextToken=page["NextToken"])
    assert [each["Name"] for each in page["Rules"] + more["Rules"]] == ["spotlib-a", "spotlib-b"]
    assert "NextToken" not in more
    named = {"ResourceARN": arn("events", "rule/other")}
    assert events.list_tags_for_resource(**named)["Tags"] == tags
    events.put_rule(Name="other", EventPattern=text, Tags=[{"Key": "x", "Value": "y"}])
    assert events.list_tags_for_resource(**named)["Tags"] == tags  # an update ignores tags
    assert "Description" not in events.describe_rule(Name="other")
    events.tag_resource(**named, Tags=[{"Key": "spotlib:batch", "Value": "c"}])
    assert events.list_tags_for_resource(**named)["Tags"] == [{**tags[0], "Value": "c"}]


def test_a_rule_is_deleted_only_without_targets_and_a_second_time_without_an_error(account):
    events = account.client("events")
    listen(account)
    targets = events.list_targets_by_rule(Rule="heard")["Targets"]
    assert targets == [{"Id": "queue", "Arn": arn("sqs", "heard")}]
    with pytest.raises(ClientError, match=r"ValidationException.*since it has targets"):
        events.delete_rule(Name="heard")
    assert events.remove_targets(Rule="heard", Ids=["queue", "x"])["FailedEntryCount"] == 0
    events.delete_rule(Name="heard")
    events.delete_rule(Name="heard")
    assert events.list_rules()["Rules"] == []
    for call, params in {
        events.describe_rule: {"Name": "heard"},
        events.list_targets_by_rule: {"Rule": "heard"},
        events.put_targets: {"Rule": "heard", "Targets": targets},
        events.remove_targets: {"Rule": "heard", "Ids": ["queue"]},
        events.list_tags_for_resource: {"ResourceARN": arn("events", "rule/heard")},
    }.items():
        assert refusal(call, **params) == "ResourceNotFoundException"


def test_what_is_not_modelled_of_rules_says_so(account):
    events, text = account.client("events"), json.dumps(PATTERN)
    events.put_rule(Name="heard", EventPattern=text)
    queue = {"Id": "a", "Arn": arn("sqs", "heard")}
    for call, params, code in (
        (events.put_rule, {"Name": "a", "ScheduleExpression": "rate(1 hour)"},
         "UnsupportedOperation"),
        (events.put_rule, {"Name": "a", "EventPattern": text, "RoleArn": arn("iam", "role/a")},
         "UnsupportedOperation"),
        (events.put_rule, {"Name": "a", "EventPattern": text, "EventBusName": "mine"},
         "ResourceNotFoundException"),
        (events.put_rule, {"Name": "a", "EventPattern": text, "State": "ON"},
         "ValidationException"),
        (events.put_rule, {"Name": "a b", "EventPattern": text}, "ValidationException"),
        (events.put_events, {"Entries": [{"Source": "me"}]}, "UnsupportedOperation"),
        (events.put_targets, {"Rule": "heard", "Targets": [{**queue, "Input": "{}"}]},
         "UnsupportedOperation"),
        (events.put_targets,
         {"Rule": "heard", "Targets": [{**queue, "RoleArn": arn("iam", "role/a")}]},
         "UnsupportedOperation"),
        (events.put_targets, {"Rule": "heard", "Targets": [{"Id": "a", "Arn": "heard"}]},
         "ValidationException"),
        (events.put_targets,
         {"Rule": "heard", "Targets": [{"Id": "a", "Arn": arn("sqs", "heard", "eu-west-1")}]},
         "UnsupportedOperation"),
        (events.put_targets,
         {"Rule": "heard", "Targets": [{"Id": "a", "Arn": arn("lambda", "function:a")}]},
         "UnsupportedOperation"),
        (events.put_targets,
         {"Rule": "heard", "Targets": [{**queue, "Id": str(n)} for n in range(6)]},
         "LimitExceededException"),
    ):  # fmt: skip
        assert refusal(call, **params) == code, params
    assert events.list_targets_by_rule(Rule="heard")["Targets"] == []
    assert [each["Name"] for each in events.list_rules()["Rules"]] == ["heard"]
