"""The calls about spot requests: request, describe, cancel; with EC2's refusals.

Each public function is one EC2 action: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from spotlib.sandbox import course, launch_checks, tokens
from spotlib.sandbox.account import SpotRequest
from spotlib.sandbox.filters import filters_of, has_wildcard, narrow, page
from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    end_dry_run,
    invalid,
    missing,
    unsupported,
)
from spotlib.sandbox.reads import request_as_of
from spotlib.sandbox.shapes import request_shape
from spotlib.sandbox.world import World

_MOST_INSTANCES = 3000
_REQUEST_ID = re.compile(r"sir-[0-9a-z]{8}")

_INTERFACES = "LaunchSpecification.NetworkInterfaces"
_PATHS = {
    "availability-zone-group": "AvailabilityZoneGroup",
    "create-time": "CreateTime",
    "fault-code": "Fault.Code",
    "fault-message": "Fault.Message",
    "instance-id": "InstanceId",
    "launch.group-id": "LaunchSpecification.SecurityGroups.GroupId",
    "launch.group-name": "LaunchSpecification.SecurityGroups.GroupName",
    "launch.image-id": "LaunchSpecification.ImageId",
    "launch.instance-type": "LaunchSpecification.InstanceType",
    "launch.key-name": "LaunchSpecification.KeyName",
    "launch.monitoring-enabled": "LaunchSpecification.Monitoring.Enabled",
    "launched-availability-zone": "LaunchedAvailabilityZone",
    "launched-availability-zone-id": "LaunchedAvailabilityZoneId",
    "network-interface.delete-on-termination": f"{_INTERFACES}.DeleteOnTermination",
    "network-interface.description": f"{_INTERFACES}.Description",
    "network-interface.device-index": f"{_INTERFACES}.DeviceIndex",
    "network-interface.group-id": f"{_INTERFACES}.Groups",
    "network-interface.subnet-id": f"{_INTERFACES}.SubnetId",
    "product-description": "ProductDescription",
    "spot-instance-request-id": "SpotInstanceRequestId",
    "spot-price": "SpotPrice",
    "state": "State",
    "status-code": "Status.Code",
    "status-message": "Status.Message",
    "tag-key": "Tags.Key",
    "type": "Type",
    "valid-until": "ValidUntil",
}


def request_spot_instances(world: World, region: str, params: Params) -> Shape:
    """Accept n one-time requests, or refuse the whole call."""
    known = tokens.recall(world, region, "RequestSpotInstances", params)
    if known is not None:
        return {"SpotInstanceRequests": [request_shape(world, each) for each in known]}
    count = _count(params)
    launch = params.get("LaunchSpecification") or {}
    where = "launchSpecification."
    launch_checks.check_modelled(launch, "LaunchSpecification")
    kind = launch_checks.instance_type(launch, region, where=where)
    flaw = _unfit(world, launch_checks.image_flaw(launch, region, kind, where=where))
    launch_checks.check_user_data(launch)
    _check_type(params)
    launch_checks.check_network(world, launch, region)
    launch_checks.check_names(launch)
    groups = launch_checks.groups(launch, region)
    pools, not_offered = launch_checks.pools(world, launch, region, kind)
    if launch_checks.named_zone(world, launch, region):
        _unfit(world, not_offered)
    flaw = flaw or (not_offered.message if not_offered else "")
    valid_until_s = _valid_until_s(world, params)
    max_price_usd = launch_checks.max_price(params.get("SpotPrice"))
    tags = _tags(params)
    if world.forms.dry_run == "parameters":
        end_dry_run(params)
    launch_checks.check_role(world)
    fitting = launch_checks.count_within_quota(world, region, kind, count)
    end_dry_run(params)
    requests = course.request(
        world,
        kind,
        pools,
        count=count,
        launch={**launch, "SecurityGroups": groups},
        token=params.get("ClientToken", ""),
        tags=tags,
        valid_until_s=valid_until_s,
        max_price_usd=max_price_usd,
        flaws=[flaw] * fitting + [launch_checks.OVER_QUOTA] * (count - fitting),
    )
    tokens.keep(world, region, "RequestSpotInstances", params, requests)
    return {"SpotInstanceRequests": [request_shape(world, each) for each in requests]}


def describe_spot_instance_requests(world: World, region: str, params: Params) -> Shape:
    """The requests named by id, or those that pass the filters."""
    ids = params.get("SpotInstanceRequestIds", [])
    at_s = world.read_at_s(by_ids=bool(ids))
    found = find_requests(world, region, ids, at_s) if ids else _candidates(world, region, params)
    past = (request_as_of(each, at_s) for each in found)
    shapes = narrow(
        (request_shape(world, each) for each in past if each),
        params,
        "DescribeSpotInstanceRequests",
        _PATHS,
    )
    id_name = "SpotInstanceRequestIds"
    shown, more = page(shapes, params, ids=ids, id_name=id_name, reads=world.reads)
    return {"SpotInstanceRequests": shown, **more}


def cancel_spot_instance_requests(world: World, region: str, params: Params) -> Shape:
    """Cancel requests, all or none.  What they launched keeps running."""
    ids = params.get("SpotInstanceRequestIds", [])
    if not ids:
        raise missing("SpotInstanceRequestId")
    found, done = find_requests(world, region, ids), []
    end_dry_run(params)
    for request in found:
        course.cancel(world, request)
        state = request.state if request.state in ("closed", "cancelled") else "completed"
        done.append({"SpotInstanceRequestId": request.request_id, "State": state})
    return {"CancelledSpotInstanceRequests": done}


def find_requests(
    world: World, region: str, ids: Sequence[str], at_s: float | None = None
) -> list[SpotRequest]:
    """The requests with these ids; one malformed or unknown id refuses the whole call."""
    known, at_s = world.region(region).requests, world.now_s if at_s is None else at_s
    malformed = [i for i in ids if not _REQUEST_ID.fullmatch(i)]
    if malformed:
        message = f'Invalid id: "{malformed[0]}"'
        raise ApiError("InvalidSpotInstanceRequestID.Malformed", message)
    unknown = [i for i in ids if i not in known or known[i].known_s > at_s]
    if unknown:
        message = f"The spot instance request ID '{', '.join(unknown)}' does not exist"
        raise ApiError("InvalidSpotInstanceRequestID.NotFound", message)
    return [known[i] for i in dict.fromkeys(ids)]


def _candidates(world: World, region: str, params: Params) -> Iterable[SpotRequest]:
    """The requests that may pass the filters, through an index if possible."""
    account = world.region(region)
    for name, values in filters_of(params):
        if has_wildcard(values):
            continue
        if name.startswith("tag:"):
            return account.tagged(name[4:], values)
        if name == "spot-instance-request-id":
            return [account.requests[i] for i in dict.fromkeys(values) if i in account.requests]
    return account.requests.values()


def _count(params: Params) -> int:
    count = int(params.get("InstanceCount", 1))
    if count < 1:
        raise invalid(f"Invalid value '{count}' for instanceCount. Must be greater than 0.")
    if count > _MOST_INSTANCES:
        message = f"At most {_MOST_INSTANCES} instances can be requested in one call, not {count}"
        raise ApiError("RequestResourceCountExceeded", message)
    return count


def _unfit(world: World, error: ApiError | None) -> str:
    """Refuse an inconsistent request or, in the other form, let its evaluation fail."""
    if error is not None and world.forms.unfit == "refused":
        raise error
    return error.message if error else ""


def _check_type(params: Params) -> None:
    kind, behaviour = params.get("Type", "one-time"), params.get("InstanceInterruptionBehavior")
    if kind not in ("one-time", "persistent"):
        raise invalid(f"Invalid value '{kind}' for type. Allowed: one-time, persistent.")
    if kind == "persistent":
        raise unsupported("persistent requests are not modelled by the sandbox.")
    if behaviour not in (None, "terminate"):
        message = (
            f"request with type '{kind}' is not supported when instanceInterruptionBehavior "
            f"is set to '{behaviour}'"
        )
        raise ApiError("InvalidParameterCombination", message)
    if "ValidFrom" in params:
        raise unsupported("ValidFrom is not modelled by the sandbox.")


def _valid_until_s(world: World, params: Params) -> float | None:
    if "ValidUntil" not in params:
        return None
    until_s = float((params["ValidUntil"] - world.epoch).total_seconds())
    if until_s <= world.now_s:
        message = "The time specified in validUntil must be in the future."
        raise ApiError("InvalidTime", message)
    return until_s


def _tags(params: Params) -> dict[str, str]:
    tags: dict[str, str] = {}
    for item in params.get("TagSpecifications", []):
        if item.get("ResourceType") != "spot-instances-request":
            raise invalid(
                f"'{item.get('ResourceType')}' is not a valid taggable resource type "
                "for this operation."
            )
        tags.update({tag["Key"]: tag.get("Value", "") for tag in item.get("Tags", [])})
    return tags
