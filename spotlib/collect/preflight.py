"""What can be known before money is spent: can this account launch the plans, and at what price.

It launches nothing: it makes describe, get, list and DryRun calls only.  A *problem* stops the
batch; a *warning* names a fact that could not be read.  Each is one sentence.
"""

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from spotlib.collect.cost import PreflightReport, PreparedPlan
from spotlib.collect.dry_run import dry_run_problems
from spotlib.collect.features import PriceHistory, on_demand_usd, spot_prices, target_price
from spotlib.collect.images import Image, image_of
from spotlib.collect.quotas import Quota, quota_of, vcpus_of
from spotlib.ec2.calls import ask_near, chunks
from spotlib.ec2.connection import Caller, Connection
from spotlib.ec2.foreign import finds_by_request
from spotlib.ec2.patience import Patient
from spotlib.ec2.places import currency_of, home_region, partition_of
from spotlib.ec2.refusals import Refusal, reading
from spotlib.model import Plan, Target

_IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"
_IMAGE_NAME = "al2023-ami-2023"
_SPOT_ROLE = "AWSServiceRoleForEC2Spot"


@dataclass
class _Answers:
    connection: Patient
    allow_any_image: bool = False
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
    connection: Connection,
    plans: Sequence[Plan],
    *,
    account_id: str | None = None,
    allow_any_image: bool = False,
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
    allow_any_image
        Accept an image on which the dead-man's switch does not run, or which is not billed as
        plain Linux; warnings then say what that means.

    Returns
    -------
    PreflightReport
        ``problems`` and ``warnings``, one sentence each.  ``prepared`` has one entry per plan that
        can be launched.  ``expected_usd`` and ``bound_usd`` are the cost of one round, NaN if a
        price is unknown.  ``require`` raises if there is a problem.

    Raises
    ------
    ValueError
        If the plans are in regions of different partitions.
    Refusal
        If EC2 cannot be reached or refuses the credentials.  A passing error is waited for, and a
        region that stays in trouble is a problem, which does not hide those of others.
    ValueError
        If the endpoint executes what it was only asked about; what it launched is ended.

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
    answers = _Answers(Patient(connection), allow_any_image=allow_any_image)
    regions = _regions_of_one_partition(plans)
    identity = _identity(answers, regions)
    _check_account(answers, identity, account_id)
    _check_role(answers, regions[0])
    _check_currency(answers, plans)
    prepared: list[PreparedPlan] = []
    free: dict[tuple[str, str], int | None] = {}
    for region in _known_regions(answers, regions):
        here = [plan for plan in plans if plan.target.region == region]
        try:
            ready = _prepare_region(answers, region, here)
            quotas = {quota_of(each.plan.target.instance_type) for each in ready}
            free |= _free_vcpus(answers, region, quotas)
        except Refusal as refusal:  # the other regions are checked all the same
            answers.problems.append(f"{region} cannot be checked: {refusal}")
            continue
        prepared += [_with_quota(answers, each, free[region, each.family]) for each in ready]
    order = {plan.target: index for index, plan in enumerate(plans)}
    prepared.sort(key=lambda each: order[each.plan.target])
    for region in sorted({each.plan.target.region for each in prepared}):
        ready = [each for each in prepared if each.plan.target.region == region]
        answers.problems += dry_run_problems(answers.connection, region, ready)
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


def _identity(answers: _Answers, regions: Sequence[str]) -> dict[str, Any]:
    ask = partial(ask_near, answers.connection, regions, "get_caller_identity", service="sts")
    return answers.optional("the account", ask, {}) if answers.connection.foreign else ask()


def _check_account(answers: _Answers, identity: Mapping[str, Any], wanted: str | None) -> None:
    account = identity.get("Account")
    if wanted and wanted != account:
        answers.problems.append(
            f"account_id {wanted!r} is not the account of these credentials, {account!r} "
            f"({identity.get('Arn')}): choose another profile"
        )


def _regions_of_one_partition(plans: Sequence[Plan]) -> list[str]:
    """Return the partition's home region, and then those of the plans."""
    regions = sorted({plan.target.region for plan in plans})
    if len(partitions := {partition_of(region): region for region in regions}) > 1:
        named = ", ".join(f"{region} ({name})" for name, region in sorted(partitions.items()))
        raise ValueError(
            f"no account is in several partitions of AWS, but the targets are: {named}: make one "
            "batch for each"
        )
    return [home_region(regions[0]) if regions else "us-east-1", *regions]


def _check_currency(answers: _Answers, plans: Sequence[Plan]) -> None:
    """Where EC2's prices are not in USD, they are unknown here, and none can be sent."""
    for plan in plans:
        region, currency = plan.target.region, currency_of(plan.target.region)
        if currency == "USD":
            continue
        answers.warnings.append(
            f"EC2's prices in {region} are in {currency} and are not recorded, so no cost is known"
        )
        if plan.max_price_usd is not None:
            answers.problems.append(
                f"max_price_usd={plan.max_price_usd:g} cannot be sent to {region}, which takes "
                f"{currency}: leave it out"
            )


def _check_role(answers: _Answers, home: str) -> None:
    try:
        answers.connection.call(home, "get_role", service="iam", RoleName=_SPOT_ROLE)
    except Refusal as refusal:
        if refusal.code == "NoSuchEntity":
            once = "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
            advice = "not needed there" if answers.connection.foreign else f"run once: {once}"
            answers.lacks(f"the service-linked role {_SPOT_ROLE} is missing; {advice}")
        else:
            answers.warnings.append(f"whether {_SPOT_ROLE} exists is not known: {refusal}")


def _region_states(answers: _Answers, regions: Sequence[str]) -> Mapping[str, str | None]:
    """Return the opt-in state of each region; None where it cannot be asked for."""
    found = answers.optional(
        "which regions are enabled",
        lambda: ask_near(answers.connection, regions, "describe_regions", AllRegions=True),
        None,
    )
    if found is None:
        return dict.fromkeys(answers.connection.region_names(regions[0]))
    return {item["RegionName"]: item.get("OptInStatus") for item in found["Regions"]}


def _known_regions(answers: _Answers, regions: Sequence[str]) -> list[str]:
    status = _region_states(answers, regions)
    known = []
    for region in regions[1:]:
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


def _warn_foreign(answers: _Answers, region: str) -> None:
    if not finds_by_request(answers.connection, region):
        answers.warnings.append(
            "this endpoint does not find instances by their request: they are found by the ids "
            "that the requests name"
        )


def _prepare_region(answers: _Answers, region: str, plans: Sequence[Plan]) -> list[PreparedPlan]:
    offered = [plan for plan in plans if _is_offered(answers, plan.target)]
    types = _describe_types(answers, region, {plan.target.instance_type for plan in offered})
    _warn_foreign(answers, region)
    sold = [plan for plan in offered if _sold_as_spot(answers, plan, types)]
    if not sold or not _has_default_vpc(answers, region):
        return []
    images = _images(answers, region, {plan: _architecture(types, plan) for plan in sold})
    images = {plan: image for plan, image in images.items() if _is_accepted(answers, plan, image)}
    prices = _prices(answers, region, images)
    return [
        _placed(answers, _prepared(answers, plan, types[plan.target.instance_type], image, prices))
        for plan, image in images.items()
    ]


def _prices(
    answers: _Answers, region: str, images: Mapping[Plan, Image]
) -> dict[str, PriceHistory]:
    """Return the prices of each product that the images run."""
    names: dict[str, set[str]] = {}
    for plan, image in images.items():
        names.setdefault(image.product, set()).add(plan.target.instance_type)
    return {
        product: answers.optional(
            f"the spot price in {region}",
            partial(spot_prices, answers.connection, region, names[product], product=product),
            PriceHistory(),
        )
        for product in names
    }


def _is_accepted(answers: _Answers, plan: Plan, image: Image) -> bool:
    """Whether the image may be launched, with the problem or the warnings that belong to it."""
    instance_type = plan.target.instance_type
    name = f"image {image.image_id} ({image.name}) on {instance_type}"
    objections = "; ".join(image.objections(instance_type))
    if objections and not answers.allow_any_image:
        answers.problems.append(
            f"{name}: {objections}; choose another image or type, or accept it with allow_any_image"
        )
        return False
    if objections:
        answers.warnings.append(f"{name} is accepted: {objections}")
    if plan.image is not None and image.runs_switch(instance_type) is None:
        answers.warnings.append(
            f"{name}: it is not known whether it runs the script in the user data (cloud-init); if "
            "not, neither the dead-man's switch nor the hard bound holds"
        )
    return True


