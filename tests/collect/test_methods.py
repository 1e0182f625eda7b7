"""Launch methods beside the default one: what they send, what answers mean, what they cost."""

import json
import re
from pathlib import Path

import pytest
from conftest import NANO, QUICK, plan_for, read_events, scripted
from crashing import ARM, AT_ONCE, DEFAULT, EMPTY, OTHERS, PART, WHOLE, collect_plain

import spotlib
from spotlib.__main__ import main
from spotlib.analyze.comparable import require_same_variable
from spotlib.cleanup.close import Cleaned, settle
from spotlib.collect.cost import split_turns
from spotlib.collect.preflight import preflight
from spotlib.collect.quotas import quota_of
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.methods import registry
from spotlib.ec2.policy import policy
from spotlib.ec2.refusals import Refusal
from spotlib.errors import ParameterError
from spotlib.model import PURCHASES, Plan, Target, plan_launches
from spotlib.record.tables import load_launches
from spotlib.sandbox.faults import Fault, lose_answer
from spotlib.sandbox.world import Fate, Reads, World

HELD = Fate(held_s=None)
ZONE = Target("t4g.nano", "us-east-1", "use1-az4")


@pytest.fixture
def launch(in_process, log):
    """Collect one batch of some arms; return its summary, its events and its launches."""

    def launched(world, *arms, targets=(NANO,), n=3, timeout_s=60.0, max_price_usd=None, **given):
        connection = in_process(world)
        plan = {"timeout_s": timeout_s, "max_price_usd": max_price_usd, "methods": arms}
        checked = plan_for(connection, *targets, n=n, **plan)
        summary = collect_plain(connection, checked, log=log, **given)
        assert world.leftovers() == EMPTY
        assert summary.cleaned.confirmed
        return summary, read_events(log)[0], load_launches(log)

    return launched


def of(events, name):
    return [each for each in events if each["event"] == name]


def calls_of(world, action):
    """The calls of the batch itself: the preflight's questions launch nothing."""
    asked = ("DryRunOperation", "InvalidLaunchTemplateName.NotFoundException")
    found = (call for call in world.calls if call.action == action)
    return [call for call in found if call.code not in asked]


@pytest.mark.parametrize("arm", PART)
def test_what_came_is_accepted_and_fulfilled_at_the_answer_and_the_rest_is_refused(launch, arm):
    world = scripted(QUICK, HELD, QUICK)

    summary, events, launches = launch(world, arm)

    [requested] = [each for each in events if each["event"] == "requested"]
    assert summary.outcomes == {"ready": 2, "refused": 1}
    assert summary.problems == ()
    assert requested["lacking"]["count"] == 1
    assert requested["lacking"]["kind"] == "capacity"
    answered_s = requested["answered_s"] - requested["asked_s"]
    came, refused = (launches[launches["outcome"] == each] for each in ("ready", "refused"))
    for stage in ("accepted", "fulfilled"):
        assert came[f"{stage}_after_s"].eq(0.0).all()
        assert came[f"{stage}_by_s"].tolist() == pytest.approx([answered_s] * 2)
    assert came["request_id"].tolist() == came["instance_id"].tolist()
    assert refused["request_id"].isna().all()
    assert refused["refused_by_s"].tolist() == pytest.approx([answered_s])
    assert refused["fulfilled_by_s"].isna().all()
    assert set(launches["method"] + ":" + launches["purchase"]) == {
        arm if ":" in arm else f"{arm}:spot"
    }


