"""The permissions that come with a method: as narrow as EC2 lets them be."""

import pytest

from spotlib.ec2.policy import policy

OURS = {"StringLike": {"aws:ResourceTag/spotlib:batch": "*"}}


def allowed(method, sid):
    [statement] = [each for each in policy([method])["Statement"] if each["Sid"] == sid]
    assert statement["Effect"] == "Allow"
    return {name: each for name, each in statement.items() if name not in ("Sid", "Effect")}


@pytest.mark.parametrize("method", ["run_instances", "create_fleet_instant"])
def test_what_is_launched_may_be_tagged_by_the_launch_and_ended_by_its_tag_only(method):
    kinds = ("instance", "volume", "network-interface")

    assert allowed(method, "TagWhatIsLaunched") == {
        "Action": "ec2:CreateTags",
        "Resource": [f"arn:aws:ec2:*:*:{kind}/*" for kind in kinds],
        "Condition": {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreateFleet"]}},
    }
    assert allowed(method, "TerminateOnlyOurs") == {
        "Action": "ec2:TerminateInstances",
        "Resource": "arn:aws:ec2:*:*:instance/*",
        "Condition": OURS,
    }


@pytest.mark.parametrize("method", ["create_fleet_instant", "create_fleet_request"])
def test_fleets_and_templates_may_be_tagged_by_the_calls_that_make_them_only(method):
    made = ["CreateFleet", "CreateLaunchTemplate"]

    assert allowed(method, "TagFleetsAndTemplates") == {
        "Action": "ec2:CreateTags",
        "Resource": [f"arn:aws:ec2:*:*:{kind}/*" for kind in ("fleet", "launch-template")],
        "Condition": {"StringEquals": {"ec2:CreateAction": made}},
    }
    assert allowed(method, "DeleteOnlyOurTemplates") == {
        "Action": "ec2:DeleteLaunchTemplate",
        "Resource": "arn:aws:ec2:*:*:launch-template/*",
        "Condition": OURS,
    }


def statements(*methods, **given):
    return {each["Sid"]: each for each in policy(methods, **given)["Statement"]}


def test_what_is_optional_is_allowed_only_where_it_is_asked_for():
    plain = statements("run_instances")

    assert plain.keys() == {
        *("Launch", "TagWhatIsLaunched", "TerminateOnlyOurs", "Look", "OptionalFacts")
    }
    assert statements("run_instances:on-demand") == plain
    usable = statements("run_instances", usable=True)
    assert usable.keys() - plain.keys() == {"Usable"}
    assert usable["Usable"]["Action"] == ["ec2:GetConsoleOutput"]
    events = statements("run_instances", events=True)
    assert events.keys() - plain.keys() == {"Events", "ListEvents"}
    queue = statements("run_instances", events="mine")
    assert queue.keys() - plain.keys() == {"Queue"}
    assert queue["Queue"]["Resource"] == "arn:aws:sqs:*:*:mine"
    assert plain["Look"]["Resource"] == "*"


@pytest.mark.parametrize(
    ("methods", "given"), [(["run_instance"], {}), (["run_instances"], {"events": "no/queue"})]
)
def test_a_policy_for_what_does_not_exist_is_refused(methods, given):
    with pytest.raises(ValueError, match=r"must be|is no"):
        policy(methods, **given)


def test_the_statements_of_several_methods_stand_once():
    both = statements("run_instances", "create_fleet_instant", "run_instances")

    assert (
        both.keys()
        == statements("run_instances").keys() | statements("create_fleet_instant").keys()
    )
    assert len(policy(["run_instances", "create_fleet_instant"])["Statement"]) == len(both)
    assert policy(["run_instances"])["Version"] == "2012-10-17"
