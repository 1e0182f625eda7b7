"""The parameters of 02: each invalid one is one clear sentence, before anything is launched."""

import argparse
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from IPython.core.interactiveshell import InteractiveShell

from spotlib.collect.cost import PreflightError, PreflightReport, PreparedPlan
from spotlib.collect.parameters import (
    BUILTIN_TARGETS,
    CollectParameters,
    add_methods,
    named_arms,
    named_target,
    targets_to_collect,
)
from spotlib.collect.summary import BatchError
from spotlib.ec2.endpoints import connect
from spotlib.errors import ParameterError
from spotlib.model import LONGEST_PAUSE_S, Stage, Target
from spotlib.parameters import check_parameters

GOOD = {
    **{"methods": "request_spot_instances", "arm_pause_s": 60.0},
    **{"n": 5, "selection": "", "top": 3, "instance_type": "", "region": ""},
    **{
        "availability_zone_id": "",
        "methods": "request_spot_instances",
        "arm_pause_s": 60.0,
        "rounds": 1,
        "every_s": 900.0,
        "endpoint": "sandbox",
    },
    **{
        "market": "",
        "profile": "",
        "account_id": "",
        "ready": "ready",
        "usable": False,
        "events": False,
        "timeout_s": 600.0,
        "poll_s": 3.0,
    },
    **{
        "image": "",
        "allow_any_image": False,
        "max_price_usd": 0.0,
        "budget_usd": 0.0,
        "placement_scores": True,
        "t3": False,
        "dry_run": False,
    },
    "campaign_budget_usd": 0.0,
    **{"speed": 0.0, "seed": -1, "results": ""},
}


