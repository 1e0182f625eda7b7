"""What can be known before money is spent: is this account able and allowed to, and at what price.

Nothing here launches, and only describe, get and DryRun calls are made.  What stops a batch is a
*problem*, what may be wrong but could not be looked up is a *warning*; each is one sentence.
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
from spotlib.ec2.methods.request_spot_instances import request_parameters
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind, Plan, Target

_IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"
_SPOT_ROLE = "AWSServiceRoleForEC2Spot"


@dataclass
class _Findings:
    connection: Connection
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def optional(self, what: str, ask: Callable[[], Any], default: Any) -> Any:
        """The answer, or the default and a warning where asking is refused."""
        try:
            return ask()
        except Refusal as refusal:
            self.warnings.append(f"{what} is not known: {refusal}")
            return default


def preflight(
    connection: Connection, plans: Sequence[Plan], *, account_id: str | None = None
) -> PreflightReport:
    """Look up all that can stop these plans, or be said of their cost, and spend nothing.

    Raises
    ------
    Refusal
        If not even the identity can be had: no credentials, no connection.
    """
    found = _Findings(connection)
    identity = connection.call(HOME_REGION, "get_caller_identity", service="sts")
    _check_account(found, identity, account_id)
    _check_role(found)
    prepared: list[PreparedPlan] = []
    free: dict[tuple[str, str], int | None] = {}
    for region in _known_regions(found, plans):
        here = [plan for plan in plans if plan.target.region == region]
        ready = _prepare_region(found, region, here)
        free |= _free_vcpus(found, region, {each.family for each in ready})
        prepared += [_with_quota(found, each, free[region, each.family]) for each in ready]
    order = {plan.target: index for index, plan in enumerate(plans)}
    prepared.sort(key=lambda each: order[each.plan.target])
    for region in sorted({each.plan.target.region for each in prepared}):
        _check_permissions(found, next(p for p in prepared if p.plan.target.region == region))
    return PreflightReport(
        account=identity.get("Account"),
        arn=identity.get("Arn"),
        prepared=tuple(prepared),
        free_vcpus=free,
        credentials_end_at=connection.credentials_end_at(),
        problems=tuple(found.problems),
        warnings=tuple(dict.fromkeys(found.warnings)),
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """``; nearest: a, b`` for a name that is not among the known ones, or nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""


def _check_account(found: _Findings, identity: Mapping[str, Any], wanted: str | None) -> None:
    account = identity.get("Account")
    if wanted and wanted != account:
        found.problems.append(
            f"account_id {wanted!r} is not the caller's, which is {account!r} "
            f"({identity.get('Arn')}): choose another profile"
        )


def _check_role(found: _Findings) -> None:
    try:
        found.connection.call(HOME_REGION, "get_role", service="iam", RoleName=_SPOT_ROLE)
    except Refusal as refusal:
        if refusal.code == "NoSuchEntity":
            found.problems.append(
                f"the service-linked role {_SPOT_ROLE} is missing; run once: "
                "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
            )
        else:
            found.warnings.append(f"whether {_SPOT_ROLE} exists is not known: {refusal}")


def _known_regions(found: _Findings, plans: Sequence[Plan]) -> list[str]:
    reply = found.connection.call(HOME_REGION, "describe_regions", AllRegions=True)
    status = {item["RegionName"]: item.get("OptInStatus") for item in reply["Regions"]}
    known = []
    for region in sorted({plan.target.region for plan in plans}):
        if region not in status:
            found.problems.append(f"region {region!r} does not exist{nearest(region, status)}")
        elif status[region] == "not-opted-in":
            found.problems.append(
                f"region {region!r} is not opted in: enable it in the account's settings, or run "
                f"aws account enable-region --region-name {region}"
            )
        else:
            known.append(region)
    return known


def _prepare_region(found: _Findings, region: str, plans: Sequence[Plan]) -> list[PreparedPlan]:
    offered = [plan for plan in plans if _is_offered(found, plan.target)]
    types = _describe_types(found, region, {plan.target.instance_type for plan in offered})
    sold = [plan for plan in offered if _sold_as_spot(found, plan, types)]
    if not sold:
        return []
    if not _default_vpc(found, region):
        return []
    images = _images(found, region, {plan: _architecture(types, plan) for plan in sold})
    prices = found.optional(
        f"the spot price in {region}",
        lambda: spot_prices(found.connection, region, {p.target.instance_type for p in sold}),
        {},
    )
    return [
        _placed(found, _prepared(found, plan, types[plan.target.instance_type], image, prices))
        for plan, image in images.items()
    ]


def _prepared(
    found: _Findings,
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
        on_demand_usd=found.optional(
            f"the on-demand price of {plan.target}, and so the hard bound,",
            lambda: on_demand_usd(found.connection, plan.target),
            math.nan,
        ),
    )