@pytest.mark.parametrize("arm", WHOLE)
def test_all_or_nothing_is_refused_as_a_whole_where_others_launch_a_part(launch, arm):
    """Beside ``run_instances`` it meets the same pool, and is never pooled with it."""
    fates = [QUICK, HELD, QUICK]
    beside = arm.replace("_all_or_nothing", "")

    summary, events, launches = launch(scripted(*fates, *fates), beside, arm)

    sent = {each["method"]: each["request"]["MinCount"] for each in of(events, "intent")}
    [refused], [requested] = of(events, "refused"), of(events, "requested")
    assert sent == {"run_instances": 1, "run_instances_all_or_nothing": 3}
    assert summary.outcomes == {"ready": 2, "refused": 4}
    assert refused["code"] == "InsufficientInstanceCapacity"
    assert (requested["plan"], requested["lacking"]["count"]) == (0, 1)
    whole = launches[launches["method"] == "run_instances_all_or_nothing"]
    assert whole["kind"].tolist() == ["capacity"] * 3
    answered_s = refused["answered_s"] - refused["asked_s"]
    assert whole["refused_after_s"].eq(0.0).all()
    assert whole["refused_by_s"].tolist() == pytest.approx([answered_s] * 3)
    with pytest.raises(ValueError, match="different method are never pooled"):
        require_same_variable(launches)


@pytest.mark.parametrize("arm", WHOLE)
def test_all_or_nothing_launches_all_where_the_pool_has_all(launch, arm):
    summary, _, launches = launch(scripted(), arm)

    assert summary.outcomes == {"ready": 3}
    assert launches["fulfilled_after_s"].eq(0.0).all()


@pytest.mark.parametrize(
    "arm", ["run_instances", "run_instances:on-demand", "run_instances_all_or_nothing"]
)
def test_no_capacity_is_an_outcome_after_one_attempt_although_ec2_calls_it_a_server_error(
    launch, arm
):
    """botocore would repeat it for minutes, which would be read as launch time."""
    world = scripted(HELD, HELD)

    summary, events, launches = launch(world, arm, n=2)

    [refused] = [each for each in events if each["event"] == "refused"]
    assert [call.code for call in calls_of(world, "RunInstances")] == [
        "InsufficientInstanceCapacity"
    ]
    assert refused["attempts"] == ["InsufficientInstanceCapacity"]
    assert summary.outcomes == {"refused": 2}
    assert summary.problems == ()
    assert launches["kind"].tolist() == ["capacity"] * 2
    assert (launches["refused_by_s"] > 0).all()


@pytest.mark.parametrize("arm", ["create_fleet_instant", "create_fleet_instant:on-demand"])
def test_a_fleet_that_was_throttled_says_nothing_about_the_market_and_is_not_sent_again(
    launch, arm
):
    """It answers 200 with nothing launched, and its token is spent."""
    world = scripted()
    world.faults.append(Fault(kind="fleet_throttled", action="CreateFleet"))

    summary, _, launches = launch(world, arm)

    assert len(calls_of(world, "CreateFleet")) == 1
    assert summary.outcomes == {"refused": 3}
    assert launches["kind"].tolist() == ["throttled"] * 3
    assert "RequestLimitExceeded" in summary.problems[0]


@pytest.mark.parametrize("arm", ["create_fleet_instant", "create_fleet_instant:on-demand"])
def test_a_fleet_that_finds_no_capacity_is_an_outcome_although_its_answer_is_200(launch, arm):
    """Its token is spent: the same call would only get the same answer."""
    world = scripted(HELD, HELD)

    summary, events, launches = launch(world, arm, n=2)

    [refused] = of(events, "refused")
    assert [call.code for call in calls_of(world, "CreateFleet")] == [None]
    assert (refused["code"], refused["attempts"]) == ("InsufficientInstanceCapacity", [])
    assert summary.outcomes == {"refused": 2}
    assert summary.problems == ()
    assert launches["kind"].tolist() == ["capacity"] * 2
    answered_s = refused["answered_s"] - refused["asked_s"]
    assert launches["refused_by_s"].tolist() == pytest.approx([answered_s] * 2)