def checked(injected="", **changes):
    cells = ["n: int = 5", *(["# Parameters\n" + injected] if injected else []), "check"]
    return check_parameters(CollectParameters, {**GOOD, "In": cells, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, "n must be from 1 to 3000 instances per target, got 0"),
        ({"n": -1}, "n must be from 1 to 3000 instances per target, got -1"),
        ({"n": "five"}, "n must be a whole number, got 'five'"),
        ({"n": 100.0}, "n must be a whole number, got 100.0"),
        ({"dry_run": "false"}, "dry_run must be True or False, got 'false'"),
        ({"dry_run": 0}, "dry_run must be True or False, got 0"),
        ({"poll_s": float("nan")}, "poll_s must be a number of seconds, got nan"),
        (
            {"timeout_s": 2.0},
            "poll_s must be above 0 and at most timeout_s=2, got 3.0: set a smaller poll_s or a l",
        ),
        ({"timeout_s": 1e300}, r"timeout_s must be .* at most 31622400 \(a year\), got 1e\+300"),
        ({"endpoint": "asw"}, "endpoint 'asw' is unknown: use 'sandbox' .*, 'aws' .*, or the URL"),
        ({"ready": "ok"}, "ready must be 'ready' .*, 'running', or 'granted' .* got 'ok'"),
        (
            {"region": "us-east-1"},
            "instance_type is missing: region='us-east-1' needs one, such as 't3.nano'; or leave",
        ),
        (
            {"instance_type": "t3.nano"},
            "region is missing: instance_type='t3.nano' needs one, such as 'us-east-1'; or leave",
        ),
        ({"instance_type": "t3.nano", "region": " "}, "region is missing"),
        ({"ready": "Runing"}, r"got 'Runing'; did you mean running\?"),
        ({"endpoint": "AWS"}, r"endpoint 'AWS' is unknown.*; did you mean aws\?"),
        ({"endpoint": "localhost:5000"}, r"; did you mean http://localhost:5000\?"),
        ({"endpoint": "127.0.0.1"}, r"; did you mean http://127.0.0.1\?"),
        ({"market": "clam/3"}, r"got 'clam/3'; did you mean calm\?"),
        ({"methods": "run_instance"}, r"got 'run_instance'; did you mean run_instances\?"),
        (
            {"methods": "run_instances,create_fleet_instant"},
            "got 'run_instances,create_fleet_instant'; several are written with spaces between",
        ),
        ({"every_s": "10m"}, "every_s must be a number of seconds, got '10m'"),
        ({"usable": "no"}, "usable must be True or False, got 'no'; from a shell: .* usable False"),
        ({"availability_zone_id": "use1-az1"}, "availability_zone_id needs one instance_type"),
        (
            {"selection": "a.csv", "instance_type": "t3.nano", "region": "us-east-1"},
            "set either a selection or an instance_type and a region, not both",
        ),
        (
            {"availability_zone_id": "a", "instance_type": "t3.nano t3.micro", "region": "b"},
            "availability_zone_id needs one instance_type and one region, got 'a' with 't3.nano",
        ),
        ({"profile": "work"}, "profile is for AWS, the sandbox has none: set endpoint='aws'"),
        (
            {"market": "wild"},
            "market must be one of calm, fitted, outage, tight, or one .* got 'wild'",
        ),
        (
            {"market": "calm", "endpoint": "aws"},
            'market is for the sandbox, AWS has its own: leave it ""',
        ),
        (
            {"poll_s": -3},
            r"^poll_s must be above 0, or 0 for the usual \(3, of a probe 0.5\), got -3$",
        ),
        (
            {"timeout_s": -1.0},
            r"^timeout_s must be above 0, or 0 for the usual \(600, of a probe 30\), got -1.0$",
        ),
        ({"every_s": -5}, r"^every_s must be above 0, or 0 for the usual \(900, or as .*, got -5$"),
        (
            {"ready": "granted", "rounds": 2, "every_s": 299.0},
            "a probe uses the capacity that the next one measures: with probes every_s must be at "
            "least 300 seconds, got 299",
        ),
        (
            {"ready": "accepted", "methods": "run_instances create_fleet_instant"},
            "with probes arm_pause_s must be at least 300 seconds, got 60",
        ),
        ({"top": 0}, "top must be at least 1"),
        ({"rounds": 0}, "rounds must be a whole number from 1 to 1000000, got 0"),
        ({"rounds": 10**400}, "rounds must be a whole number from 1 to 1000000, got 1000"),
        ({"rounds": 10**6}, "1000000 rounds, one every 900 s, would take more than ten years"),
        ({"every_s": 1e300}, r"every_s must be above 0 and at most 31622400 \(a year\), got 1e"),
        ({"speed": -1.0}, r"speed must be from 0 \(virtual time\) to 1000000, got -1.0"),
        ({"speed": 1e300}, r"speed must be from 0 \(virtual time\) to 1000000, got 1e\+300"),
        ({"seed": 10**20}, "seed must be at most 9007199254740992, got 1000"),
        (
            {"max_price_usd": -0.1},
            "max_price_usd must be above 0, or 0 to leave it to EC2, got -0.1",
        ),
    ],
)
def test_a_bad_value_is_named_with_what_was_seen_and_what_is_allowed(changes, words):
    with pytest.raises(ValueError, match=words):
        checked(**changes)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("t3.nano@", "region '' is not a name EC2 could know"),
        ("t3.nano@/use1-az4", "region '' is not a name EC2 could know"),
        ("t3.nano@us-east-1/", "availability_zone_id '' is not a name EC2 could know"),
        ("@us-east-1", "instance_type '' is not a name EC2 could know"),
    ],
)
def test_a_place_that_is_left_out_after_its_sign_is_refused_and_not_guessed(named, words):
    """An empty variable of a shell must not choose another region or zone."""
    with pytest.raises(ValueError, match=f"{words}.*; write a target as t3.nano@us-east-1"):
        named_target(named, "us-east-1")
    assert named_target("t3.nano", "us-east-1") == Target("t3.nano", "us-east-1")


def test_the_longest_that_may_be_asked_for_can_be_planned_to_its_end():
    """Of a session whose credentials end: no date is beyond what a clock can say."""
    longest = {"timeout_s": LONGEST_PAUSE_S, "poll_s": LONGEST_PAUSE_S}
    given = checked(rounds=11, every_s=LONGEST_PAUSE_S, seed=2**53, speed=1e6, **longest)
    [plan] = given.plans([BUILTIN_TARGETS[0]])
    prepared = PreparedPlan(plan, "ami-1", "name", 2, True, "standard")
    now_at = datetime(2026, 1, 1, tzinfo=UTC)
    report = PreflightReport("1", "arn", (prepared,), {}, credentials_end_at=now_at)

    with pytest.raises(PreflightError, match="may need clean-up until 2037-01"):
        report.require_lasting_credentials(now_at=now_at, **given.rhythm(report))


