"""The bracket rule claims no more than the polls show, and a request has one outcome."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotlib.model import Kind, Outcome, Stage
from spotlib.track import (
    EXPIRED_CODES,
    FAILED_CODES,
    HELD_CODES,
    INTERRUPTED_CODES,
    POLLED,
    Bracket,
    Sighting,
    Track,
    add_usable,
    advance,
    checks_passed,
    conclude,
    count_stages,
    failure_kind,
)

OK = {"instance": "ok", "system": "ok"}


def running(**more):
    return Sighting("active", "fulfilled", instance_id="i-1", instance_state="running", **more)


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


@pytest.mark.parametrize(
    ("code", "instance_id", "held"),
    [
        *[(code, None, True) for code in sorted(HELD_CODES)],
        *[(code, "i-1", False) for code in sorted(HELD_CODES)],  # of a fleet that has some
        *[(code, None, False) for code in ("", "pending-evaluation", "fulfilled")],
    ],
)
def test_only_what_has_no_instance_is_held_and_only_by_the_market(code, instance_id, held):
    assert Sighting("open", code, instance_id=instance_id).held is held


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


def test_an_outcome_stays_whatever_was_shown():
    track = advance(Track("sir-1", 0.0), running(checks=OK), asked_s=3.0, answered_s=3.5)
    timed_out = replace(track, outcome=Outcome.TIMED_OUT)

    assert conclude(timed_out, wanted=Stage.READY) is timed_out
    assert track.outcome is None


def test_nothing_is_known_of_a_request_before_its_first_poll():
    new = Track("sir-1", 2.0)

    assert (new.stage, new.outcome, new.impaired, new.held) == (None, None, None, None)
    assert conclude(new, wanted=Stage.ACCEPTED) is new


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


@pytest.mark.parametrize("ends", [(2.0, 2.0), (3.0, 2.0), (float("nan"), 2.0)])
def test_a_bracket_is_never_empty(ends):
    with pytest.raises(ValueError, match="after_s < by_s"):
        Bracket(*ends)


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
