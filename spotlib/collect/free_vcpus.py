"""How many vCPUs each quota of the account leaves, and how many instances a plan can have."""

from collections import Counter
from dataclasses import replace
from functools import partial

from spotlib.collect.answers import Answers, describe_types
from spotlib.collect.cost import PreparedPlan
from spotlib.collect.quotas import Quota, quota_of, vcpus_of
from spotlib.ec2.caller import Caller
from spotlib.ec2.calls import PAGE
from spotlib.ec2.instances import instances_by
from spotlib.ec2.refusals import reading
from spotlib.model import ON_DEMAND, Purchase


def free_vcpus_of(
    answers: Answers, region: str, quotas: set[Quota]
) -> dict[tuple[str, str], int | None]:
    """Return the vCPUs left under each quota; open requests count like running instances."""
    limits = _limits(answers, region, quotas)
    bought = {each.purchase for each in limits}
    counts = {each: _counts(answers, region, each) for each in sorted(bought, reverse=True)}
    used = {each: _used_vcpus(answers, region, each, counts[each]) for each in counts}
    return {
        (region, each.name): limits[each] - used[each.purchase][each] if each in limits else None
        for each in quotas
    }


def _limits(answers: Answers, region: str, quotas: set[Quota]) -> dict[Quota, int]:
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
            f"the quota '{each.name}' in {region} is not listed: a new account has "
            f"{each.fresh_vcpus} vCPUs"
            if each.fresh_vcpus is not None
            else f"which {each.purchase} quota {each.families} counts against is not known here, "
            f"so not whether it is large enough in {region}"
        )
    return limits


def _shown_quotas(
    connection: Caller, region: str, action: str, quotas: set[Quota]
) -> dict[Quota, int]:
    items = connection.pages(region, action, "Quotas", service="service-quotas", ServiceCode="ec2")
    with reading("quota", action=action, region=region):
        return vcpus_of(items, quotas)


def _counts(answers: Answers, region: str, purchase: Purchase) -> Counter[str]:
    """How many instances of each type count against the quotas of a purchase."""
    if purchase == ON_DEMAND:
        alive = {"Name": "instance-state-name", "Values": ["pending", "running"]}
        found = instances_by(answers.connection, region, [alive])
        return Counter(item["InstanceType"] for item in found if "InstanceLifecycle" not in item)
    requests = answers.connection.pages(
        region,
        "describe_spot_instance_requests",
        "SpotInstanceRequests",
        Filters=[{"Name": "state", "Values": ["open", "active"]}],
        MaxResults=PAGE,
    )
    return Counter(item["LaunchSpecification"]["InstanceType"] for item in requests)


def _used_vcpus(
    answers: Answers, region: str, purchase: Purchase, counts: Counter[str]
) -> Counter[Quota]:
    types = describe_types(answers, region, set(counts))
    used: Counter[Quota] = Counter()
    for name, count in counts.items():
        used[quota_of(name, purchase)] += count * types[name]["VCpuInfo"]["DefaultVCpus"]
    return used


def with_quota(answers: Answers, each: PreparedPlan, free: int | None) -> PreparedPlan:
    """Return the plan with the largest n that its quota allows; a larger n is a problem."""
    if free is None:
        return each
    largest, plan = max(free, 0) // each.vcpus, each.plan
    if plan.count > largest:
        answers.problems.append(
            f"n={plan.count} of {plan.target} needs {plan.count * each.vcpus} vCPUs, the quota "
            f"'{each.family}' leaves {free}: the largest n is {largest}"
        )
    return replace(each, largest_count=largest)
