"""What can be known before money is spent: can this account launch the plans, and at what price.

It launches nothing: it makes describe, get, list and DryRun calls only.  A *problem* stops the
batch; a *warning* names a fact that could not be read.  Each is one sentence.
"""

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from spotlib.collect.cost import PreflightReport, PreparedPlan, quota_family
from spotlib.collect.features import PriceHistory, on_demand_usd, spot_prices, target_price
from spotlib.ec2.calls import HOME_REGION, TAG_BATCH, chunks
from spotlib.ec2.connection import Connection
from spotlib.ec2.foreign import finds_by_request
from spotlib.ec2.methods.request_spot_instances import request_parameters
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind, Plan, Target

_IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"
_IMAGE_NAME = "al2023-ami-2023"
_SPOT_ROLE = "AWSServiceRoleForEC2Spot"


@dataclass
class _Answers:
    connection: Connection
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lacks(self, what: str) -> None:
        """Note what AWS must have, and another program that answers for EC2 may do without."""
        (self.warnings if self.connection.foreign else self.problems).append(what)

    def optional(self, what: str, ask: Callable[[], Any], default: Any) -> Any:
        """Return the answer; if it is refused, note a warning and return the default."""
        try:
            return ask()
        except Refusal as refusal:
            self.warnings.append(f"{what} is not known: {refusal}")
            return default