@pytest.mark.parametrize("arm", [arm for arm in AT_ONCE if ":" not in arm])
def test_a_price_that_is_too_low_is_an_outcome_of_the_market_at_the_answer(launch, arm):
    summary, events, launches = launch(World(seed=1), arm, n=2, max_price_usd=0.0001)

    [intent] = of(events, "intent")
    assert '"MaxPrice": "0.000100"' in json.dumps(intent["request"])
    assert summary.outcomes == {"refused": 2}
    assert summary.problems == ()
    assert launches["kind"].tolist() == ["price"] * 2


def test_a_launch_template_is_tagged_and_its_version_named_by_number(launch):
    """What $Latest means could change between two attempts."""
    world = scripted()

    _, events, _ = launch(world, "create_fleet_instant")

    [intent] = of(events, "intent")
    template, fleet = intent["request"]["create_launch_template"], intent["request"]["create_fleet"]
    [tagged] = template["TagSpecifications"]
    [config] = fleet["LaunchTemplateConfigs"]
    named = {"LaunchTemplateName": template["LaunchTemplateName"], "Version": "1"}
    assert config["LaunchTemplateSpecification"] == named
    assert tagged["ResourceType"] == "launch-template"
    assert {each["Key"] for each in tagged["Tags"]} >= {"spotlib:batch", "spotlib:expires"}
    assert len(calls_of(world, "DeleteLaunchTemplate")) >= 1


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (["InsufficientInstanceCapacity", "SpotMaxPriceTooLow"], "capacity"),
        (["InvalidFleetConfiguration", "UnfulfillableCapacity"], "capacity"),
        (["InsufficientInstanceCapacity", "RequestLimitExceeded"], "throttled"),
        (["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded"], "quota"),
        (["InvalidFleetConfiguration"], "parameters"),
    ],
)
def test_a_fleets_pools_say_capacity_only_if_all_of_them_were_tried(codes, kind):
    errors = [{"ErrorCode": code, "ErrorMessage": "m"} for code in codes]
    came = [{"InstanceIds": ["i-1"]}]
    read = registry.METHODS["create_fleet_instant"].read

    assert read({"Instances": came, "Errors": errors}, 2).lacking.kind == kind
    assert read({"Instances": came, "Errors": errors}, 1).lacking is None  # beside full success


def test_a_fleets_answer_without_instances_and_errors_is_a_lost_one():
    with pytest.raises(Refusal) as caught:
        registry.METHODS["create_fleet_instant"].read({"FleetId": "fleet-1"}, 1)

    assert caught.value.maybe_done


@pytest.mark.parametrize("arm", OTHERS)
def test_a_lost_answer_is_asked_for_again_with_the_same_token_and_launches_nothing_twice(
    launch, arm
):
    world = scripted()
    world.faults.append(lose_answer("CreateFleet" if "fleet" in arm else "RunInstances", 1))

    summary, events, _ = launch(world, arm)

    [requested] = [each for each in events if each["event"] == "requested"]
    assert summary.outcomes == {"ready": 3}
    assert len(world.truth()) == 3
    assert len(requested["attempts"]) == 1


def test_a_new_launch_template_that_is_unknown_for_seconds_is_waited_for_before_time_counts(launch):
    world = scripted(reads=Reads(template_unknown_s=6.0))

    summary, events, _ = launch(world, "create_fleet_instant")

    [intent, requested] = [e for e in events if e["event"] in ("intent", "requested")]
    assert summary.outcomes == {"ready": 3}
    assert requested["attempts"] == []
    assert requested["asked_s"] > intent["at_s"]


@pytest.mark.parametrize("arm", OTHERS)
def test_instances_carry_their_tags_from_birth(launch, arm):
    """Nothing is tagged later, and no spot request is tagged where there is none."""
    world = scripted()

    launch(world, arm, targets=(NANO, ZONE), n=1)

    assert calls_of(world, "CreateTags") == []
    ours = {"spotlib:batch", "spotlib:expires", "spotlib:plan", "spotlib:round"}
    assert [ours - set(each.instance.tags) for each in world._requests] == [set(), set()]