def _is_offered(found: _Findings, target: Target) -> bool:
    location = "availability-zone-id" if target.availability_zone_id else "region"
    place = target.availability_zone_id or target.region
    offers = _offers(found.connection, target.region, location, target.instance_type)
    if place in offers:
        return True
    if target.availability_zone_id and offers:
        found.problems.append(
            f"{target.instance_type} is not offered in zone {place!r}; it is in {sorted(offers)}"
        )
        return False
    names = _all_types(found.connection, target.region)
    found.problems.append(
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


def _describe_types(found: _Findings, region: str, names: set[str]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for some in chunks(sorted(names), 100):
        reply = found.connection.call(region, "describe_instance_types", InstanceTypes=some)
        types |= {item["InstanceType"]: item for item in reply["InstanceTypes"]}
    return types


def _sold_as_spot(found: _Findings, plan: Plan, types: Mapping[str, Any]) -> bool:
    target = plan.target
    if "spot" in types[target.instance_type]["SupportedUsageClasses"]:
        return True
    found.problems.append(f"{target.instance_type} is not sold as spot in {target.region}")
    return False


def _architecture(types: Mapping[str, Any], plan: Plan) -> str:
    supported = types[plan.target.instance_type]["ProcessorInfo"]["SupportedArchitectures"]
    return next((name for name in ("arm64", "x86_64") if name in supported), supported[0])


def _images(
    found: _Findings, region: str, wanted: Mapping[Plan, str]
) -> dict[Plan, tuple[str, str]]:
    """The AMI id and name for each plan: the user's, or the newest Amazon Linux 2023."""
    newest = _newest_images(found, region, {a for p, a in wanted.items() if p.image is None})
    ids = {plan: plan.image or newest.get(architecture) for plan, architecture in wanted.items()}
    known: dict[str, Any] = {}
    for name in sorted({image for image in ids.values() if image}):
        try:
            reply = found.connection.call(region, "describe_images", ImageIds=[name])
        except Refusal as refusal:
            found.problems.append(f"image {name!r} cannot be used in {region}: {refusal}")
            continue
        known |= {item["ImageId"]: item for item in reply["Images"]}
    chosen: dict[Plan, tuple[str, str]] = {}
    for plan, image in ids.items():
        if image is None or image not in known:
            continue
        if known[image]["Architecture"] != wanted[plan]:
            found.problems.append(
                f"image {image!r} is for {known[image]['Architecture']}, "
                f"{plan.target.instance_type} is {wanted[plan]}: leave image out"
            )
            continue
        chosen[plan] = (image, known[image].get("Name", ""))
    return chosen


def _newest_images(found: _Findings, region: str, architectures: set[str]) -> dict[str, str]:
    names = {_IMAGE_PARAMETER.format(each): each for each in sorted(architectures)}
    if not names:
        return {}
    reply = found.connection.call(region, "get_parameters", service="ssm", Names=list(names))
    for name in reply.get("InvalidParameters", []):
        found.problems.append(f"{region} has no Amazon Linux 2023 for {names[name]}: give an image")
    return {names[item["Name"]]: item["Value"] for item in reply["Parameters"]}


def _default_vpc(found: _Findings, region: str) -> bool:
    filters = [{"Name": "is-default", "Values": ["true"]}]
    if found.connection.call(region, "describe_vpcs", Filters=filters)["Vpcs"]:
        return True
    found.problems.append(
        f"{region} has no default VPC: aws ec2 create-default-vpc --region {region}"
    )
    return False


def _placed(found: _Findings, each: PreparedPlan) -> PreparedPlan:
    """A zone target names its default subnet and security group, and takes no address."""
    target = each.plan.target
    if target.availability_zone_id is None:
        return each
    filters = [
        {"Name": "default-for-az", "Values": ["true"]},
        {"Name": "availability-zone-id", "Values": [target.availability_zone_id]},
    ]
    subnets = found.connection.call(target.region, "describe_subnets", Filters=filters)["Subnets"]
    if not subnets:
        found.problems.append(f"zone {target.availability_zone_id} has no default subnet")
        return each
    filters = [
        {"Name": "group-name", "Values": ["default"]},
        {"Name": "vpc-id", "Values": [subnets[0]["VpcId"]]},
    ]
    reply = found.connection.call(target.region, "describe_security_groups", Filters=filters)
    group_id = reply["SecurityGroups"][0]["GroupId"]
    return replace(each, subnet_id=subnets[0]["SubnetId"], group_id=group_id)


def _free_vcpus(
    found: _Findings, region: str, families: set[str]
) -> dict[tuple[str, str], int | None]:
    """How many vCPUs each quota leaves: open requests count as much as running instances."""
    limits = found.optional(
        f"the quota in {region}", lambda: _quotas(found.connection, region), dict[str, int]()
    )
    used = _used_vcpus(found, region) if families & set(limits) else {}
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


def _used_vcpus(found: _Findings, region: str) -> dict[str, int]:
    requests = found.connection.pages(
        region,
        "describe_spot_instance_requests",
        "SpotInstanceRequests",
        Filters=[{"Name": "state", "Values": ["open", "active"]}],
        MaxResults=1000,
    )
    counts = Counter(item["LaunchSpecification"]["InstanceType"] for item in requests)
    types = _describe_types(found, region, set(counts))
    used: dict[str, int] = {}
    for name, count in counts.items():
        family = quota_family(name)
        used[family] = used.get(family, 0) + count * types[name]["VCpuInfo"]["DefaultVCpus"]
    return used


def _with_quota(found: _Findings, each: PreparedPlan, free: int | None) -> PreparedPlan:
    if free is None:
        return each
    largest, plan = max(free, 0) // each.vcpus, each.plan
    if plan.count > largest:
        found.problems.append(
            f"n={plan.count} of {plan.target} needs {plan.count * each.vcpus} vCPUs, the quota "
            f"'All {each.family} Spot Instance Requests' leaves {free}: the largest n is {largest}"
        )
    return replace(each, largest_count=largest)


def _check_permissions(found: _Findings, each: PreparedPlan) -> None:
    """DryRun of what will change something: also of the clean-up, before anything is spent."""
    connection, region = found.connection, each.plan.target.region
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
        except Refusal as refusal:  # DryRunOperation is the good answer; NotFound is no veto
            if refusal.kind is Kind.PERMISSION:
                found.problems.append(str(refusal))