def preflight(
    connection: Connection, plans: Sequence[Plan], *, account_id: str | None = None
) -> PreflightReport:
    """Check everything that could stop these plans, estimate their cost, and spend nothing.

    Parameters
    ----------
    connection
        Where EC2 is; see ``connect``.
    plans
        What would be launched; see ``plan_launches``.
    account_id
        The AWS account that the credentials must belong to, 12 digits; None allows any.

    Returns
    -------
    PreflightReport
        ``problems`` and ``warnings``, one sentence each.  ``prepared`` has one entry per plan that
        can be launched.  ``expected_usd`` and ``bound_usd`` are the cost of one round, NaN if a
        price is unknown.  ``require`` raises if there is a problem.

    Raises
    ------
    Refusal
        If EC2 cannot be reached, refuses the credentials, or refuses a call without which nothing
        is known, such as describe_regions.

    Examples
    --------
    >>> from spotlib import Target, connect, plan_launches, preflight
    >>> connection = connect("sandbox", seed=1)
    >>> report = preflight(connection, plan_launches([Target("t3.nano", "sa-east-1")], count=2))
    >>> connection.close()
    >>> report.problems, len(report.prepared)
    ((), 1)
    >>> 0 < report.expected_usd < report.bound_usd < 0.1
    True
    """
    answers = _Answers(connection)
    identity = _identity(answers)
    _check_account(answers, identity, account_id)
    _check_role(answers)
    prepared: list[PreparedPlan] = []
    free: dict[tuple[str, str], int | None] = {}
    for region in _known_regions(answers, plans):
        here = [plan for plan in plans if plan.target.region == region]
        ready = _prepare_region(answers, region, here)
        free |= _free_vcpus(answers, region, {each.family for each in ready})
        prepared += [_with_quota(answers, each, free[region, each.family]) for each in ready]
    order = {plan.target: index for index, plan in enumerate(plans)}
    prepared.sort(key=lambda each: order[each.plan.target])
    for region in sorted({each.plan.target.region for each in prepared}):
        _check_permissions(answers, next(p for p in prepared if p.plan.target.region == region))
    return PreflightReport(
        account=identity.get("Account"),
        arn=identity.get("Arn"),
        prepared=tuple(prepared),
        free_vcpus=free,
        credentials_end_at=connection.credentials_end_at(),
        problems=tuple(answers.problems),
        warnings=tuple(dict.fromkeys(answers.warnings)),
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; nearest: a, b``, the known names closest to an unknown one, or ""."""
    close = difflib.get_close_matches(name, sorted(known), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""


def _identity(answers: _Answers) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        return answers.connection.call(HOME_REGION, "get_caller_identity", service="sts")

    return answers.optional("the account", ask, {}) if answers.connection.foreign else ask()


def _check_account(answers: _Answers, identity: Mapping[str, Any], wanted: str | None) -> None:
    account = identity.get("Account")
    if wanted and wanted != account:
        answers.problems.append(
            f"account_id {wanted!r} is not the account of these credentials, {account!r} "
            f"({identity.get('Arn')}): choose another profile"
        )


def _check_role(answers: _Answers) -> None:
    try:
        answers.connection.call(HOME_REGION, "get_role", service="iam", RoleName=_SPOT_ROLE)
    except Refusal as refusal:
        if refusal.code == "NoSuchEntity":
            answers.lacks(
                f"the service-linked role {_SPOT_ROLE} is missing; run once: "
                "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
            )
        else:
            answers.warnings.append(f"whether {_SPOT_ROLE} exists is not known: {refusal}")


def _known_regions(answers: _Answers, plans: Sequence[Plan]) -> list[str]:
    reply = answers.connection.call(HOME_REGION, "describe_regions", AllRegions=True)
    status = {item["RegionName"]: item.get("OptInStatus") for item in reply["Regions"]}
    _warn_foreign(answers)
    known = []
    for region in sorted({plan.target.region for plan in plans}):
        if region not in status:
            answers.problems.append(f"region {region!r} does not exist{nearest(region, status)}")
        elif status[region] == "not-opted-in":
            answers.problems.append(
                f"region {region!r} is not opted in: enable it in the account's settings, or run "
                f"aws account enable-region --region-name {region}"
            )
        else:
            known.append(region)
    return known


def _warn_foreign(answers: _Answers) -> None:
    if not finds_by_request(answers.connection, HOME_REGION):
        answers.warnings.append(
            "this endpoint does not find instances by their request: they are found by the ids "
            "that the requests name"
        )


def _prepare_region(answers: _Answers, region: str, plans: Sequence[Plan]) -> list[PreparedPlan]:
    offered = [plan for plan in plans if _is_offered(answers, plan.target)]
    types = _describe_types(answers, region, {plan.target.instance_type for plan in offered})
    sold = [plan for plan in offered if _sold_as_spot(answers, plan, types)]
    if not sold or not _has_default_vpc(answers, region):
        return []
    images = _images(answers, region, {plan: _architecture(types, plan) for plan in sold})
    prices = answers.optional(
        f"the spot price in {region}",
        lambda: spot_prices(answers.connection, region, {p.target.instance_type for p in sold}),
        {},
    )
    return [
        _placed(answers, _prepared(answers, plan, types[plan.target.instance_type], image, prices))
        for plan, image in images.items()
    ]


def _prepared(
    answers: _Answers,
    plan: Plan,
    info: Mapping[str, Any],
    image: tuple[str, str],
    prices: PriceHistory,
) -> PreparedPlan:
    return PreparedPlan(
        plan=replace(plan, image=image[0]),
        image=image[0],
        image_name=image[1],
        vcpus=info["VCpuInfo"]["DefaultVCpus"],
        burstable=info.get("BurstablePerformanceSupported", False),
        family=quota_family(plan.target.instance_type),
        price_usd=target_price(prices, plan.target)[0],
        on_demand_usd=answers.optional(
            f"the on-demand price of {plan.target}, and so the hard bound,",
            lambda: on_demand_usd(answers.connection, plan.target),
            math.nan,
        ),
    )


def _is_offered(answers: _Answers, target: Target) -> bool:
    location = "availability-zone-id" if target.availability_zone_id else "region"
    place = target.availability_zone_id or target.region
    offers = _offers(answers.connection, target.region, location, target.instance_type)
    if place in offers:
        return True
    if target.availability_zone_id and offers:
        answers.problems.append(
            f"{target.instance_type} is not offered in zone {place!r}; it is in {sorted(offers)}"
        )
        return False
    names = _all_types(answers.connection, target.region)
    answers.problems.append(
        f"instance type {target.instance_type!r} is not offered in {target.region}"
        f"{nearest(target.instance_type, names)}"
    )
    return False


def _offers(connection: Connection, region: str, location: str, instance_type: str) -> set[str]:
    filters = [{"Name": "instance-type", "Values": [instance_type]}]
    return {
        item["Location"]
        for item in connection.pages(
            region,
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            LocationType=location,
            Filters=filters,
        )
    }


def _all_types(connection: Connection, region: str) -> set[str]:
    offers = connection.pages(
        region, "describe_instance_type_offerings", "InstanceTypeOfferings", LocationType="region"
    )
    return {item["InstanceType"] for item in offers}


def _describe_types(answers: _Answers, region: str, names: set[str]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for some in chunks(sorted(names), 100):
        reply = answers.connection.call(region, "describe_instance_types", InstanceTypes=some)
        types |= {item["InstanceType"]: item for item in reply["InstanceTypes"]}
    return types


def _sold_as_spot(answers: _Answers, plan: Plan, types: Mapping[str, Any]) -> bool:
    target = plan.target
    if "spot" in types[target.instance_type]["SupportedUsageClasses"]:
        return True
    answers.problems.append(
        f"{target.instance_type} is not sold as spot in {target.region}: choose another"
    )
    return False


def _architecture(types: Mapping[str, Any], plan: Plan) -> str:
    supported = types[plan.target.instance_type]["ProcessorInfo"]["SupportedArchitectures"]
    return next((name for name in ("arm64", "x86_64") if name in supported), supported[0])


def _images(
    answers: _Answers, region: str, wanted: Mapping[Plan, str]
) -> dict[Plan, tuple[str, str]]:
    """Return the AMI id and name for each plan: the user's, or the newest Amazon Linux 2023."""
    newest = _newest_images(answers, region, {a for p, a in wanted.items() if p.image is None})
    ids = {plan: plan.image or newest.get(architecture) for plan, architecture in wanted.items()}
    known: dict[str, Any] = {}
    for name in sorted({image for image in ids.values() if image}):
        try:
            reply = answers.connection.call(region, "describe_images", ImageIds=[name])
        except Refusal as refusal:
            answers.problems.append(f"image {name!r} cannot be used in {region}: {refusal}")
            continue
        known |= {item["ImageId"]: item for item in reply["Images"]}
    chosen: dict[Plan, tuple[str, str]] = {}
    for plan, image in ids.items():
        if image is None or image not in known:
            continue
        if known[image]["Architecture"] != wanted[plan]:
            answers.problems.append(
                f"image {image!r} is for {known[image]['Architecture']}, "
                f"{plan.target.instance_type} is {wanted[plan]}: leave image out"
            )
            continue
        chosen[plan] = (image, known[image].get("Name", ""))
    return chosen


def _newest_images(answers: _Answers, region: str, architectures: set[str]) -> dict[str, str]:
    if not architectures:
        return {}
    if answers.connection.foreign:
        found = {each: _foreign_image(answers, region, each) for each in sorted(architectures)}
        return {each: image for each, image in found.items() if image}
    names = {_IMAGE_PARAMETER.format(each): each for each in sorted(architectures)}
    reply = answers.connection.call(region, "get_parameters", service="ssm", Names=list(names))
    for name in reply.get("InvalidParameters", []):
        answers.problems.append(f"{region} has no Amazon Linux 2023 for {names[name]}: set image")
    return {names[item["Name"]]: item["Value"] for item in reply["Parameters"]}


def _foreign_image(answers: _Answers, region: str, architecture: str) -> str | None:
    """Return the parameter's image if the endpoint lists it, else the newest of its name."""
    names = [_IMAGE_PARAMETER.format(architecture)]
    filters = [
        {"Name": "architecture", "Values": [architecture]},
        {"Name": "name", "Values": [f"{_IMAGE_NAME}*"]},
    ]
    call = answers.connection.call
    parameters = answers.optional(
        f"the image in {region}",
        lambda: call(region, "get_parameters", service="ssm", Names=names)["Parameters"],
        [],
    )
    images = answers.optional(
        f"the images in {region}",
        lambda: call(region, "describe_images", Filters=filters)["Images"],
        [],
    )
    given: list[str] = [each["Value"] for each in parameters]
    listed = {
        each["ImageId"]: (each.get("CreationDate", ""), each["Name"])
        for each in images
        if each.get("Architecture") == architecture and each.get("Name", "").startswith(_IMAGE_NAME)
    }
    known = [each for each in given if each in listed or not listed]
    if known:
        return known[0]
    if not listed:
        answers.problems.append(f"{region} has no Amazon Linux 2023 for {architecture}: set image")
        return None
    newest: str = max(listed, key=lambda each: listed[each])
    answers.warnings.append(
        f"no parameter in {region} names a known image: {newest}, the newest Amazon Linux 2023 for "
        f"{architecture} that the endpoint lists, is used"
    )
    return newest


def _has_default_vpc(answers: _Answers, region: str) -> bool:
    filters = [{"Name": "is-default", "Values": ["true"]}]
    if answers.connection.call(region, "describe_vpcs", Filters=filters)["Vpcs"]:
        return True
    answers.problems.append(
        f"{region} has no default VPC; run once: aws ec2 create-default-vpc --region {region}"
    )
    return False


def _placed(answers: _Answers, each: PreparedPlan) -> PreparedPlan:
    """Add the default subnet and security group of a zone target."""
    target = each.plan.target
    if target.availability_zone_id is None:
        return each
    filters = [
        {"Name": "default-for-az", "Values": ["true"]},
        {"Name": "availability-zone-id", "Values": [target.availability_zone_id]},
    ]
    subnets = answers.connection.call(target.region, "describe_subnets", Filters=filters)["Subnets"]
    if not subnets:
        answers.problems.append(
            f"zone {target.availability_zone_id} has no default subnet: choose another"
        )
        return each
    filters = [
        {"Name": "group-name", "Values": ["default"]},
        {"Name": "vpc-id", "Values": [subnets[0]["VpcId"]]},
    ]
    reply = answers.connection.call(target.region, "describe_security_groups", Filters=filters)
    group_id = reply["SecurityGroups"][0]["GroupId"]
    return replace(each, subnet_id=subnets[0]["SubnetId"], group_id=group_id)


def _free_vcpus(
    answers: _Answers, region: str, families: set[str]
) -> dict[tuple[str, str], int | None]:
    """Return the vCPUs left under each quota; open requests count like running instances."""
    limits = answers.optional(
        f"the quota in {region}", lambda: _quotas(answers.connection, region), dict[str, int]()
    )
    used = _used_vcpus(answers, region) if families & set(limits) else {}
    return {
        (region, family): limits[family] - used.get(family, 0) if family in limits else None
        for family in families
    }


def _quotas(connection: Connection, region: str) -> dict[str, int]:
    quotas = connection.pages(
        region, "list_service_quotas", "Quotas", service="service-quotas", ServiceCode="ec2"
    )
    pattern = re.compile(r"All (.+) Spot Instance Requests")
    named = ((pattern.fullmatch(quota["QuotaName"]), quota["Value"]) for quota in quotas)
    return {match[1]: int(value) for match, value in named if match}


def _used_vcpus(answers: _Answers, region: str) -> dict[str, int]:
    requests = answers.connection.pages(
        region,
        "describe_spot_instance_requests",
        "SpotInstanceRequests",
        Filters=[{"Name": "state", "Values": ["open", "active"]}],
        MaxResults=1000,
    )
    counts = Counter(item["LaunchSpecification"]["InstanceType"] for item in requests)
    types = _describe_types(answers, region, set(counts))
    used: dict[str, int] = {}
    for name, count in counts.items():
        family = quota_family(name)
        used[family] = used.get(family, 0) + count * types[name]["VCpuInfo"]["DefaultVCpus"]
    return used


def _with_quota(answers: _Answers, each: PreparedPlan, free: int | None) -> PreparedPlan:
    if free is None:
        return each
    largest, plan = max(free, 0) // each.vcpus, each.plan
    if plan.count > largest:
        answers.problems.append(
            f"n={plan.count} of {plan.target} needs {plan.count * each.vcpus} vCPUs, the quota "
            f"'All {each.family} Spot Instance Requests' leaves {free}: the largest n is {largest}"
        )
    return replace(each, largest_count=largest)


def _check_permissions(answers: _Answers, each: PreparedPlan) -> None:
    """Try every call that changes something with DryRun, the clean-up's calls too."""
    connection, region = answers.connection, each.plan.target.region
    parameters = request_parameters(
        each.plan,
        image=each.image,
        token="dry-run",
        valid_until=connection.server_utc().replace(microsecond=0) + timedelta(hours=1),
        tags={TAG_BATCH: "dry-run"},
        shutdown_after_min=each.shutdown_after_min,
        subnet_id=each.subnet_id,
        group_id=each.group_id,
    )
    calls: dict[str, dict[str, Any]] = {
        "request_spot_instances": parameters,
        "cancel_spot_instance_requests": {"SpotInstanceRequestIds": ["sir-00000000"]},
        "terminate_instances": {"InstanceIds": ["i-00000000000000000"]},
    }
    for action, given in calls.items():
        try:
            connection.call(region, action, DryRun=True, **given)
        except Refusal as refusal:  # DryRunOperation means yes; NotFound is no problem
            if refusal.kind is Kind.PERMISSION:
                answers.problems.append(str(refusal))
