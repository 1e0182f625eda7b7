"""What a preflight checks of the account: whose it is, its role for spot, regions and currency."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from spotlib.collect.answers import Answers, nearest
from spotlib.ec2.calls import ask_near
from spotlib.ec2.methods.registry import METHODS
from spotlib.ec2.places import currency_of, home_region, partition_of
from spotlib.ec2.refusals import Refusal
from spotlib.model import SPOT, Plan

_SPOT_ROLE = "AWSServiceRoleForEC2Spot", "spot.amazonaws.com"


def identity_of(answers: Answers, regions: Sequence[str]) -> dict[str, Any]:
    """Return whose the credentials are; nothing where a foreign endpoint cannot say."""
    ask = partial(ask_near, answers.connection, regions, "get_caller_identity", service="sts")
    return answers.optional("the account", ask, {}) if answers.connection.foreign else ask()


def check_account(answers: Answers, identity: Mapping[str, Any], wanted: str | None) -> None:
    """Refuse an account that is not the one wanted."""
    account = identity.get("Account")
    if wanted and wanted != account:
        answers.problems.append(
            f"account_id {wanted!r} is not the account of these credentials, {account!r} "
            f"({identity.get('Arn')}): choose another profile"
        )


def regions_of_one_partition(plans: Sequence[Plan]) -> list[str]:
    """Return the partition's home region, and then those of the plans."""
    regions = sorted({plan.target.region for plan in plans})
    if len(partitions := {partition_of(region): region for region in regions}) > 1:
        named = ", ".join(f"{region} ({name})" for name, region in sorted(partitions.items()))
        raise ValueError(
            f"no account is in several partitions of AWS, but the targets are: {named}: make one "
            "batch for each"
        )
    return [home_region(regions[0]) if regions else "us-east-1", *regions]


def check_currency(answers: Answers, plans: Sequence[Plan]) -> None:
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


def check_roles(answers: Answers, home: str, plans: Sequence[Plan]) -> None:
    """Look for the service-linked roles that AWS needs for these launches."""
    needed = [_SPOT_ROLE] if any(plan.purchase == SPOT for plan in plans) else []
    needed += [found for plan in plans if (found := METHODS[plan.method].role)]
    for role, service in dict.fromkeys(needed):
        _check_role(answers, home, role, service)


def _check_role(answers: Answers, home: str, role: str, service: str) -> None:
    try:
        answers.connection.call(home, "get_role", service="iam", RoleName=role)
    except Refusal as refusal:
        if refusal.code == "NoSuchEntity":
            once = f"aws iam create-service-linked-role --aws-service-name {service}"
            advice = "not needed there" if answers.connection.foreign else f"run once: {once}"
            answers.lacks(f"the service-linked role {role} is missing; {advice}")
        else:
            answers.warnings.append(f"whether {role} exists is not known: {refusal}")


def known_regions(answers: Answers, regions: Sequence[str]) -> list[str]:
    """Return those of the regions, after the home region, that exist and are enabled."""
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


def _region_states(answers: Answers, regions: Sequence[str]) -> Mapping[str, str | None]:
    """Return the opt-in state of each region; None where it cannot be asked for."""
    found = answers.optional(
        "which regions are enabled",
        lambda: ask_near(answers.connection, regions, "describe_regions", AllRegions=True),
        None,
    )
    if found is None:
        return dict.fromkeys(answers.connection.region_names(regions[0]))
    return {item["RegionName"]: item.get("OptInStatus") for item in found["Regions"]}
