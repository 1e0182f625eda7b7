"""The launch methods by the name that a plan, and its intent in the log, gives them."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from spotlib.ec2.methods.create_fleet_instant import CREATE_FLEET_INSTANT
from spotlib.ec2.methods.create_fleet_request import CREATE_FLEET_REQUEST
from spotlib.ec2.methods.method import Method
from spotlib.ec2.methods.request_spot_instances import REQUEST_SPOT_INSTANCES
from spotlib.ec2.methods.run_instances import RUN_INSTANCES, RUN_INSTANCES_ALL_OR_NOTHING
from spotlib.ec2.resource import Resource
from spotlib.ec2.survey import LAUNCHED

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "request_spot_instances": REQUEST_SPOT_INSTANCES,
        "run_instances": RUN_INSTANCES,
        "run_instances_all_or_nothing": RUN_INSTANCES_ALL_OR_NOTHING,
        "create_fleet_instant": CREATE_FLEET_INSTANT,
        "create_fleet_request": CREATE_FLEET_REQUEST,
    }
)


def left_by(names: Iterable[str]) -> tuple[Resource, ...]:
    """Return the kinds of things that these methods leave.

    A name may be that of a method which only a newer spotlib knows: then it is every kind.
    """
    known = set(names)
    if known - METHODS.keys():
        return LAUNCHED
    kinds = {kind for name in known for kind in METHODS[name].leaves}
    return tuple(each for each in LAUNCHED if each in kinds)