def test_the_time_between_rounds_fits_the_launch_methods_unless_it_is_given():
    methods = {"methods": "request_spot_instances run_instances run_instances:on-demand"}
    lasts_s = 3 * (600 + 60 + 60)

    for every_s, expected_s in ((0.0, lasts_s), (1000.0, 1000.0)):
        given = checked(rounds=4, every_s=every_s, **methods)
        plans = given.plans([BUILTIN_TARGETS[0]])
        prepared = [PreparedPlan(plan, "ami-1", "name", 2, True, "standard") for plan in plans]
        report = PreflightReport("1", "arn", tuple(prepared), {})
        assert given.rhythm(report) == {"rounds": 4, "every_s": expected_s, "arm_pause_s": 60.0}
        assert bool(report.late_rounds(**given.rhythm(report))) is (every_s > 0)
    with pytest.raises(ValueError, match="every_s must be above 0"):
        checked(every_s=-1.0)


def test_every_invalid_value_is_reported_at_once():
    with pytest.raises(ValueError, match=r"n must be from 1 .*; top must be at least 1"):
        checked(n=0, top=0)


def test_an_unknown_name_from_papermill_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="no parameter 'timeout'; did you mean timeout_s"):
        checked("n = 5\ntimeout = 30\n")


def test_names_that_a_person_defines_in_other_cells_are_no_parameters():
    assert checked(figure=object(), polls=[1, 2]).n == 5


def test_whole_numbers_are_fine_where_seconds_are_meant():
    assert checked(timeout_s=60, poll_s=1).timeout_s == 60


def test_plans_carry_what_was_asked_for():
    [plan] = checked(ready="running", max_price_usd=0.01, n=2).plans([BUILTIN_TARGETS[0]])

    assert plan.wanted is Stage.RUNNING
    assert (plan.count, plan.max_price_usd, plan.image) == (2, 0.01, None)


@pytest.mark.parametrize(
    "edge",
    [
        {"n": 1, "top": 1, "rounds": 1},
        {"n": 3000},
        {"speed": 0.0, "max_price_usd": 0.0, "budget_usd": 0.0, "campaign_budget_usd": 0.0},
        {"ready": "granted", "rounds": 2, "every_s": 300.0},
        {"ready": "granted", "rounds": 1, "every_s": 1.0},
        {"endpoint": "aws", "profile": "work", "account_id": "123456789012"},
        {"timeout_s": 3.0, "poll_s": 3.0},
    ],
)
def test_the_least_and_the_most_that_is_allowed_is_taken(edge):
    assert vars(checked(**edge)).items() >= edge.items()


@pytest.mark.parametrize("name", ["max_price_usd", "budget_usd", "campaign_budget_usd"])
def test_no_money_is_less_than_none(name):
    with pytest.raises(ValueError, match=f"{name} must be above 0, or 0 .*, got -1"):
        checked(**{name: -1.0})
    with pytest.raises(ValueError, match=r"n must be from 1 to 3000 .* got 3001"):
        checked(n=3001)


def test_what_is_0_or_empty_is_left_to_the_batch():
    """Times, budgets and the seed: 0, "" and -1 mean that none is given."""
    given = {"budget_usd": 2.0, "campaign_budget_usd": 3.0, "seed": 0, "t3": True}
    usual = {"placement_scores": True, "poll_s": 3.0, "events": False}
    none = {"budget_usd": None, "campaign_budget_usd": None, "poll_s": None, "seed": None}

    assert checked(**given).settings == usual | given
    assert checked(poll_s=0.0).settings == usual | none | {"t3": False}
    [plan] = checked(timeout_s=0.0, image="").plans([BUILTIN_TARGETS[0]])
    [probe] = checked(timeout_s=0.0, poll_s=0.0, ready="accepted").plans([BUILTIN_TARGETS[0]])
    [stamped] = checked(usable=True, image="ami-1", timeout_s=30.0).plans([BUILTIN_TARGETS[0]])
    assert (plan.timeout_s, plan.image, plan.max_price_usd, plan.usable) == (
        600.0,
        None,
        None,
        False,
    )
    assert (probe.timeout_s, probe.wanted) == (30.0, Stage.GRANTED)
    assert (stamped.timeout_s, stamped.image, stamped.usable) == (30.0, "ami-1", True)


