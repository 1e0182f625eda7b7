"""What runs without a notebook; the same as python -m spotlib.
Exit codes: 0 all is well, 1 a problem or something is left, 2 an error.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import spotlib
from spotlib.arguments import Parser, number, one_of, whole_number
from spotlib.cleanup.one_batch import ALIVE, ENDED, UNWRITTEN, complete_ended
from spotlib.cleanup.sweep import sweep, verdict_here
from spotlib.cleanup.unfinished import CLOSING, Unfinished, read_folder
from spotlib.collect.cost import IF_ALL_DIES, PreflightReport
from spotlib.collect.parameters import add_methods, named_arms, named_target
from spotlib.collect.preflight import preflight
from spotlib.ec2.connection import Connection
from spotlib.ec2.endpoints import connect, starts_sandbox
from spotlib.ec2.places import is_aws
from spotlib.ec2.policy import policy
from spotlib.ec2.refusals import Refusal
from spotlib.errors import ParameterError, did_you_mean
from spotlib.model import (
    ARMS,
    DEFAULT_METHOD,
    REGION_PATTERN,
    WANTED,
    Stage,
    plan_launches,
    require_events,
)
from spotlib.money import usd
from spotlib.words import counted
from spotlib.workspace import logs_folder

_EXAMPLES = """examples:
  spotlib probe t3.nano@sa-east-1 -n 5     in the sandbox
  spotlib check --endpoint aws --profile research t4g.nano@us-east-1
  spotlib sweep --endpoint aws             close what is left on AWS
  spotlib sandbox --speed 60               serves a minute per second
