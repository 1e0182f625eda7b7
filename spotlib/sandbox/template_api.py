"""The calls about launch templates, of which each has one version.

Each public function with ``params`` is one EC2 action: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from spotlib.sandbox import launch_checks, tokens
from spotlib.sandbox.account import Template
from spotlib.sandbox.chance import digest
from spotlib.sandbox.filters import narrow, page
from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    end_dry_run,
    invalid,
    missing,
    refuse_others,
)
from spotlib.sandbox.shapes import stamp, tag_list
from spotlib.sandbox.world import World

_ACTION = "CreateLaunchTemplate"
_NAME = re.compile(r"[a-zA-Z0-9().\-/_]{3,128}")
_ID = re.compile(r"lt-[0-9a-f]{17}")
_GUEST = {"CreditSpecification", "InstanceInitiatedShutdownBehavior", "MetadataOptions"}
DATA = launch_checks.LAUNCH - {"SubnetId"} | _GUEST | {"TagSpecifications"}
_PATHS = {
    "create-time": "CreateTime",
    "launch-template-name": "LaunchTemplateName",
    "tag-key": "Tags.Key",
}
_VERSION_PATHS = {
    "create-time": "CreateTime",
    "image-id": "LaunchTemplateData.ImageId",
    "instance-type": "LaunchTemplateData.InstanceType",
    "is-default-version": "DefaultVersion",
}


def create_launch_template(world: World, region: str, params: Params) -> Shape:
    """Create a template.  Whether its image and its type exist is checked by each launch."""
    account = world.region(region)
    known = tokens.recall(world, region, _ACTION, params)
    if known is not None:
        return {"LaunchTemplate": _shape(world, known)}
    name, data = params.get("LaunchTemplateName", ""), params.get("LaunchTemplateData") or {}
    if not _NAME.fullmatch(name):
        message = f"The launch template name '{name}' is not 3 to 128 characters of a-zA-Z0-9().-/_"
        raise ApiError("InvalidLaunchTemplateName.MalformedException", message)
    if any(each.name == name for each in account.templates.values()):
        message = "Launch template name already in use."
        raise ApiError("InvalidLaunchTemplateName.AlreadyExistsException", message)
    if not data:
        raise missing("LaunchTemplateData")
    refuse_others(data, DATA, "LaunchTemplateData")
    launch_checks.check_options(data)
    launch_checks.check_user_data(data)
    launch_checks.tags_at_birth(data)
    tags = launch_checks.tags_at_birth(params, ("launch-template",))
    end_dry_run(params)
    draw = (world.seed, region, name, len(world.calls))
    template = Template(
        template_id=f"lt-0{digest(8, 'lt', *draw).hex()}",
        name=name,
        description=params.get("VersionDescription", ""),
        data=data,
        created_s=world.now_s,
        known_s=world.now_s + world.reads.template_unknown_for_s(*draw),
        tags=tags.get("launch-template", {}),
    )
    account.templates[template.template_id] = template
    tokens.keep(world, region, _ACTION, params, template)
    return {"LaunchTemplate": _shape(world, template)}


def describe_launch_templates(world: World, region: str, params: Params) -> Shape:
    """Templates by id, by name or by filter."""
    ids, names = params.get("LaunchTemplateIds", []), params.get("LaunchTemplateNames", [])
    found = [find_template(world, region, template_id=each) for each in ids]
    found += [find_template(world, region, name=each) for each in names]
    shapes = narrow(
        (_shape(world, each) for each in (found if ids or names else _known(world, region))),
        params,
        "DescribeLaunchTemplates",
        _PATHS,
    )
    shown, more = _page(shapes, params)
    return {"LaunchTemplates": shown, **more}


def describe_launch_template_versions(world: World, region: str, params: Params) -> Shape:
    """The versions of one template, or the newest or default ones of all."""
    found, versions = list(_known(world, region)), params.get("Versions", [])
    if "LaunchTemplateId" in params or "LaunchTemplateName" in params:
        found = [named_template(world, region, params)]
        for version in versions:
            check_version(found[0], version)
    elif not versions or not set(versions) <= {"$Latest", "$Default"}:
        raise missing("LaunchTemplateId")
    shapes = (_version_shape(world, each) for each in found)
    rows = narrow(shapes, params, "DescribeLaunchTemplateVersions", _VERSION_PATHS)
    shown, more = _page(rows, params)
    return {"LaunchTemplateVersions": shown, **more}


def delete_launch_template(world: World, region: str, params: Params) -> Shape:
    """Delete a template; what was launched from it lives on."""
    template = named_template(world, region, params)
    end_dry_run(params)
    del world.region(region).templates[template.template_id]
    return {"LaunchTemplate": _shape(world, template)}


def fill_in(world: World, region: str, params: Params) -> Params:
    """The parameters of a call together with what the launch template that it names adds."""
    named = params.get("LaunchTemplate")
    if not named:
        return params
    template = named_template(world, region, named)
    check_version(template, named.get("Version", "$Default"))
    tags = [*template.data.get("TagSpecifications", []), *params.get("TagSpecifications", [])]
    return {**template.data, **params, "TagSpecifications": tags}


def named_template(world: World, region: str, named: Params) -> Template:
    """The template that a call names by its id or by its name, never by both."""
    template_id, name = named.get("LaunchTemplateId"), named.get("LaunchTemplateName")
    if template_id and name:
        raise invalid("Specify either the id or the name of a launch template, not both.")
    if not template_id and not name:
        raise missing("LaunchTemplateId")
    return find_template(world, region, template_id=template_id or "", name=name or "")


def find_template(world: World, region: str, *, template_id: str = "", name: str = "") -> Template:
    """The template with this id or name, if calls know of it by now."""
    if template_id and not _ID.fullmatch(template_id):
        raise ApiError("InvalidLaunchTemplateId.Malformed", f'Invalid id: "{template_id}"')
    for template in _known(world, region):
        if (template.template_id if template_id else template.name) == (template_id or name):
            return template
    if template_id:
        code, what = "InvalidLaunchTemplateId.NotFound", f"template ID {template_id}"
    else:
        code, what = "InvalidLaunchTemplateName.NotFoundException", f"template name {name}"
    raise ApiError(code, f"The specified launch template, with {what}, does not exist.")


def check_version(template: Template, version: str) -> None:
    """Refuse a version that the template does not have; each has only the first."""
    if version not in ("1", "$Latest", "$Default"):
        message = (
            f"Could not find the specified version {version} for the launch template with ID "
            f"{template.template_id}."
        )
        raise ApiError("InvalidLaunchTemplateId.VersionNotFound", message)


def _known(world: World, region: str) -> Iterable[Template]:
    for each in world.region(region).templates.values():
        if each.known_s <= world.now_s:
            yield each


def _page(shapes: Sequence[Shape], params: Params) -> tuple[list[Shape], dict[str, str]]:
    return page(shapes, params, least=1)


def _shape(world: World, template: Template) -> Shape:
    return {
        **_head(world, template),
        "DefaultVersionNumber": 1,
        "LatestVersionNumber": 1,
        "Tags": tag_list(template.tags),
    }


def _version_shape(world: World, template: Template) -> Shape:
    return {
        **_head(world, template),
        "VersionNumber": 1,
        "VersionDescription": template.description or None,
        "DefaultVersion": True,
        "LaunchTemplateData": template.data,
    }


def _head(world: World, template: Template) -> Shape:
    return {
        "LaunchTemplateId": template.template_id,
        "LaunchTemplateName": template.name,
        "CreateTime": stamp(world, template.created_s),
        "CreatedBy": f"arn:{world.partition}:iam::{world.account_id}:user/sandbox",
    }