def selection(folder, source="sandbox", market="tight"):
    path = folder / "selection" / "20260101T000000Z.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "rank,instance_type,region,source,market\n"
        f"1,t3.nano,sa-east-1,{source},{market}\n2,t3.micro,eu-west-1,{source},{market}\n"
    )
    return path


class TestMarket:
    """The market of the archive that selects is the market that launches."""

    def test_it_is_the_market_of_the_selection(self, tmp_path):
        selection(tmp_path)

        choice = targets_to_collect(checked(), tmp_path)

        assert choice.market == "tight"
        assert choice.origin.endswith("from sandbox, market tight")

    def test_one_target_is_enough_to_know_it(self, tmp_path):
        path = selection(tmp_path)
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))

        assert targets_to_collect(checked(), tmp_path).market == "tight"
        path.write_text(path.read_text().replace("sandbox,tight", "spotlake,"))
        on_aws = targets_to_collect(checked(endpoint="aws"), tmp_path)
        assert on_aws.origin.endswith(
            "the first 1 of 1 targets of 20260101T000000Z.csv, from spotlake"
        )
        path.write_text("rank,instance_type,region,source\n1,t3.nano,sa-east-1,sandbox\n")
        older = targets_to_collect(checked(), tmp_path)  # which did not name it
        assert (older.market, older.origin[-11:]) == ("calm", "market calm")

    def test_a_market_other_than_the_selections_is_refused(self, tmp_path):
        selection(tmp_path)

        words = "20260101T000000Z.csv was made in the sandbox's market tight, not in market='calm'"
        with pytest.raises(ValueError, match=words):
            targets_to_collect(checked(market="calm"), tmp_path)
        with pytest.raises(
            ValueError, match="in the sandbox's market tight, not in market='tight/7'"
        ):
            targets_to_collect(checked(market="tight/7"), tmp_path)
        assert targets_to_collect(checked(market="tight"), tmp_path).market == "tight"

    def test_a_real_selection_and_a_named_target_are_launched_in_any(self, tmp_path):
        selection(tmp_path, "spotlake", market="")
        one = {"instance_type": "t3.nano", "region": "us-east-1"}

        assert targets_to_collect(checked(), tmp_path).market == ""
        assert targets_to_collect(checked(market="tight"), tmp_path).market == "tight"
        assert targets_to_collect(checked(market="tight", **one), tmp_path).market == "tight"

    def test_an_endpoint_that_plays_another_market_is_refused(self, tmp_path):
        selection(tmp_path)
        choice = targets_to_collect(checked(endpoint="http://127.0.0.1:1"), tmp_path)

        choice.require_market(None)
        choice.require_market("tight")
        with pytest.raises(ValueError, match="market tight, but the endpoint plays calm"):
            choice.require_market("calm")
        with pytest.raises(ValueError, match="market tight, but the endpoint plays tight/7"):
            choice.require_market("tight/7")
        replace(choice, market="").require_market("calm")  # it is not known

    def test_the_sandbox_plays_it_and_says_so(self):
        connection = connect("sandbox", market="tight/7", seed=1)
        try:
            assert connection.market == "tight/7"
        finally:
            connection.close()
        with pytest.raises(OSError, match="market must be one of calm, fitted, outage, tight"):
            connect("sandbox", market="wild")


@pytest.mark.parametrize("endpoint", ["staging", "asw", ""])
def test_of_an_unknown_endpoint_it_is_not_said_that_it_is_the_sandbox(endpoint):
    with pytest.raises(ValueError, match="is unknown: use 'sandbox'") as caught:
        checked(endpoint=endpoint, profile="work")

    assert "the sandbox has none" not in str(caught.value)


def test_without_a_selection_the_sandbox_uses_its_built_in_list_and_says_so(tmp_path):
    choice = targets_to_collect(checked(), tmp_path)

    assert choice.targets == BUILTIN_TARGETS
    assert "no selection is written yet, so a built-in list" in choice.origin
    assert choice.words(checked().plans(choice.targets)).startswith("3 targets: no selection")
    several = checked(methods="request_spot_instances run_instances").plans(choice.targets)
    assert choice.words(several).startswith("3 targets, 6 plans: no selection")


