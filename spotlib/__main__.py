"""The spotlib command, the same as python -m spotlib: what runs without a notebook.

Exit codes: 0 if all is well, 1 if there is a problem or something is left, 2 for an error.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import spotlib
from spotlib.cleanup.sweep import SweepReport, sweep
from spotlib.cleanup.unfinished import dead_lines, unfinished, unreadable
from spotlib.collect.cost import PreflightReport, split_waves
from spotlib.collect.preflight import preflight
from spotlib.ec2.connection import connect, is_aws
from spotlib.ec2.refusals import Refusal
from spotlib.model import Stage, Target, plan_launches
from spotlib.money import usd
from spotlib.workspace import results_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; print an error as one sentence to stderr and return 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="spotlib", description=__doc__)
    parser.add_argument("--version", action="version", version=f"spotlib {spotlib.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_check(commands.add_parser("check", help="run the preflight: it costs nothing"))
    _add_sweep(commands.add_parser("sweep", help="close what dead batches left behind"))
    _add_status(commands.add_parser("status", help="list batches that are not confirmed clean"))
    commands.add_parser("export", help="write the launches as tables for others")
    commands.add_parser(
        "sandbox", help="start a pretend EC2 by hand; 'sandbox archive' writes its history"
    )
    try:
        if given[:1] == ["sandbox"]:
            return _sandbox(given[1:])
        if given[:1] == ["export"]:
            return _export(given[1:])
        parsed = parser.parse_args(given)
        return int(parsed.run(parsed))
    except (ValueError, Refusal, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _sandbox(given: Sequence[str]) -> int:
    from spotlib.sandbox import history, server  # noqa: PLC0415 - slow to import

    if given[:1] == ["archive"]:
        return _run_module(history, "sandbox archive", given[1:])
    return _run_module(server, "sandbox", given)


def _export(given: Sequence[str]) -> int:
    from spotlib import export  # noqa: PLC0415 - slow to import

    return _run_module(export, "export", given)


def _run_module(module: ModuleType, command: str, given: Sequence[str]) -> int:
    summary = (module.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"spotlib {command}", description=summary)
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(given)))


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_check)
    parser.add_argument(
        "targets",
        nargs="*",
        default=["t3.nano"],
        help="TYPE (in --region), TYPE@REGION or TYPE@REGION/ZONE-ID; default: t3.nano",
    )
    parser.add_argument("--endpoint", default="sandbox", help="sandbox (default), aws, or a URL")
    parser.add_argument("--profile", help="the AWS profile; default: the default one")
    parser.add_argument("--region", default="us-east-1", help="default: us-east-1")
    parser.add_argument("--account-id", help="refuse any other account")
    parser.add_argument("-n", "--count", type=int, default=1, help="instances per target")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="default: 600")
    parser.add_argument(
        "--wait-for", choices=["running", "ready"], default="ready", help="default: ready"
    )
    parser.add_argument("--image", help="an AMI id; default: the newest Amazon Linux 2023")


def _check(given: argparse.Namespace) -> int:
    if given.profile and given.endpoint == "sandbox":
        raise ValueError("--profile is for AWS: add --endpoint aws (check costs nothing)")
    plans = plan_launches(
        [_target(each, given.region) for each in given.targets],
        count=given.count,
        timeout_s=given.timeout_s,
        wanted=Stage[given.wait_for.upper()],
        image=given.image,
    )
    connection = connect(given.endpoint, profile=given.profile)
    try:
        checked = preflight(connection, plans, account_id=given.account_id)
    finally:
        connection.close()
    kind = "AWS" if is_aws(given.endpoint) else f"endpoint {given.endpoint}, not AWS"
    kind = "SIMULATED (sandbox), not AWS" if connection.simulated else kind
    print("\n".join(_report_lines(checked, kind)))
    return 1 if checked.problems else 0


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_sweep)
    parser.add_argument("--batch", help="only this batch, even if its requests have not expired")
    parser.add_argument(
        "--region", nargs="+", help="besides those of the logs; default: all enabled"
    )
    parser.add_argument("--endpoint", help="aws or a URL; default: the sandboxes of the logs")
    parser.add_argument("--profile", help="the AWS profile; default: the default one")
    parser.add_argument("--results", default="", help="the results folder; default: results/")
    parser.add_argument("--dry-run", action="store_true", help="report only, change nothing")


def _sweep(given: argparse.Namespace) -> int:
    folder = results_folder(given.results) / "launches"
    options = {"batch_id": given.batch, "regions": given.region, "dry_run": given.dry_run}
    if given.endpoint:
        connection = connect(given.endpoint, profile=given.profile)
        return _print_report(sweep(connection, folder=folder, **options))
    urls = {each.batch.url for each in unfinished(folder) if each.batch.simulated}
    not_read = unreadable(folder)
    for name, error in not_read.items():
        print(f"{name}: NOT known: {error}")
    if not urls:
        print("no simulated batch is unfinished; for AWS add --endpoint aws")
    codes = [_sweep_sandbox(url, folder, options) for url in sorted(urls, key=str)]
    return max([*codes, 1 if not_read else 0])


def _sweep_sandbox(url: str | None, folder: Path, options: dict[str, Any]) -> int:
    connection = None
    with suppress(ConnectionError):
        connection = connect(url) if url else None
    if connection is None or not connection.simulated:
        print(f"{url}: this sandbox has ended, so nothing is left in it")
        return 0
    return _print_report(sweep(connection, folder=folder, **options))


def _print_report(report: SweepReport) -> int:
    print("\n".join(report.lines()))
    return 0 if report.clean else 1


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_status)
    parser.add_argument("--results", default="", help="the results folder; default: results/")


def _status(given: argparse.Namespace) -> int:
    folder = results_folder(given.results) / "launches"
    dead = dead_lines(folder)
    lines = [each.line() for each in unfinished(folder) if each.alive] + dead
    print("\n".join(lines) or "every batch is confirmed clean")
    return 1 if dead else 0


def _target(text: str, region: str) -> Target:
    """Parse ``t3.nano``, ``t3.nano@sa-east-1`` or ``t3.nano@sa-east-1/sae1-az2``."""
    name, _, place = text.partition("@")
    region, _, zone = (place or region).partition("/")
    return Target(name, region, zone or None)


def _report_lines(checked: PreflightReport, kind: str) -> list[str]:
    """Return the preflight's report as lines for a terminal."""
    lines = [f"{kind}: account {checked.account} as {checked.arn}"]
    for each in checked.prepared:
        largest = "unknown" if each.largest_count is None else str(each.largest_count)
        lines.append(
            f"{each.plan.target}: n={each.plan.count} (largest n under the quota: {largest}), "
            f"{each.vcpus} vCPU, spot {usd(each.price_usd)}/h, "
            f"on demand {usd(each.on_demand_usd)}/h, image {each.image} ({each.image_name}), "
            f"expected {usd(each.expected_usd)}, at most {usd(each.bound_usd)}"
        )
    if checked.prepared:
        waves = len(split_waves(checked.prepared, checked.free_vcpus))
        lines.append(
            f"one round: expected {usd(checked.expected_usd)}, hard bound {usd(checked.bound_usd)}"
            f", in {waves} wave{'s' if waves > 1 else ''}; nothing was launched"
        )
    if checked.credentials_end_at is not None:
        lines.append(f"the credentials end at {checked.credentials_end_at:%Y-%m-%d %H:%M:%S} UTC")
    lines += [f"warning: {each}" for each in checked.warnings]
    lines += [f"PROBLEM: {each}" for each in checked.problems]
    lines.append("not ready to launch" if checked.problems else "ready to launch")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
