"""RunInstances, spot or on demand: EC2 launches what it can at once, and refuses the rest.

A row is an instance: it is there at the answer, so a row is accepted and fulfilled then.  With
``MinCount=1`` fewer may come than were asked for, and each that did not is refused.  All or nothing
(``MinCount=n``) is a method of its own, because how many are ready is then another variable.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spotlib.ec2.instances import INSTANCES, see_instances
from spotlib.ec2.methods.launch import (
    LAUNCH,
    TAG_AT_BIRTH,
    TERMINATE_OURS,
    network_interfaces,
    script,
    tag_specifications,
)
from spotlib.ec2.methods.method import Given, Method, Order, Parameters
from spotlib.ec2.poll import sighting_of
from spotlib.ec2.refusals import fewer_came
from spotlib.model import SPOT

_FEWER = "EC2 launched {} of {} instances and gives no code for the others"


def _parameters(order: Order) -> Parameters:
    plan = order.plan
    parameters: Parameters = {
        "ClientToken": order.token,
        "MinCount": 1,
        "MaxCount": plan.count,
        "ImageId": order.image,
        "InstanceType": plan.target.instance_type,
        "InstanceInitiatedShutdownBehavior": "terminate",  # else the switch only stops it
        "UserData": script(order),  # botocore encodes it
        "TagSpecifications": tag_specifications(order),
        **network_interfaces(order),
    }
    if plan.purchase == SPOT:
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        if plan.max_price_usd is not None:
            options["MaxPrice"] = f"{plan.max_price_usd:.6f}"
        parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return parameters


def _all_or_nothing(order: Order) -> Parameters:
    return _parameters(order) | {"MinCount": order.plan.count}


def _read(reply: Mapping[str, Any], count: int) -> Given:
    shown = {each["InstanceId"]: sighting_of({}, each) for each in reply["Instances"]}
    fewer = fewer_came(_FEWER.format(len(shown), count), action=RUN_INSTANCES.action)
    return Given(tuple(shown), shown, fewer if len(shown) < count else None)


RUN_INSTANCES = Method(
    action="run_instances",
    parameters=_parameters,
    read=_read,
    see=see_instances,
    row=INSTANCES,
    leaves=(INSTANCES,),
    permissions=(LAUNCH, TAG_AT_BIRTH, TERMINATE_OURS),
)
RUN_INSTANCES_ALL_OR_NOTHING = replace(RUN_INSTANCES, parameters=_all_or_nothing)