@pytest.mark.parametrize(
    "endpoint", ["aws", "https://ec2.us-east-1.amazonaws.com", "http://x", "sts.amazonaws.com"]
)
def test_without_a_selection_any_other_endpoint_asks_for_one(tmp_path, endpoint):
    with pytest.raises(ValueError, match="needs targets: write a selection with 01_select, or"):
        targets_to_collect(checked(endpoint=endpoint), tmp_path)


def test_the_newest_selection_is_taken_up_to_its_top(tmp_path):
    selection(tmp_path)

    choice = targets_to_collect(checked(top=1), tmp_path)

    assert choice.targets == (Target("t3.nano", "sa-east-1"),)
    assert "the first 1 of 2 targets of 20260101T000000Z.csv, from sandbox" in choice.origin


@pytest.mark.parametrize(
    "endpoint", ["aws", "https://ec2.us-east-1.amazonaws.com", "https://ec2.cn.amazonaws.com.cn"]
)
def test_a_simulated_selection_is_never_launched_on_aws(tmp_path, endpoint):
    selection(tmp_path)

    with pytest.raises(ValueError, match=r"20260101T000000Z.csv is simulated, and AWS costs"):
        targets_to_collect(checked(endpoint=endpoint), tmp_path)


def test_a_real_selection_may_be_launched_anywhere(tmp_path):
    selection(tmp_path, "spotlake", market="")

    for endpoint in ("aws", "sandbox"):
        assert len(targets_to_collect(checked(endpoint=endpoint), tmp_path).targets) == 2


def test_a_selection_can_be_named_by_its_path_or_its_file_name(tmp_path):
    path = selection(tmp_path)

    for name in (str(path), path.name):
        assert len(targets_to_collect(checked(selection=name), tmp_path).targets) == 2


def test_one_type_and_region_need_no_selection(tmp_path):
    zone = {"instance_type": "t3.nano", "region": "us-east-1", "availability_zone_id": "use1-az4"}

    choice = targets_to_collect(checked(endpoint="aws", **zone), tmp_path)

    assert choice.targets == (Target("t3.nano", "us-east-1", "use1-az4"),)


def test_several_types_and_regions_are_every_combination_once(tmp_path):
    several = {"instance_type": "t3.nano  t3.micro t3.nano", "region": "us-east-1 sa-east-1"}

    choice = targets_to_collect(checked(**several), tmp_path)

    assert choice.targets == tuple(
        Target(kind, region)
        for kind in ("t3.nano", "t3.micro")
        for region in ("us-east-1", "sa-east-1")
    )
    assert choice.origin.startswith("t3.nano in us-east-1, t3.nano in sa-east-1, t3.micro in us-ea")
    assert choice.origin.endswith(" and t3.micro in sa-east-1, as given")
    words = "availability_zone_id needs one instance_type and one region, got 'use1-az4' with 't3"
    with pytest.raises(ParameterError, match=words):
        checked(availability_zone_id="use1-az4", **several)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            12345678901,
            "account_id must be text in quotes, got 12345678901; .* papermill -r account",
        ),
        ("12345678901", "account_id must be 12 digits, zeros in front included, got '12345678901'"),
    ],
)
def test_an_account_that_papermill_read_as_a_number_is_refused_with_how_to_give_it(given, words):
    with pytest.raises(ValueError, match=words):
        checked(account_id=given)
    assert checked(account_id="012345678901").account_id == "012345678901"


@pytest.mark.parametrize("kind", [ParameterError, PreflightError, BatchError])
def test_a_refusal_is_shown_in_a_notebook_as_one_sentence_and_is_still_an_error(kind):
    shell = InteractiveShell()
    shown = []
    shell._showtraceback = lambda _, __, lines: shown.append(lines)
    shell.push({"kind": kind})

    done = shell.run_cell("raise kind('n must be at least 1, got 0')")

    assert shown == [[f"{kind.__name__}: n must be at least 1, got 0"]]
    assert isinstance(done.error_in_exec, kind)


def test_the_methods_of_a_command_may_be_named_in_one_value_or_in_several():
    parser = argparse.ArgumentParser()
    add_methods(parser)
    parser.add_argument("targets", nargs="*")

    given = parser.parse_args(["--methods", "a b", "--methods", "c", "t3.nano"])

    assert named_arms(given.methods) == ["a", "b", "c"]
    assert given.targets == ["t3.nano"]
    assert named_arms(parser.parse_args([]).methods) == ["request_spot_instances"]
    assert named_arms([]) == []