def test_an_interruption_is_known_by_the_instances_own_reason(launch):
    world = scripted(Fate(boot_s=2.0, ok_s=None, interrupted_s=10.0))

    summary, _, launches = launch(world, "run_instances", n=1, timeout_s=200.0)

    assert summary.outcomes == {"interrupted": 1}
    assert launches["instance_reason"].tolist() == ["Server.SpotInstanceTermination"]


# several arms


def test_each_target_meets_every_arm_once_per_round_one_after_the_other(launch):
    """In an order that the seed draws, with a pause in which nothing of it is left."""
    arms = [DEFAULT, "run_instances", "run_instances:on-demand"]
    world = scripted()

    summary, events, launches = launch(
        world, *arms, targets=(NANO, ARM), n=1, rounds=2, every_s=900.0, arm_pause_s=45.0
    )

    assert summary.outcomes == {"ready": 12}
    runs = [each for each in events if each["event"] == "intent"]
    ended_s = {}
    orders = {}
    for run in runs:
        place = run["round"], run["region"]
        orders.setdefault(place, []).append((run["method"], run.get("purchase", "spot")))
        assert run["at_s"] - ended_s.get(place, -45.0) >= 45.0
        ends = [e for e in events if e["event"] == "outcome" and e["round"] == run["round"]]
        ended_s[place] = max(e["watched_s"] for e in ends if e["plan"] == run["plan"])
    assert {tuple(sorted(order)) for order in orders.values()} == {
        tuple(sorted((each.partition(":")[0], each.partition(":")[2] or "spot") for each in arms))
    }
    assert len({tuple(order) for order in orders.values()}) > 1
    assert events[0]["arm_pause_s"] == 45.0
    assert launches.groupby(["round", "region", "method", "purchase"]).size().eq(1).all()
    with pytest.raises(ValueError, match="different method are never pooled"):
        require_same_variable(launches)


def test_rounds_of_several_arms_are_as_far_apart_by_default_as_one_may_last(launch):
    arms = [DEFAULT, "run_instances"]
    summary, events, _ = launch(scripted(), *arms, n=1, rounds=2, timeout_s=600.0)

    assert events[0]["every_s"] == 2 * (600.0 + 60.0 + 60.0)
    assert not any("skipped" in each for each in summary.warnings)


@pytest.mark.parametrize(
    ("arms", "given", "lasts_s"),
    [
        ([DEFAULT, "run_instances"], {"every_s": 899.0}, 900),
        ([DEFAULT, "run_instances"], {"every_s": 900.0}, None),
        ([DEFAULT, "run_instances"], {"every_s": 60.0, "rounds": 1}, None),
        ([DEFAULT], {"every_s": 359.0}, 360),
        ([DEFAULT], {"every_s": 360.0}, None),
    ],
)
def test_rounds_that_may_not_fit_are_warned_about_before_the_launch(
    in_process, arms, given, lasts_s
):
    checked = plan_for(in_process(scripted()), NANO, ARM, timeout_s=300.0, methods=arms)

    warnings = checked.late_rounds(**{"rounds": 2, "arm_pause_s": 90.0, **given})

    if lasts_s is None:
        assert warnings == []
    else:
        [words] = warnings
        assert f"a round may last {lasts_s} s ({len(arms)} launch method" in words
        assert f"longer than every_s={given['every_s']:g}" in words
        assert words.endswith(f"set every_s to at least {lasts_s}")


