"""The calls about quotas: what the account may use of each family group, spot and on demand.

Each public function is one action of Service Quotas: ``(world, region, params) -> result``.
"""

from __future__ import annotations

from spotlib.sandbox.protocol import ApiError, Params, Shape
from spotlib.sandbox.world import World, fresh_vcpus

# Code and name of each family group's quota; AWS changes the names.
_QUOTAS = {
    "Standard": ("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"),
    "F": ("L-88CF9481", "All F Spot Instance Requests"),
    "G and VT": ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    "P": ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    "P5": ("L-C4BD4855", "All P5 Spot Instance Requests"),
    "X": ("L-E3A00192", "All X Spot Instance Requests"),
    "Inf": ("L-B5D1601B", "All Inf Spot Instance Requests"),
    "DL": ("L-85EED4F7", "All DL Spot Instance Requests"),
    "Trn": ("L-6B0D517C", "All Trn Spot Instance Requests"),
}
_ON_DEMAND_QUOTAS = {
    "Standard": ("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
    "F": ("L-74FC7D96", "Running On-Demand F instances"),
    "G and VT": ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    "P": ("L-417A185B", "Running On-Demand P instances"),
    "X": ("L-7295265B", "Running On-Demand X instances"),
    "Inf": ("L-1945791B", "Running On-Demand Inf instances"),
    "DL": ("L-6E869C2A", "Running On-Demand DL instances"),
    "Trn": ("L-2C3B7624", "Running On-Demand Trn instances"),
}
_ALL_QUOTAS = [(False, _QUOTAS), (True, _ON_DEMAND_QUOTAS)]  # whether on demand


def list_service_quotas(world: World, region: str, params: Params) -> Shape:
    """The spot and on-demand quotas of EC2 that were applied to the account."""
    unlisted = world.unlisted_quotas
    return _quotas(
        [
            _quota(world, region, code, name, world.vcpu_limit(group, on_demand=on_demand))
            for on_demand, quotas in _ALL_QUOTAS
            for group, (code, name) in quotas.items()
            if group not in unlisted
        ],
        params,
    )


def list_aws_default_service_quotas(world: World, region: str, params: Params) -> Shape:
    """The spot and on-demand quotas of a new account."""
    return _quotas(
        [
            _quota(world, region, code, name, fresh_vcpus(group))
            for _, quotas in _ALL_QUOTAS
            for group, (code, name) in quotas.items()
        ],
        params,
    )


def get_service_quota(world: World, region: str, params: Params) -> Shape:
    """One quota by its code."""
    return _one_quota(list_service_quotas(world, region, params), params)


def get_aws_default_service_quota(world: World, region: str, params: Params) -> Shape:
    """One quota of a new account by its code."""
    return _one_quota(list_aws_default_service_quotas(world, region, params), params)


def _quotas(found: list[Shape], params: Params) -> Shape:
    if params.get("ServiceCode") != "ec2":
        raise ApiError("NoSuchResourceException", "Only the quotas of ec2 are modelled.", 400)
    return {"Quotas": found}


def _one_quota(quotas: Shape, params: Params) -> Shape:
    for quota in quotas["Quotas"]:
        if quota["QuotaCode"] == params.get("QuotaCode"):
            return {"Quota": quota}
    message = "The request failed because the specified service quota does not exist."
    raise ApiError("NoSuchResourceException", message)


def _quota(world: World, region: str, code: str, name: str, vcpus: float) -> Shape:
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{world.account_id}:ec2/{code}",
        "QuotaCode": code,
        "QuotaName": name,
        "Value": float(vcpus),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }
