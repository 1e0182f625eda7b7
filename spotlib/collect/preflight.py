"""What can be known before money is spent: can this account launch the plans, and at what price.

It launches nothing: it makes describe, get, list and DryRun calls only.  A *problem* stops the
batch; a *warning* names a fact that could not be read.  Each is one sentence.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from spotlib.collect.account import (
    check_account,
    check_currency,
    check_roles,
    identity_of,
    known_regions,
    regions_of_one_partition,
)
from spotlib.collect.answers import Answers, describe_types, nearest
from spotlib.collect.cost import PreflightReport, PreparedPlan
from spotlib.collect.dry_run import ask_dry_runs
from spotlib.collect.events import check_events
from spotlib.collect.features import PriceHistory, on_demand_usd, spot_prices, target_price
from spotlib.collect.free_vcpus import free_vcpus_of, with_quota
from spotlib.collect.images import Image
from spotlib.collect.launch_images import choose_images
from spotlib.collect.quotas import Quota, quota_of
from spotlib.ec2.caller import Caller
from spotlib.ec2.connection import Connection
from spotlib.ec2.foreign import finds_by_request
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import Refusal
from spotlib.model import SPOT, Plan, Stage, Target, require_events
from spotlib.words import listed


def preflight(
    connection: Connection,
    plans: Sequence[Plan],
    *,
    account_id: str | None = None,
    allow_any_image: bool = False,
    events: bool | str = False,
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
    events
        As in ``collect_batch``: whether EC2's own events will be recorded, or a queue's name.

    Returns
    -------
    PreflightReport
        ``problems`` and ``warnings``, one sentence each.  ``prepared`` has one entry per plan that
        can be launched.  ``expected_usd`` and ``bound_usd`` are the cost of one round, NaN if a
        price is unknown.  ``require`` raises if there is a problem.

    Raises
    ------
    ValueError
        If the plans are in regions of different partitions, or if the endpoint executes what it
        was only asked about; what it launched is ended.
    Refusal
        If EC2 cannot be reached or refuses the credentials.  A passing error is waited for, and a
        region that stays in trouble is a problem, which does not hide those of others.

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
    require_events(events)
    answers = Answers(Patient(connection), allow_any_image=allow_any_image)
    regions = regions_of_one_partition(plans)
    identity = identity_of(answers, regions)
    check_account(answers, identity, account_id)
    check_roles(answers, regions[0], plans)
    check_currency(answers, plans)
    prepared, free = _prepare(answers, known_regions(answers, regions), plans)
    ready = _by_region(prepared)
    for region, some in ready.items():
        ask_dry_runs(answers, region, some)
    check_events(answers, ready, events)
    return PreflightReport(
        account=identity.get("Account"),
        arn=identity.get("Arn"),
        prepared=tuple(prepared),
        free_vcpus=free,
        events=events,
        credentials_end_at=connection.credentials_end_at(),
        problems=tuple(answers.problems),
        warnings=tuple(dict.fromkeys(answers.warnings)),
    )


def _by_region(prepared: Iterable[PreparedPlan]) -> dict[str, list[PreparedPlan]]:
    ready: dict[str, list[PreparedPlan]] = {}
    for each in sorted(prepared, key=lambda each: each.plan.target.region):  # else as they were
        ready.setdefault(each.plan.target.region, []).append(each)
    return ready


def _prepare(
    answers: Answers, regions: Iterable[str], plans: Sequence[Plan]
) -> tuple[list[PreparedPlan], dict[tuple[str, str], int | None]]:
    """Return the plans that can be launched, in their order, and the vCPUs that are free."""
    prepared: list[PreparedPlan] = []
    free: dict[tuple[str, str], int | None] = {}
    for region in regions:
        here = [plan for plan in plans if plan.target.region == region]
        try:
            ready = _prepare_region(answers, region, here)
            free |= free_vcpus_of(answers, region, {_quota_of(each.plan) for each in ready})
        except Refusal as refusal:  # the other regions are checked all the same
            answers.problems.append(f"{region} cannot be checked: {refusal}")
            continue
        prepared += [with_quota(answers, each, free[region, each.family]) for each in ready]
    order = {plan.key: index for index, plan in enumerate(plans)}
    return sorted(prepared, key=lambda each: order[each.plan.key]), free


def _warn_foreign(answers: Answers, region: str) -> None:
    if not finds_by_request(answers.connection, region):
        answers.warnings.append(
            "this endpoint does not find instances by their request: they are found by the ids "
            "that the requests name"
        )


def _prepare_region(answers: Answers, region: str, plans: Sequence[Plan]) -> list[PreparedPlan]:
    offered = [plan for plan in plans if _is_offered(answers, plan.target)]
    types = describe_types(answers, region, {plan.target.instance_type for plan in offered})
    _warn_foreign(answers, region)
    sold = [plan for plan in offered if _is_sold(answers, plan, types)]
    if not sold or not _has_default_vpc(answers, region):
        return []
    images = choose_images(answers, region, {plan: _architecture(types, plan) for plan in sold})
    images = {
        plan: image
        for plan, image in images.items()
        if _is_accepted(answers, plan, image)
        and _may_be_stamped(answers, plan, image, types[plan.target.instance_type])
    }
    prices = _prices(answers, region, images)
    return [
        _placed(answers, _prepared(answers, plan, types[plan.target.instance_type], image, prices))
        for plan, image in images.items()
    ]


def _prices(answers: Answers, region: str, images: Mapping[Plan, Image]) -> dict[str, PriceHistory]:
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


def _is_accepted(answers: Answers, plan: Plan, image: Image) -> bool:
    """Whether the image may be launched, with the problem or the warnings that belong to it."""
    instance_type = plan.target.instance_type
    name = f"image {image.image_id} ({image.name}) on {instance_type}"
    objections = "; ".join(image.objections(instance_type))
    if objections and not answers.allow_any_image:
        answers.problems.append(
            f"{name}: {objections}; choose another image or type, or accept it with allow_any_image"
        )
        return False
    if plan.is_probe and image.by_the_hour:
        answers.problems.append(
            f"{name}: it is billed as {image.product}, each started hour in full, and a probe "
            "lasts seconds: choose another image"
        )
        return False
    if objections:
        answers.warnings.append(f"{name} is accepted: {objections}")
    if plan.image is not None and image.runs_switch(instance_type) is None:
        answers.warnings.append(
            f"{name}: it is not known whether it runs the script in the user data (cloud-init); if "
            "not, no switch in it turns an instance off, and the cost has no hard bound"
        )
    return True


def _may_be_stamped(answers: Answers, plan: Plan, image: Image, info: Mapping[str, Any]) -> bool:
    """Whether it can be seen when a guest is usable, as far as the plan needs it; else say why."""
    why = _hides_usable(plan, image, info)
    if plan.wanted is Stage.USABLE and why:
        answers.problems.append(f"{why}: wait for 'ready', or choose another type or image")
        return False
    if plan.is_stamped and why:
        answers.warnings.append(f"{why}: 'usable' is not recorded there")
    return True


def _hides_usable(plan: Plan, image: Image, info: Mapping[str, Any]) -> str:
    """Why it cannot be seen when a guest is usable; "" if it can."""
    name, unseen = plan.target.instance_type, "so when a guest is usable cannot be seen"
    if info.get("Hypervisor") != "nitro":
        return f"{name} is not on Nitro, {unseen}"
    if image.runs_switch(name) is False:
        return f"image {image.image_id} does not run the script in the user data, {unseen}"
    return ""


def _prepared(
    answers: Answers,
    plan: Plan,
    info: Mapping[str, Any],
    image: Image,
    prices: Mapping[str, PriceHistory],
) -> PreparedPlan:
    what = f"the on-demand price of {plan.target}, and so the hard bound of the cost,"
    ask = partial(on_demand_usd, answers.connection, plan.target, operation=image.operation)
    on_demand = answers.optional(what, ask, None)
    if on_demand is not None and math.isnan(on_demand):
        answers.warnings.append(f"{what} is not known: no price in USD is listed")
    return PreparedPlan(
        plan=replace(
            plan,
            image=image.image_id,
            usable=plan.usable and not _hides_usable(plan, image, info),
        ),
        image=image.image_id,
        image_name=image.name,
        image_owner=image.owner or None,
        vcpus=info["VCpuInfo"]["DefaultVCpus"],
        burstable=info.get("BurstablePerformanceSupported", False),
        family=_quota_of(plan).name,
        price_usd=target_price(prices[image.product], plan.target)[0],
        on_demand_usd=math.nan if on_demand is None else on_demand,
        product=image.product,
        by_the_hour=image.by_the_hour,
        has_switch=image.runs_switch(plan.target.instance_type) is not False,
    )


def _is_offered(answers: Answers, target: Target) -> bool:
    zone = target.availability_zone_id
    location = "availability-zone-id" if zone else "region"
    filters = [{"Name": "instance-type", "Values": [target.instance_type]}]
    ask = partial(_offers, answers.connection, target.region)
    offers = ask("Location", LocationType=location, Filters=filters)
    if (zone or target.region) in offers:
        return True
    if zone and offers:
        answers.problems.append(
            f"{target.instance_type} is not offered in zone {zone!r}; it is in "
            f"{listed(sorted(offers))}"
        )
        return False
    names = ask("InstanceType", LocationType="region")
    answers.problems.append(
        f"instance type {target.instance_type!r} is not offered in {target.region}"
        f"{nearest(target.instance_type, names)}"
    )
    return False


def _offers(connection: Caller, region: str, what: str, **given: Any) -> set[str]:
    action, key = "describe_instance_type_offerings", "InstanceTypeOfferings"
    return {item[what] for item in connection.pages(region, action, key, **given)}


def _is_sold(answers: Answers, plan: Plan, types: Mapping[str, Any]) -> bool:
    target = plan.target
    if plan.purchase in types[target.instance_type]["SupportedUsageClasses"]:
        return True
    how = "as spot" if plan.purchase == SPOT else "on demand"
    answers.problems.append(
        f"{target.instance_type} is not sold {how} in {target.region}: choose another"
    )
    return False


def _quota_of(plan: Plan) -> Quota:
    return quota_of(plan.target.instance_type, plan.purchase)


def _architecture(types: Mapping[str, Any], plan: Plan) -> str:
    supported = types[plan.target.instance_type]["ProcessorInfo"]["SupportedArchitectures"]
    return next((name for name in ("arm64", "x86_64") if name in supported), supported[0])


def _has_default_vpc(answers: Answers, region: str) -> bool:
    filters = [{"Name": "is-default", "Values": ["true"]}]
    if answers.connection.call(region, "describe_vpcs", Filters=filters)["Vpcs"]:
        return True
    answers.problems.append(
        f"{region} has no default VPC; run once: aws ec2 create-default-vpc --region {region}"
    )
    return False


def _placed(answers: Answers, each: PreparedPlan) -> PreparedPlan:
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