def test_a_turn_has_each_target_once(in_process):
    checked = plan_for(in_process(scripted()), NANO, ARM, n=1, methods=[DEFAULT, "run_instances"])

    turns = split_turns(checked.prepared)

    assert [[each.plan.arm for each in turn] for turn in turns] == [
        [DEFAULT] * 2,
        ["run_instances"] * 2,
    ]


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ([], "there is no launch method: name some of request_spot_instances, run_instances"),
        (["run_instance"], "a method must be one of .*, got 'run_instance'"),
        (["request_spot_instances:on-demand"], "a method must be one of"),
        (["run_instances", "run_instances"], "each method may be named once"),
    ],
)
def test_a_method_that_does_not_exist_is_one_sentence(arms, words):
    with pytest.raises(ParameterError, match=words):
        plan_launches([NANO], count=1, methods=arms)


def test_a_highest_price_is_for_spot_only():
    with pytest.raises(ParameterError, match="run_instances:on-demand buys on demand"):
        Plan(NANO, 1, max_price_usd=0.1, method="run_instances", purchase="on-demand")


# before money is spent


def test_every_method_by_its_name_and_no_other():
    assert tuple(registry.METHODS) == tuple(PURCHASES)
    assert registry.left_by(["a_method_of_a_newer_spotlib"]) == registry.LAUNCHED


def test_on_demand_costs_its_own_price_and_counts_against_its_own_quota(in_process):
    world = scripted(on_demand_vcpus=4)
    both = plan_launches([NANO], count=2, methods=["run_instances", "run_instances:on-demand"])
    spot, on_demand = preflight(in_process(world), both).require().prepared

    assert spot.largest_count == 500
    assert on_demand.largest_count == 2
    assert on_demand.expected_usd > spot.expected_usd
    assert on_demand.bound_usd == spot.bound_usd
    assert on_demand.family == "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"
    more = plan_launches([NANO], count=3, methods=["run_instances:on-demand"])
    [problem] = preflight(in_process(world), more).problems
    assert "'Running On-Demand Standard" in problem
    assert "leaves 4: the largest n is 2" in problem


@pytest.mark.parametrize(
    ("name", "code"), [("p5.48xlarge", "L-417A185B"), ("trn1.2xlarge", "L-2C3B7624")]
)
def test_an_on_demand_quota_is_found_by_its_code(name, code):
    assert quota_of(name, "on-demand").code == code


@pytest.mark.parametrize(
    ("arm", "action"),
    [
        ("run_instances", "RunInstances"),
        ("run_instances:on-demand", "RunInstances"),
        ("create_fleet_instant", "CreateFleet"),
        ("create_fleet_instant", "CreateLaunchTemplate"),
        ("create_fleet_request", "CreateFleet"),
    ],
)
def test_the_methods_own_calls_are_asked_about_before_anything_is_launched(in_process, arm, action):
    world = scripted(denied={f"ec2:{action}"})

    [problem] = preflight(in_process(world), plan_launches([NANO], count=1, methods=[arm])).problems

    assert problem.startswith(registry_action(action))
    assert "UnauthorizedOperation" in problem
    assert world.truth() == []


def registry_action(action):
    return {"RunInstances": "run_instances", "CreateFleet": "create_fleet"}.get(
        action, "create_launch_template"
    )


@pytest.mark.parametrize(
    ("arm", "roles"),
    [
        ("run_instances", ["Spot"]),
        ("run_instances:on-demand", []),
        ("create_fleet_instant", ["Spot", "Fleet"]),
        ("create_fleet_instant:on-demand", ["Fleet"]),
    ],
)
def test_each_service_linked_role_that_a_launch_needs_is_looked_for(in_process, arm, roles):
    world = scripted(denied={"iam:GetRole"})

    checked = preflight(in_process(world), plan_launches([NANO], count=1, methods=[arm]))

    asked = re.findall(r"whether AWSServiceRoleForEC2(\w+) exists", "\n".join(checked.warnings))
    assert asked == roles


def test_who_may_end_only_what_is_tagged_is_warned_not_refused(in_process):
    """A policy by tag refuses the made-up id of the question, too."""
    world = scripted(denied={"ec2:TerminateInstances"})
    plans = plan_launches([NANO], count=1, methods=["run_instances"])

    checked = preflight(in_process(world), plans)

    assert checked.problems == ()
    assert any("only for what carries our tag" in each for each in checked.warnings)