def _prepared(
    answers: _Answers,
    plan: Plan,
    info: Mapping[str, Any],
    image: Image,
    prices: Mapping[str, PriceHistory],
) -> PreparedPlan:
    what = f"the on-demand price of {plan.target}, and so the hard bound,"
    ask = partial(on_demand_usd, answers.connection, plan.target, operation=image.operation)
    on_demand = answers.optional(what, ask, None)
    if on_demand is not None and math.isnan(on_demand):
        answers.warnings.append(f"{what} is not known: no price in USD is listed")
    return PreparedPlan(
        plan=replace(plan, image=image.image_id),
        image=image.image_id,
        image_name=image.name,
        vcpus=info["VCpuInfo"]["DefaultVCpus"],
        burstable=info.get("BurstablePerformanceSupported", False),
        family=quota_of(plan.target.instance_type).name,
        price_usd=target_price(prices[image.product], plan.target)[0],
        on_demand_usd=math.nan if on_demand is None else on_demand,
        product=image.product,
        by_the_hour=image.by_the_hour,
        has_switch=image.runs_switch(plan.target.instance_type) is not False,
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


def _offers(connection: Caller, region: str, location: str, instance_type: str) -> set[str]:
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


def _all_types(connection: Caller, region: str) -> set[str]:
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


def _images(answers: _Answers, region: str, wanted: Mapping[Plan, str]) -> dict[Plan, Image]:
    """Return the image for each plan: the user's, or the newest Amazon Linux 2023."""
    newest = _newest_images(answers, region, {a for p, a in wanted.items() if p.image is None})
    ids = {plan: plan.image or newest.get(architecture) for plan, architecture in wanted.items()}
    known: dict[str, Image] = {}
    for name in sorted({image for image in ids.values() if image}):
        try:
            reply = answers.connection.call(region, "describe_images", ImageIds=[name])
        except Refusal as refusal:
            answers.problems.append(f"image {name!r} cannot be used in {region}: {refusal}")
            continue
        known |= {item["ImageId"]: image_of(item) for item in reply["Images"]}
    chosen: dict[Plan, Image] = {}
    for plan, image in ids.items():
        if image is None or image not in known:
            continue
        if known[image].architecture != wanted[plan]:
            answers.problems.append(
                f"image {image!r} is for {known[image].architecture}, "
                f"{plan.target.instance_type} is {wanted[plan]}: leave image out"
            )
            continue
        chosen[plan] = known[image]
    return chosen


def _newest_images(answers: _Answers, region: str, architectures: set[str]) -> dict[str, str]:
    if not architectures:
        return {}
    if answers.connection.foreign:
        images = ((each, _foreign_image(answers, region, each)) for each in sorted(architectures))
        return {each: image for each, image in images if image}
    names = {_IMAGE_PARAMETER.format(each): each for each in sorted(architectures)}
    reply = answers.connection.call(region, "get_parameters", service="ssm", Names=list(names))
    found = {names[item["Name"]]: item["Value"] for item in reply["Parameters"]}
    for architecture in sorted(architectures - found.keys()):
        answers.problems.append(f"{region} has no Amazon Linux 2023 for {architecture}: set image")
    return found


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
    answers: _Answers, region: str, quotas: set[Quota]
) -> dict[tuple[str, str], int | None]:
    """Return the vCPUs left under each quota; open requests count like running instances."""
    limits = _limits(answers, region, quotas)
    used = _used_vcpus(answers, region) if limits else {}
    return {
        (region, each.name): limits[each] - used.get(each, 0) if each in limits else None
        for each in quotas
    }


def _limits(answers: _Answers, region: str, quotas: set[Quota]) -> dict[Quota, int]:
    """Return the quotas of the account; one that was never applied to it has its default."""
    shown = partial(_shown_quotas, answers.connection, region)
    limits: dict[Quota, int] | None = answers.optional(
        f"the quota in {region}", partial(shown, "list_service_quotas", quotas), None
    )
    if limits is None:
        return {}
    missing = quotas - limits.keys()
    if missing:
        asked = partial(shown, "list_aws_default_service_quotas", missing)
        limits |= answers.optional(f"the default quota in {region}", asked, dict[Quota, int]())
    for each in sorted(missing - limits.keys(), key=lambda each: each.name):
        answers.warnings.append(
            f"the quota 'All {each.name} Spot Instance Requests' in {region} is not listed: a new "
            f"account has {each.fresh_vcpus} vCPUs"
            if each.fresh_vcpus is not None
            else f"which spot quota {each.name} counts against is not known here, so not whether "
            f"it is large enough in {region}"
        )
    return limits


def _shown_quotas(
    connection: Caller, region: str, action: str, quotas: set[Quota]
) -> dict[Quota, int]:
    items = connection.pages(region, action, "Quotas", service="service-quotas", ServiceCode="ec2")
    with reading("quota", action=action, region=region):
        return vcpus_of(items, quotas)


def _used_vcpus(answers: _Answers, region: str) -> dict[Quota, int]:
    requests = answers.connection.pages(
        region,
        "describe_spot_instance_requests",
        "SpotInstanceRequests",
        Filters=[{"Name": "state", "Values": ["open", "active"]}],
        MaxResults=1000,
    )
    counts = Counter(item["LaunchSpecification"]["InstanceType"] for item in requests)
    types = _describe_types(answers, region, set(counts))
    used: dict[Quota, int] = {}
    for name, count in counts.items():
        quota = quota_of(name)
        used[quota] = used.get(quota, 0) + count * types[name]["VCpuInfo"]["DefaultVCpus"]
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
