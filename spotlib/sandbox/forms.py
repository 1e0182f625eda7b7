"""Where AWS's behaviour is not known for sure: one switch each, with every form it may have.

The first form is the default.  A test runs the loop on all forms; only a real account can tell.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


def _switch(what: str, *forms: str, source: str, later: bool = False) -> Any:
    """One open point; a ``later`` one changes no world's id while it has its default."""
    metadata = {"what": what, "forms": forms, "source": source}
    return field(default=forms[0], repr=not later, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Forms:
    """One form for each open point."""

    unfit: str = _switch(
        "an image of another architecture, a type not offered in the zone named",
        "refused",
        "bad-parameters",
        source="both are reported: a synchronous error, and a request that fails later",
    )
    zone: str = _switch(
        "the zone that EC2 picks if the request names none",
        "offering",
        "any",
        source="user guide: EC2 selects one; public report of bad-parameters from a zone without "
        "the type (geos-chem-cloud 36)",
    )
    quota: str = _switch(
        "a request for more vCPUs than are left",
        "refused",
        "partial",
        source="reported as a synchronous refusal only; whether all or nothing is not documented",
    )
    guest_shutdown: str = _switch(
        "what `shutdown -h` in a one-time spot instance does",
        "terminate",
        "stop",
        source="user guide: only persistent requests can be stopped, which implies terminate; not "
        "stated directly",
    )
    notice: str = _switch(
        "the status code from the interruption notice to the end",
        "instance-terminated-no-capacity",
        "marked-for-termination",
        source="user guide, status codes: both are listed",
    )
    pending_checks: str = _switch(
        "the checks of a pending instance with IncludeAllInstances",
        "not-applicable",
        "initializing",
        source="botocore's model: the instance must be running; the status is not given",
    )
    xen_ebs: str = _switch(
        "the attached-EBS status of a type not built on Nitro",
        "absent",
        "not-applicable",
        source="Auto Scaling guide: only on Nitro; the answer elsewhere is not given",
    )
    status_bucket: str = _switch(
        "the rate limit of DescribeInstanceStatus with explicit ids",
        "narrow",
        "wide",
        source="developer guide, throttling: without filter or paging the bucket is smaller",
    )
    subdigits: str = _switch(
        "timestamps of requests and instances",
        "seconds",
        "milliseconds",
        source="all public samples show whole seconds; the model's type allows more",
    )
    dry_run: str = _switch(
        "what a dry run of a request checks, beside permission",
        "parameters",
        "account",
        source="reports name MaxSpotInstanceCountExceeded and a missing role as its answers; "
        "whether always is not documented",
    )
    bare_interface: str = _switch(
        "a network interface without a subnet",
        "refused",
        "accepted",
        source="botocore's model: subnet and groups must be given; not tried",
    )

    launch_bucket: str = _switch(
        "whether RunInstances takes one token per instance, of 1,000 and 2 per second, with "
        "`throttled`",
        "instances",
        "calls",
        source="developer guide, throttling: it does; not said whether spot launches do",
        later=True,
    )
    ended_console: str = _switch(
        "GetConsoleOutput with Latest of an instance that has stopped or terminated",
        "kept",
        "absent",
        source="API reference: the latest at any time of the life cycle; not said of its end",
        later=True,
    )

    def __post_init__(self) -> None:
        """Refuse an unknown form."""
        for item in dataclasses.fields(self):
            form, forms = getattr(self, item.name), item.metadata["forms"]
            if form not in forms:
                raise ValueError(f"{item.name} must be one of {', '.join(forms)}, got {form!r}")


def table_markdown() -> str:
    """The switches as Markdown, for the documentation."""
    lines = ["| switch | what is not known | forms, default first | what is known |"]
    lines.append("|---|---|---|---|")
    for item in dataclasses.fields(Forms):
        meta = item.metadata
        forms = ", ".join(f"`{form}`" for form in meta["forms"])
        lines.append(f"| `{item.name}` | {meta['what']} | {forms} | {meta['source']} |")
    return "\n".join(lines) + "\n"