@pytest.mark.parametrize("method", PURCHASES)
def test_the_policy_of_a_method_allows_just_the_calls_that_are_made(in_process, log, method):
    world = World(seed=1, script=lambda _: QUICK, unlisted_quotas={"Standard"})
    connection = in_process(world)
    checked = plan_for(connection, NANO, ZONE, n=1, methods=[method])
    collect_batch(connection, checked, log=log, seed=1)

    found = [each["Action"] for each in policy([method])["Statement"]]
    allowed = {name for each in found for name in ([each] if isinstance(each, str) else each)}
    prefix = {"service-quotas": "servicequotas"}
    made = {f"{prefix.get(c.service, c.service)}:{c.action}" for c in world.calls}
    by_ec2_itself = {  # it checks these for the tags of a launch and for the instances of a fleet
        *(["ec2:CreateTags"] if method != DEFAULT else []),
        *(["ec2:RunInstances"] if "fleet" in method else []),
    }
    assert made - {"sts:GetCallerIdentity"} == allowed - by_ec2_itself


@pytest.mark.parametrize("method", PURCHASES)
def test_what_is_tagged_at_birth_may_be_ended_by_its_tag_only(method):
    statements = policy([method])["Statement"]

    limits = [
        each.get("Condition", {}).get("StringLike")
        for each in statements
        if "ec2:TerminateInstances" in each["Action"]
    ]

    ours = {"aws:ResourceTag/spotlib:batch": "*"}
    assert limits == [ours if registry.METHODS[method].tags_at_birth else None]


def test_the_readme_says_of_each_method_what_it_measures(repository):
    rows = re.findall(r"^\| `(\w+)`", (repository / "README.md").read_text(), re.MULTILINE)

    assert [name for name in rows if name in PURCHASES] == list(PURCHASES)


def test_the_policy_file_is_that_of_the_default_method():
    written = (Path(spotlib.__file__).parent / "policy.json").read_text()

    assert json.loads(written) == policy([DEFAULT])


def test_the_policy_of_an_arm_is_that_of_its_method(capsys):
    assert main(["policy", "run_instances:on-demand", "run_instances"]) == 0

    assert json.loads(capsys.readouterr().out) == policy(["run_instances"])
    with pytest.raises(ValueError, match="a method must be one of"):
        policy(["run_instance"])


def test_what_is_left_comes_with_the_command_of_its_kind():
    left = {"us-east-1": ["sir-1", "lt-1", "lt-2"], "sa-east-1": []}
    alive = {"us-east-1": ["i-1", "i-2"]}

    commands = Cleaned(False, open_requests=left, live_instances=alive).commands(" --profile us")

    where = "--region us-east-1 --profile us"
    assert [each for each in commands if "describe" not in each] == [
        f"aws ec2 cancel-spot-instance-requests {where} --spot-instance-request-ids sir-1",
        f"aws ec2 delete-launch-template {where} --launch-template-id lt-1",
        f"aws ec2 delete-launch-template {where} --launch-template-id lt-2",
        f"aws ec2 terminate-instances {where} --instance-ids i-1 i-2",
    ]


def test_an_instance_that_an_answer_named_and_nobody_lists_is_never_taken_for_gone(in_process):
    """A new instance may be invisible for a while: without a sight of it nothing is confirmed."""
    missing = "i-0123456789abcdef0"

    cleaned = settle(
        in_process(scripted()),
        batch_id="b",
        request_ids={NANO.region: [missing]},
        resources=registry.left_by(["run_instances"]),
        note=lambda _: None,
        give_up_s=60.0,
    )

    assert not cleaned.confirmed
    assert cleaned.live_instances[NANO.region] == [missing]
    assert cleaned.open_requests[NANO.region] == []
