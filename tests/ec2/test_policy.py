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