"""
_NOT_CONFIRMED = (
    "exit code 1: it is NOT confirmed that nothing is left; do what the lines above say, if they "
    "say something, and run the same command again in a minute or two"
)
_NOT_CONFIRMED_DRY = (
    "exit code 1: it is NOT confirmed that nothing is left, and nothing was changed (--dry-run); "
    "to close what is left, run the same command without --dry-run"
)
_WAITS = [each.label for each in WANTED]
_COMMANDS = {
    "check": "run the preflight: it costs nothing",
    "sweep": "close what dead batches left behind",
    "status": "is anything left, and what closes it",
    "policy": "print the smallest IAM policy that works",
    "probe": "does EC2 grant instances? ask, and end them at once",
    "export": "write the launches as tables for others",
    "sandbox": "start a pretend EC2; 'sandbox archive' writes its past",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; print an error as one sentence to stderr and return 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = _commands_parser()
    if not given:
        parser.print_help()
        return 0
    try:
        _require_no_empty(given)
        if given[0].startswith("-"):  # -h and --version end here
            parser.read(given[:1])
        return _run(given[0], given[1:])
    except (ValueError, Refusal, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _commands_parser() -> Parser:
    """What ``spotlib --help`` shows; the arguments of a command are read by a parser of its own."""
    parser = Parser(
        prog="spotlib",
        usage="spotlib COMMAND ...   (spotlib COMMAND --help explains it)",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spotlib {spotlib.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, words in _COMMANDS.items():
        commands.add_parser(name, help=words)
    return parser


def _run(command: str, given: Sequence[str]) -> int:
    if command not in _COMMANDS:
        raise ParameterError(
            f"there is no command {command!r}{did_you_mean(command, _COMMANDS)} "
            f"(the commands are {', '.join(_COMMANDS)})"
        )
    elsewhere = {"sandbox": _sandbox, "export": _export, "probe": _probe}
    if command in elsewhere:
        return elsewhere[command](given)
    here = {"check": _add_check, "sweep": _add_sweep, "status": _add_status, "policy": _add_policy}
    parser = Parser(prog=f"spotlib {command}")
    here[command](parser)
    parsed = parser.read(given)
    return int(parsed.run(parsed))


def _require_no_empty(given: Sequence[str]) -> None:
    """Refuse an empty value, such as of a variable of the shell that is not set.

    It would mean what is meant without the option: every batch, or another account.
    """
    for before, word in pairwise(["the command", *given]):
        if not word or (word.startswith("--") and word.endswith("=")):
            name = word.removesuffix("=") or before
            raise ValueError(f"{name} has an empty value: give one, or leave it out")


def _sandbox(given: Sequence[str]) -> int:
    from spotlib.sandbox import history, server  # noqa: PLC0415 - slow to import

    if given[:1] == ["archive"]:
        return _run_module(history, "sandbox archive", given[1:])
    if given and not given[0].startswith("-"):
        raise ParameterError(
            f"sandbox takes options, or 'archive' before them, got {given[0]!r}"
            f"{did_you_mean(given[0], ['archive'])} (spotlib sandbox --help shows what there is)"
        )
    return _run_module(server, "sandbox", given)


def _export(given: Sequence[str]) -> int:
    from spotlib import export  # noqa: PLC0415 - slow to import

    return _run_module(export, "export", given)


def _probe(given: Sequence[str]) -> int:
    from spotlib import probe  # noqa: PLC0415 - slow to import

    return _run_module(probe, "probe", given)


def _run_module(module: ModuleType, command: str, given: Sequence[str]) -> int:
    summary = (module.__doc__ or "").partition("\n")[0]
    parser = Parser(prog=f"spotlib {command}", description=summary)
    module.add_arguments(parser)
    return int(module.run(parser.read(given)))


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
    parser.add_argument("-n", "--count", type=whole_number, default=1, help="instances per target")
    parser.add_argument("--timeout-s", type=number, help="default: 600, for granted 30")
    parser.add_argument(
        "--wait-for",
        type=one_of(*_WAITS),
        metavar=f"{{{','.join(_WAITS)}}}",
        default="ready",
        help="default: ready; granted is a probe",
    )
    parser.add_argument(
        "--usable", action="store_true", help="record when a guest says that it is usable"
    )
    _add_events(parser, "record EC2's own events too, from queues that it makes or from this one")
    parser.add_argument("--image", help="an AMI id; default: the newest Amazon Linux 2023")
    parser.add_argument(
        "--allow-any-image",
        action="store_true",
        help="accept an image without the dead-man's switch, or one not billed as plain Linux",
    )
    add_methods(parser)


def _check(given: argparse.Namespace) -> int:
    if given.profile and starts_sandbox(given.endpoint):
        raise ValueError("--profile is for AWS: add --endpoint aws (check costs nothing)")
    plans = plan_launches(
        [named_target(each, given.region) for each in given.targets],
        count=given.count,
        timeout_s=given.timeout_s,
        wanted=Stage[given.wait_for.upper()],
        image=given.image,
        methods=named_arms(given.methods),
        usable=given.usable,
    )
    connection = connect(given.endpoint, profile=given.profile)
    try:
        checked = preflight(
            connection,
            plans,
            account_id=given.account_id,
            allow_any_image=given.allow_any_image,
            events=given.events,
        )
    finally:
        connection.close()
    kind = "AWS" if is_aws(given.endpoint) else f"endpoint {given.endpoint}, not AWS"
    kind = "SIMULATED (sandbox), not AWS" if connection.simulated else kind
    print("\n".join(_report_lines(checked, kind)))
    return 1 if checked.problems else 0


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_policy)
    parser.add_argument(
        "methods",
        nargs="*",
        default=[DEFAULT_METHOD],
        metavar="METHOD",
        help=f"how you will launch, of {', '.join(ARMS)}; default: {DEFAULT_METHOD}",
    )
    parser.add_argument(
        "--usable", action="store_true", help="also to see when a guest says that it is usable"
    )
    _add_events(
        parser, "also to record EC2's own events, from queues that are made or from this one"
    )


def _add_events(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument(
        "--events", nargs="?", type=_queue, const=True, default=False, metavar="QUEUE", help=words
    )


def _queue(name: str) -> str:
    """Refuse a value after ``--events`` that was meant as something else."""
    try:
        require_events(name)
    except ParameterError:
        said = "leave it out" if name.lower() in ("false", "no", "off", "0") else "write it last"
        raise argparse.ArgumentTypeError(
            f"takes the name of a queue of yours or nothing, got {name!r}, which no queue is "
            f"called: {said}, with nothing after it"
        ) from None
    return name


def _policy(given: argparse.Namespace) -> int:
    print(json.dumps(policy(given.methods, usable=given.usable, events=given.events), indent=2))
    return 0


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Exit codes: 0 nothing is left but batches that run, or may run elsewhere, and with "
        "--batch nothing of that one; 1 this is not confirmed; 2 an error."
    )
    parser.set_defaults(run=_sweep)
    parser.add_argument("--batch", help="only this batch, even if its requests have not expired")
    parser.add_argument(
        "--region",
        nargs="+",
        type=_region,
        help="search these for batches without a log here (default: all enabled); the regions of "
        "a log are always searched, because its batch is clean only if all of them are",
    )
    parser.add_argument("--endpoint", help="aws or a URL; default: the sandboxes of the logs")
    parser.add_argument("--profile", help="the AWS profile; default: the default one")
    parser.add_argument("--results", default="", help="the results folder; default: results/")
    parser.add_argument("--dry-run", action="store_true", help="report only, change nothing")


def _region(name: str) -> str:
    if not re.match(REGION_PATTERN, name):
        raise argparse.ArgumentTypeError(f"must be regions, such as us-east-1, got {name!r}")
    return name


def _sweep(given: argparse.Namespace) -> int:
    code = _sweep_all(given)
    if code:
        print(_NOT_CONFIRMED_DRY if given.dry_run else _NOT_CONFIRMED)
    return code


def _sweep_all(given: argparse.Namespace) -> int:
    if not given.endpoint:
        return _sweep_sandboxes(given, logs_folder(given.results))
    connection = connect(given.endpoint, profile=given.profile)
    try:
        folder = logs_folder(given.results)
    except FileNotFoundError as error:  # what is left costs money, wherever its log is
        print(f"{error}; only what EC2 lists with our tag is known")
        folder = None
    return _sweep_at(connection, folder, given)


def _sweep_at(connection: Connection, folder: Path | None, given: argparse.Namespace) -> int:
    report = sweep(
        connection,
        folder=folder,
        batch_id=given.batch,
        regions=given.region,
        dry_run=given.dry_run,
    )
    print("\n".join(report.lines()))
    return 0 if report.confirms(given.batch) else 1


def _sweep_sandboxes(given: argparse.Namespace, folder: Path) -> int:
    """Sweep each sandbox that a log names, and name the batches that this does not reach."""
    here = read_folder(folder, batch_id=given.batch)
    simulated = [each for each in here.unfinished if each.batch.simulated]
    elsewhere = [
        each
        for each in here.unfinished
        if each not in simulated and (given.batch or not each.alive or each.is_closing)
    ]
    lines = [each.line() for each in elsewhere] + here.fault_lines() + here.notes
    verdict = verdict_here(here, given.batch) if given.batch else None
    unknown = given.batch and not (here.unfinished or verdict)
    if verdict:
        lines.append(f"{given.batch}: {verdict}")
    elif unknown:
        lines.append(f"{given.batch}: NOT known: no log of it can be read in {folder}")
    elif not simulated:
        lines.append("no simulated batch is unfinished; for AWS add --endpoint aws")
    print("".join(f"{line}\n" for line in lines), end="")
    codes = [1] if unknown or elsewhere or here.faults or verdict == ALIVE else [0]
    for url in sorted({each.batch.url or "" for each in simulated}):
        batches = [each for each in simulated if (each.batch.url or "") == url]
        codes.append(_sweep_sandbox(url, batches, folder, given))
    return max(codes)


def _sweep_sandbox(
    url: str, batches: Sequence[Unfinished], folder: Path, given: argparse.Namespace
) -> int:
    """Sweep one sandbox; if it cannot be reached, the others are still swept."""
    try:
        connection = _sandbox_at(url)
        here = connection.world if connection else None
        ended = [each for each in batches if here is None or each.batch.world != here]
        verdicts = [_end(each, dry_run=given.dry_run) for each in ended]
        for each, verdict in zip(ended, verdicts, strict=True):
            print(f"{each.batch_id}: {verdict}")
        code = int(any(verdict != ENDED for verdict in verdicts))
        if connection is None or len(ended) == len(batches):
            return code
        return max(code, _sweep_at(connection, folder, given))
    except (ValueError, Refusal, OSError) as error:
        names = ", ".join(each.batch_id for each in batches)
        print(f"{names}: NOT known: its sandbox {url} cannot be asked: {error}")
        return 1


def _end(batch: Unfinished, *, dry_run: bool) -> str:
    """Complete the log of a batch whose sandbox has ended, and return the result."""
    if batch.is_closing:
        return CLOSING
    try:
        if not (dry_run or batch.alive):
            complete_ended(batch)
    except (ValueError, OSError) as error:  # the next log may be whole
        return UNWRITTEN.format(error)
    return ENDED


def _sandbox_at(url: str) -> Connection | None:
    """Connect to the sandbox; None if nothing is there, or nothing that answers as EC2 does."""
    with suppress(ConnectionError):
        return connect(url) if url else None
    return None


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Exit codes: 0 every batch is confirmed clean or its collection is running; 1 one is dead, "
        "or not yet closed by its guard, or a file cannot be read; 2 there is no log."
    )
    parser.set_defaults(run=_status)
    parser.add_argument("--results", default="", help="the results folder; default: results/")


def _status(given: argparse.Namespace) -> int:
    here = read_folder(logs_folder(given.results))
    problems = here.dead_lines() + here.fault_lines()
    lines = [each.line() for each in here.unfinished if each.alive] + problems
    print("\n".join([*(lines or ["every batch is confirmed clean"]), *here.notes]))
    return 1 if problems or any(each.is_closing for each in here.unfinished) else 0


def _report_lines(checked: PreflightReport, kind: str) -> list[str]:
    """Return the preflight's report as lines for a terminal."""
    lines = [f"{kind}: account {checked.account} as {checked.arn}"]
    for each in checked.prepared:
        largest = "unknown" if each.largest_count is None else str(each.largest_count)
        lines.append(
            f"{each.plan.target} by {each.plan.arm}: n={each.plan.count} "
            f"(largest n under the quota: {largest}), "
            f"{each.vcpus} vCPU, spot {usd(each.price_usd)}/h, "
            f"on demand {usd(each.on_demand_usd)}/h, image {each.image} ({each.image_name}), "
            f"expected {usd(each.expected_usd)}, at most {usd(each.bound_usd)}"
        )
    if checked.prepared and not checked.problems:  # else nothing can be launched
        waves = len(checked.waves)
        lines.append(
            f"one round: expected {usd(checked.expected_usd)}, hard bound {usd(checked.bound_usd)} "
            f"({IF_ALL_DIES}), in {counted(waves, 'wave')}; nothing was launched"
        )
    lines += checked.cost_words() if not checked.problems else []
    if checked.credentials_end_at is not None:
        lines.append(f"the credentials end at {checked.credentials_end_at:%Y-%m-%d %H:%M:%S} UTC")
    lines += [f"warning: {each}" for each in checked.warnings]
    if not checked.problems:
        return [*lines, "ready to launch"]
    lines.append(f"NOT ready to launch: {counted(len(checked.problems), 'problem')}")
    return [*lines, *(f"PROBLEM: {each}" for each in checked.problems)]


if __name__ == "__main__":
    raise SystemExit(main())
