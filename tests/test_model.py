"""The nouns refuse invalid values, and the bracket rule claims no more than the polls show."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotlib.model import (
    EXPIRED_CODES,
    FAILED_CODES,
    HELD_CODES,
    INTERRUPTED_CODES,
    POLLED,
    Bracket,
    Kind,
    Outcome,
    Plan,
    Sighting,
    Stage,
    Target,
    Track,
    add_usable,
    advance,
    checks_passed,
    conclude,
    count_stages,
    failure_kind,
    image_family,
    plan_launches,
    require_intervals,
    require_pauses,
    require_probe_pauses,
    usual_poll_s,
    watched_stages,
)

NANO = Target("t3.nano", "sa-east-1")
OK = {"instance": "ok", "system": "ok"}


def running(**more):
    return Sighting("active", "fulfilled", instance_id="i-1", instance_state="running", **more)


@pytest.mark.parametrize("count", [0, -1, 3001, 2.0, True, "five"])
def test_a_plan_refuses_a_count_that_ec2_would(count):
    with pytest.raises(ValueError, match=r"n must be a whole number from 1 to 3000.*got"):
        Plan(NANO, count)


@pytest.mark.parametrize("timeout_s", [0, 0.0, -1, 1e300, float("nan"), float("inf"), "600"])
def test_a_plan_refuses_a_timeout_that_never_ends_or_never_begins(timeout_s):
    with pytest.raises(ValueError, match=r"timeout_s must be above 0 and at most 31622400.* got"):
        Plan(NANO, 1, timeout_s=timeout_s)


def test_the_least_and_the_most_that_a_plan_may_ask_for():
    assert [Plan(NANO, count).count for count in (1, 3000)] == [1, 3000]
    assert Plan(NANO, 1, timeout_s=1e-9).timeout_s == 1e-9
    assert Plan(NANO, 1, max_price_usd=1e-9).max_price_usd == 1e-9
    for price_usd in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_price_usd must be above 0"):
            Plan(NANO, 1, max_price_usd=price_usd)
    with pytest.raises(ValueError, match=r"max_price_usd=1 is for spot, run_instances:on-demand"):
        Plan(NANO, 1, max_price_usd=1.0, method="run_instances", purchase="on-demand")


def test_what_nobody_says_is_watched_for_ten_minutes_or_a_probe_for_half_a_minute():
    [plan] = plan_launches([NANO], count=1)
    [probe] = plan_launches([NANO], count=1, wanted=Stage.GRANTED)

    assert (Plan(NANO, 1).timeout_s, plan.timeout_s, probe.timeout_s) == (600.0, 600.0, 30.0)
    assert (Plan(NANO, 1).wanted, plan.method, plan.purchase) == (
        *(Stage.READY, "request_spot_instances", "spot"),
    )
    assert (usual_poll_s(Stage.READY), usual_poll_s(Stage.RUNNING)) == (3.0, 3.0)
    assert usual_poll_s(Stage.GRANTED) == 0.5
    assert (plan.is_probe, probe.is_probe) == (False, True)


def test_each_method_and_target_is_planned_once():
    arms = ["run_instances", "run_instances:on-demand"]
    plans = plan_launches([NANO, Target("t3.nano", "eu-west-1")], count=1, methods=arms)

    assert [each.arm for each in plans] == arms * 2
    assert len({each.key for each in plans}) == 4
    with pytest.raises(ValueError, match="each method may be named once, got 'run_instances run"):
        plan_launches([NANO], count=1, methods=["run_instances", "run_instances"])
    with pytest.raises(ValueError, match="there is no launch method"):
        plan_launches([NANO], count=1, methods=[])
    with pytest.raises(ValueError, match=r"a method must be one of .* got 'walk'"):
        plan_launches([NANO], count=1, methods=["walk"])
    with pytest.raises(ValueError, match="there is no target to launch"):
        plan_launches([], count=1)


YEAR_S = 366 * 86_400


def test_pauses_and_intervals_end_at_their_limits():
    require_intervals(timeout_s=3.0, poll_s=3.0)
    require_pauses(every_s=1e-9, arm_pause_s=0.0)
    require_pauses(every_s=YEAR_S, arm_pause_s=YEAR_S)
    require_probe_pauses(rounds=2, every_s=300.0, arms=2, arm_pause_s=300.0)
    require_probe_pauses(rounds=1, every_s=1.0, arms=1, arm_pause_s=1.0)
    for timeout_s, poll_s in (
        (3.0, 3.1),
        (3.0, 0.0),
        (3.0, -1.0),
        (3.0, True),
        (3.0, float("inf")),
    ):
        with pytest.raises(ValueError, match="need 0 < poll_s <= timeout_s"):
            require_intervals(timeout_s=timeout_s, poll_s=poll_s)
    for every_s in (0.0, -1.0, YEAR_S + 1, float("nan")):
        with pytest.raises(ValueError, match="every_s must be above 0 and at most 31622400"):
            require_pauses(every_s=every_s, arm_pause_s=0.0)
    for pause_s in (-1e-9, YEAR_S + 1, float("nan")):
        with pytest.raises(ValueError, match="arm_pause_s must be from 0 to 31622400"):
            require_pauses(every_s=1.0, arm_pause_s=pause_s)
    with pytest.raises(ValueError, match="every_s must be at least 300 seconds, got 299"):
        require_probe_pauses(rounds=2, every_s=299.0, arms=1, arm_pause_s=0.0)
    with pytest.raises(ValueError, match="arm_pause_s must be at least 300 seconds, got 299"):
        require_probe_pauses(rounds=1, every_s=1.0, arms=2, arm_pause_s=299.0)


@pytest.mark.parametrize(
    ("code", "reason", "state", "ended"),
    [
        ("", "Server.SpotInstanceTermination", "terminated", Outcome.INTERRUPTED),
        ("", "Server.SpotInstanceShutdown", "shutting-down", Outcome.INTERRUPTED),
        ("fulfilled", "Server.SpotInstanceTermination", "terminated", Outcome.FAILED),
        ("", "Server.InternalError", "terminated", Outcome.FAILED),
        ("", None, "running", None),
    ],
)
def test_an_instance_without_a_spot_request_says_itself_that_it_was_interrupted(
    code, reason, state, ended
):
    seen = Sighting(
        status_code=code, instance_id="i-1", instance_state=state, instance_reason=reason
    )

    assert seen.ended is ended


@pytest.mark.parametrize(
    "names", [("t3", "sa-east-1"), ("T3.nano", "sa-east-1"), ("t3.nano", "sa-east-1a")]
)
def test_a_target_refuses_names_that_cannot_be_ec2s(names):
    with pytest.raises(ValueError, match="is not a name EC2 could know"):
        Target(*names)


def test_a_zone_is_named_by_its_id_and_not_by_its_name():
    with pytest.raises(ValueError, match="zone ids, not zone names"):
        Target("t3.nano", "sa-east-1", "sa-east-1a")

    assert Target("t3.nano", "sa-east-1", "sae1-az1").placement == "zone"


@pytest.mark.parametrize(
    ("region", "zone"),
    [
        ("us-west-2", "usw2-lax1-az1"),  # a local zone
        ("us-east-1", "use1-wl1-bos-wlz1"),  # a Wavelength zone
        ("ap-northeast-1", "apne1-wl1-nrt-wlz1"),
        ("us-gov-west-1", "usgw1-az3"),
        ("cn-northwest-1", "cnnw1-az1"),
        ("eusc-de-east-1", None),
    ],
)
def test_every_region_and_zone_id_of_ec2_is_a_name(region, zone):
    assert Target("t3.nano", region, zone).availability_zone_id == zone


@pytest.mark.parametrize("zone", ["us-west-2-lax-1a", "us-east-1-wl1-bos-wlz-1", "a-az1"])
def test_names_of_local_and_wavelength_zones_are_no_ids(zone):
    with pytest.raises(ValueError, match="zone ids, not zone names"):
        Target("t3.nano", "us-east-1", zone)


def test_the_same_target_twice_in_a_round_is_refused_by_name():
    with pytest.raises(ValueError, match=r"got twice: t3\.nano in sa-east-1"):
        plan_launches([NANO, NANO], count=1)


@pytest.mark.parametrize(
    ("checks", "ready"),
    [
        (None, False),
        ({}, False),
        ({"instance": "ok"}, False),
        (OK, True),
        ({**OK, "attached_ebs": "ok"}, True),
        ({**OK, "attached_ebs": "not-applicable"}, True),
        ({**OK, "attached_ebs": "initializing"}, False),
        ({**OK, "attached_ebs": "impaired"}, False),
        ({**OK, "system": "initializing"}, False),
        ({**OK, "system": "not-applicable"}, False),
    ],
)
def test_ready_is_instance_and_system_ok_without_a_veto_of_attached_ebs(checks, ready):
    assert checks_passed(checks) is ready
    assert (running(checks=checks).stage is Stage.READY) is ready


WATCHED = (None, None)  # it has not ended: watched on, and closed at the latest with its plan
INTERRUPTED, EXPIRED = (Outcome.INTERRUPTED, None), (Outcome.EXPIRED, None)
BY_EC2, BY_ACCOUNT = (Outcome.FAILED, None), (Outcome.FAILED, Kind.ACCOUNT)
# Every status code of the EC2 User Guide with each state it is documented in, and some unknown.
STATUSES = [
    *[(code, "open", WATCHED) for code in ("pending-evaluation", "pending-fulfillment")],
    ("capacity-not-available", "open", WATCHED),
    ("capacity-oversubscribed", "open", WATCHED),  # the same, until 2018
    ("price-too-low", "open", WATCHED),
    ("not-scheduled-yet", "open", WATCHED),
    ("launch-group-constraint", "open", WATCHED),
    ("az-group-constraint", "open", WATCHED),
    ("placement-group-constraint", "open", WATCHED),
    ("constraint-not-fulfillable", "open", WATCHED),
    ("fulfilled", "active", WATCHED),
    ("marked-for-stop", "active", WATCHED),
    *[("marked-for-termination", state, WATCHED) for state in ("active", "closed")],
    *[("instance-terminated-by-price", state, INTERRUPTED) for state in ("closed", "open")],
    *[("instance-terminated-no-capacity", state, INTERRUPTED) for state in ("closed", "open")],
    ("instance-terminated-capacity-oversubscribed", "closed", INTERRUPTED),
    ("instance-terminated-launch-group-constraint", "closed", INTERRUPTED),
    ("instance-terminated-by-schedule", "closed", INTERRUPTED),
    *[("instance-terminated-by-service", state, INTERRUPTED) for state in ("closed", "cancelled")],
    ("instance-stopped-by-price", "disabled", INTERRUPTED),
    ("instance-stopped-no-capacity", "disabled", INTERRUPTED),
    ("schedule-expired", "cancelled", EXPIRED),
    ("canceled-before-fulfillment", "cancelled", BY_ACCOUNT),
    ("request-canceled-and-instance-running", "cancelled", BY_ACCOUNT),
    *[("instance-terminated-by-user", state, BY_ACCOUNT) for state in ("closed", "cancelled")],
    *[("spot-instance-terminated-by-user", state, BY_ACCOUNT) for state in ("closed", "cancelled")],
    *[("instance-stopped-by-user", state, BY_ACCOUNT) for state in ("disabled", "cancelled")],
    *[("bad-parameters", s, (Outcome.FAILED, Kind.PARAMETERS)) for s in ("failed", "closed")],
    *[("limit-exceeded", s, (Outcome.FAILED, Kind.QUOTA)) for s in ("open", "failed", "closed")],
    ("system-error", "closed", BY_EC2),
    *[(code, "active", WATCHED) for code in ("pending_fulfillment", "fulfilled", "error")],
    *[(state, state, BY_ACCOUNT) for state in ("deleted", "deleted_running")],  # of a fleet
    ("deleted_terminating", "deleted_terminating", BY_ACCOUNT),
    ("expired", "deleted_terminating", EXPIRED),
    *[("a-code-of-tomorrow", s, WATCHED) for s in ("open", "active", "closed", "cancelled")],
    *[("a-code-of-tomorrow", s, WATCHED) for s in ("disabled", "a-state-of-tomorrow")],
    ("a-code-of-tomorrow", "failed", BY_EC2),
]


@pytest.mark.parametrize(("code", "state", "end"), STATUSES)
def test_a_status_code_ends_a_request_only_if_it_says_so(code, state, end):
    outcome = Sighting(state, code).ended

    assert (outcome, failure_kind(code, None) if outcome is Outcome.FAILED else None) == end


def test_the_table_of_status_codes_has_every_code_that_ends_a_request():
    named = {code for code, _, end in STATUSES if end != WATCHED} - {"a-code-of-tomorrow"}

    assert named == INTERRUPTED_CODES | EXPIRED_CODES | FAILED_CODES.keys()


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        *[(state, None) for state in ("pending", "running", "stopping", "stopped")],
        ("a-state-of-tomorrow", None),
        *[(state, Outcome.FAILED) for state in ("shutting-down", "terminated")],
    ],
)
def test_an_instance_that_died_while_booting_fails_the_request_despite_its_code(state, outcome):
    for code in ("fulfilled", "a-code-of-tomorrow"):
        seen = Sighting("active", code, instance_id="i-1", instance_state=state)
        assert seen.ended is outcome
        assert seen.stage is (Stage.RUNNING if state == "running" else Stage.FULFILLED)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Client.InternalError", Kind.ACCOUNT),
        ("Client.InvalidSnapshot.NotFound", Kind.ACCOUNT),
        ("Client.VolumeLimitExceeded", Kind.ACCOUNT),
        ("Client.UserInitiatedShutdown", Kind.ACCOUNT),
        ("Client.InstanceInitiatedShutdown", Kind.ACCOUNT),
        ("Server.InternalError", None),
        ("Server.InsufficientInstanceCapacity", None),
        ("Server.SpotInstanceTermination", None),
        (None, Kind.ACCOUNT),
        ("", Kind.ACCOUNT),
    ],
)
def test_an_instances_own_reason_says_who_ended_it_before_the_requests_code_does(reason, kind):
    assert failure_kind("instance-terminated-by-user", reason) is kind


def test_the_first_failed_check_has_a_bracket_and_is_no_stage():
    track = Track("sir-1", 0.0)
    for number, status in enumerate(["initializing", "impaired", "ok", "impaired"]):
        shown = running(checks={"instance": status, "system": "ok"})
        track = advance(track, shown, asked_s=3.0 * number + 3, answered_s=3.0 * number + 4)

    assert track.impaired == Bracket(3.0, 7.0)
    assert track.brackets[Stage.READY] == Bracket(6.0, 10.0)


def test_stages_first_shown_by_one_poll_share_its_bracket():
    track = advance(Track("sir-1", 0.0), running(checks=OK), asked_s=3.0, answered_s=3.5)

    assert set(track.brackets.values()) == {Bracket(0.0, 3.5)}
    assert track.stage is Stage.READY


def test_a_stage_never_regresses_when_a_read_is_stale():
    track = advance(Track("sir-1", 0.0), running(), asked_s=3.0, answered_s=3.5)
    stale = advance(track, Sighting("open", "pending-fulfillment"), asked_s=6.0, answered_s=6.5)

    assert stale.stage is Stage.RUNNING
    assert stale.brackets == track.brackets


def test_a_request_that_is_not_listed_yet_is_not_gone():
    track = advance(Track("sir-1", 0.0), None, asked_s=3.0, answered_s=3.5)

    assert track.polled_s == 3.0
    assert conclude(track, wanted=Stage.READY).outcome is None


def test_a_request_with_an_outcome_is_closed():
    ready = conclude(
        advance(Track("sir-1", 0.0), running(), asked_s=3.0, answered_s=3.5), wanted=Stage.RUNNING
    )

    assert ready.outcome is Outcome.READY
    assert advance(ready, running(checks=OK), asked_s=6.0, answered_s=6.5) is ready


def test_no_poll_shows_that_a_guest_is_usable():
    track = advance(Track("sir-1", 0.0), running(checks=OK), asked_s=3.0, answered_s=3.5)

    assert set(track.brackets) == set(Stage) - {Stage.USABLE}
    assert count_stages([track])[Stage.USABLE] == 0
    assert conclude(track, wanted=Stage.USABLE).outcome is None


def test_a_request_is_done_when_its_guest_is_usable_and_that_is_kept_after_its_outcome():
    track = advance(Track("sir-1", 0.0), running(), asked_s=3.0, answered_s=3.5)
    stamped = add_usable(track, Bracket(2.0, 4.0))
    timed_out = replace(track, outcome=Outcome.TIMED_OUT)

    assert conclude(stamped, wanted=Stage.USABLE).outcome is Outcome.READY
    assert conclude(stamped, wanted=Stage.READY).outcome is None
    assert count_stages([stamped])[Stage.USABLE] == 1
    assert add_usable(timed_out, Bracket(2.0, 4.0)).outcome is Outcome.TIMED_OUT


@pytest.mark.parametrize("wanted", [Stage.GRANTED, Stage.RUNNING])
def test_usable_is_not_recorded_where_instances_end_before_it(wanted):
    with pytest.raises(ValueError, match="ended before it is usable"):
        Plan(NANO, 1, wanted=wanted, usable=True)


def test_a_plan_that_waits_for_usable_records_it_and_others_only_where_it_is_asked_for():
    assert Stage.USABLE in Plan(NANO, 1, wanted=Stage.USABLE).stages
    assert Stage.USABLE in Plan(NANO, 1, usable=True).stages
    assert Stage.USABLE not in Plan(NANO, 1).stages


def test_a_bracket_is_never_empty():
    with pytest.raises(ValueError, match="after_s < by_s"):
        Bracket(2.0, 2.0)


moments = st.lists(st.floats(0.01, 100.0), min_size=5, max_size=5).map(sorted)
gaps = st.lists(st.tuples(st.floats(0.01, 20.0), st.floats(0.001, 2.0)), min_size=1, max_size=40)


@given(moments=moments, gaps=gaps, failed=st.sets(st.integers(0, 39)))
def test_every_bracket_contains_the_moment_of_its_stage_also_when_polls_fail(moments, gaps, failed):
    """Polls at random times, each answered from the state at a moment while it was under way."""
    shown = dict(zip(POLLED, moments, strict=True))
    track, asked_s = Track("sir-1", 0.0), 0.0
    for number, (wait_s, took_s) in enumerate(gaps):
        asked_s += wait_s
        at_s, answered_s = asked_s + took_s / 2, asked_s + took_s
        if number not in failed:
            stage = max((s for s in POLLED if shown[s] <= at_s), default=None)
            track = advance(track, sighting_at(stage), asked_s=asked_s, answered_s=answered_s)
        asked_s = answered_s

    for stage, bracket in track.brackets.items():
        assert bracket.after_s < shown[stage] <= bracket.by_s
    unseen = set(POLLED) - set(track.brackets)
    assert all(shown[stage] > track.polled_s for stage in unseen)


def sighting_at(stage):
    return {
        None: None,
        Stage.ACCEPTED: Sighting("open", "pending-evaluation"),
        Stage.GRANTED: Sighting("open", "pending-fulfillment"),
        Stage.FULFILLED: Sighting(
            "active", "fulfilled", instance_id="i-1", instance_state="pending"
        ),
        Stage.RUNNING: running(checks={"instance": "initializing", "system": "ok"}),
        Stage.READY: running(checks=OK),
    }[stage]


@pytest.mark.parametrize("code", sorted(HELD_CODES))
def test_what_the_market_holds_ends_a_probe_and_nothing_else(code):
    new = Track("sir-1", 0.0)
    held = advance(new, Sighting("open", code), asked_s=1.0, answered_s=1.5)
    later = advance(held, Sighting("open", code), asked_s=2.0, answered_s=2.5)

    assert held.stage is Stage.ACCEPTED
    assert later.held == Bracket(0.0, 1.5)
    assert conclude(held, wanted=Stage.GRANTED).outcome is Outcome.HELD
    assert conclude(held, wanted=Stage.RUNNING).outcome is None


@pytest.mark.parametrize("code", ["pending-fulfillment", "fulfilled"])
def test_what_ec2_has_decided_for_is_granted_before_it_has_an_instance(code):
    track = advance(Track("sir-1", 0.0), Sighting("open", code), asked_s=1.0, answered_s=1.5)

    assert track.stage is Stage.GRANTED
    assert conclude(track, wanted=Stage.GRANTED).outcome is Outcome.GRANTED
    assert conclude(track, wanted=Stage.READY).outcome is None


def test_only_a_probe_records_that_it_was_granted():
    rest = [Stage.ACCEPTED, Stage.FULFILLED, Stage.RUNNING, Stage.READY]

    assert {wanted: list(Plan(NANO, 1, wanted=wanted).stages) for wanted in rest[2:]} == {
        Stage.RUNNING: rest,
        Stage.READY: rest,
    }
    assert Stage.GRANTED in Plan(NANO, 1, wanted=Stage.GRANTED).stages
    assert watched_stages(Stage.GRANTED) == (Stage.ACCEPTED, Stage.GRANTED)
    assert watched_stages(Stage.RUNNING) == tuple(rest[:3])


@given(st.lists(st.sampled_from([None, *Stage]), max_size=30))
def test_counts_never_rise_from_an_earlier_stage_to_a_later_one(stages):
    tracks = [
        Track("sir", 0.0, {each: Bracket(0, 1) for each in Stage if stage and each <= stage})
        for stage in stages
    ]

    counts = count_stages(tracks)

    assert list(counts) == list(Stage)
    assert sorted(counts.values(), reverse=True) == list(counts.values())
    assert counts[Stage.READY] == stages.count(Stage.READY)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("al2023-ami-2023.6.20250128.0-kernel-6.1-arm64", "al2023-ami-kernel-6.1-arm64"),
        ("al2023-ami-2023.12.20260930.0-kernel-6.12-x86_64", "al2023-ami-kernel-6.12-x86_64"),
        (
            "al2023-ami-minimal-2023.12.20260930.0-kernel-6.1-arm64",
            "al2023-ami-minimal-kernel-6.1-arm64",
        ),
        (
            "amzn2-ami-kernel-5.10-hvm-2.0.20260930.0-x86_64-gp2",
            "amzn2-ami-kernel-5.10-hvm-x86_64-gp2",
        ),
        ("amzn-ami-hvm-2017.09.1.20171103-x86_64-gp2", "amzn-ami-hvm-x86_64-gp2"),
        ("al2023-ami-my-own-arm64", "ami-1"),
        ("Windows_Server-2019-English-Full-Base-2019.0.20250101", "ami-1"),
        ("", "ami-1"),
    ],
)
def test_the_releases_of_amazon_linux_are_one_family_and_any_other_image_is_its_own(name, family):
    assert image_family("ami-1", name, "amazon") == family
    assert image_family("ami-1", name, None) == "ami-1"
    assert image_family("ami-1", name, "123456789012") == "ami-1"
