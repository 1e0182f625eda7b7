"""Launch templates: created, shown, unknown at first, deleted."""

import base64

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox.world import Reads

SWITCH = base64.b64encode(b"#!/bin/sh\nshutdown -h +15\n").decode()


def code_of(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


def test_a_template_shows_its_only_version_and_its_tags(account):
    data = {"ImageId": account.image(), "UserData": SWITCH}
    tags = [{"ResourceType": "launch-template", "Tags": [{"Key": "batch", "Value": "a"}]}]
    made = account.ec2.create_launch_template(
        LaunchTemplateName="spotlib-a",
        VersionDescription="first",
        LaunchTemplateData=data,
        TagSpecifications=tags,
    )["LaunchTemplate"]
    account.template("spotlib-b")

    by_tag = [{"Name": "tag:batch", "Values": ["a"]}]
    [found] = account.ec2.describe_launch_templates(Filters=by_tag)["LaunchTemplates"]
    assert found == made
    assert (made["LatestVersionNumber"], made["Tags"]) == (1, tags[0]["Tags"])
    by_name = {"LaunchTemplateNames": ["spotlib-a"]}
    assert account.ec2.describe_launch_templates(**by_name)["LaunchTemplates"] == [made]
    named = {"LaunchTemplateId": made["LaunchTemplateId"], "Versions": ["1"]}
    [version] = account.ec2.describe_launch_template_versions(**named)["LaunchTemplateVersions"]
    assert (version["VersionNumber"], version["VersionDescription"]) == (1, "first")
    assert version["LaunchTemplateData"] == data  # the client must encode the user data
    newest = account.ec2.describe_launch_template_versions(Versions=["$Latest"])
    assert len(newest["LaunchTemplateVersions"]) == 2


def test_a_deleted_template_is_unknown_and_its_name_is_free(account):
    template = account.template("spotlib-a")
    assert account.world.leftovers()["templates"] == [template]
    account.ec2.delete_launch_template(LaunchTemplateId=template)
    assert account.world.leftovers() == {"requests": [], "instances": []}
    gone = code_of(account.ec2.delete_launch_template, LaunchTemplateId=template)
    assert gone == "InvalidLaunchTemplateId.NotFound"
    assert account.template("spotlib-a") != template


def test_a_new_template_may_be_unknown_for_seconds(make_account):
    account = make_account(reads=Reads(template_unknown_s=60.0))
    template = account.template("spotlib-a")
    fleet, described = account.ec2.create_fleet, account.ec2.describe_launch_templates
    params = account.to_fleet(template)
    assert code_of(fleet, **params) == "InvalidLaunchTemplateId.NotFound"
    [config] = params["LaunchTemplateConfigs"]
    config["LaunchTemplateSpecification"] = {"LaunchTemplateName": "spotlib-a", "Version": "1"}
    assert code_of(fleet, **params) == "InvalidLaunchTemplateName.NotFoundException"
    assert described()["LaunchTemplates"] == []
    account.world.advance(60.0)
    assert len(described()["LaunchTemplates"]) == 1
    assert fleet(**params)["Instances"]


def test_the_same_token_makes_one_template(account):
    params = {"LaunchTemplateName": "abc", "LaunchTemplateData": {"ImageId": account.image()}}
    create = account.ec2.create_launch_template
    first, again = (create(ClientToken="a", **params)["LaunchTemplate"] for _ in range(2))
    assert first == again
    params["LaunchTemplateName"] = "abcd"
    assert code_of(create, ClientToken="a", **params) == "IdempotentParameterMismatch"


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("ab c", {"InstanceType": "t4g.nano"}, "InvalidLaunchTemplateName.MalformedException"),
        ("taken", {"InstanceType": "t4g.nano"}, "InvalidLaunchTemplateName.AlreadyExistsException"),
        ("free", {"UserData": "#!/bin/sh"}, "InvalidParameterValue"),
        ("free", {"InstanceInitiatedShutdownBehavior": "hibernate"}, "InvalidParameterValue"),
        ("free", {"KernelId": "aki-1"}, "UnsupportedOperation"),
    ],
)
def test_an_invalid_template_is_refused(account, name, data, code):
    account.template("taken")
    params = {"LaunchTemplateName": name, "LaunchTemplateData": data}
    assert code_of(account.ec2.create_launch_template, **params) == code
    assert len(account.ec2.describe_launch_templates()["LaunchTemplates"]) == 1


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ({}, "MissingParameter"),
        ({"LaunchTemplateId": "lt-1"}, "InvalidLaunchTemplateId.Malformed"),
        ({"LaunchTemplateId": "lt-0123456789abcdef0"}, "InvalidLaunchTemplateId.NotFound"),
        ({"LaunchTemplateName": "none"}, "InvalidLaunchTemplateName.NotFoundException"),
        (
            {"LaunchTemplateName": "usual", "Versions": ["2"]},
            "InvalidLaunchTemplateId.VersionNotFound",
        ),
    ],
)
def test_a_template_that_is_not_there_is_refused(account, named, code):
    account.template()
    assert code_of(account.ec2.describe_launch_template_versions, **named) == code


def test_a_dry_run_makes_and_deletes_nothing(account):
    template = account.template()
    params = {"LaunchTemplateName": "abc", "LaunchTemplateData": {"ImageId": account.image()}}
    create, delete = account.ec2.create_launch_template, account.ec2.delete_launch_template
    assert code_of(create, DryRun=True, **params) == "DryRunOperation"
    assert code_of(delete, DryRun=True, LaunchTemplateId=template) == "DryRunOperation"
    assert account.world.leftovers()["templates"] == [template]
