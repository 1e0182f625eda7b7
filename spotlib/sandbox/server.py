"""The sandbox as a server on this machine, for the AWS CLI, boto3 and other processes.

A thin HTTP layer over ``wire.answer``.  It adds control paths under ``/sandbox``, can end by
itself, and listens on loopback only.  What a web page in a browser of this machine could send (a
foreign Host, an Origin) is refused, and so is what could hold a thread or the memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from botocore.exceptions import BotoCoreError

from spotlib.arguments import number, whole_number
from spotlib.errors import did_you_mean
from spotlib.sandbox import api, catalogue, company, faults
from spotlib.sandbox.market import Market
from spotlib.sandbox.market_api import advisor
from spotlib.sandbox.numbers import FITTED, MARKET_HELP
from spotlib.sandbox.wire import answer
from spotlib.sandbox.world import EPOCH, Delivery, Guests, Reads, ScaledTime, VirtualTime, World

_MOST_BODY = 2**20  # bytes
_HERE = ("127.0.0.1", "localhost", "::1")
_LAST_PORT = 65535
_YEARS = (2007, 2099)  # of a world's date


def serve(
    world: World,
    *,
    port: int = 0,
    idle_s: float = 60.0,
    silent_s: float = 60.0,
    lifeline: int | None = None,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve until no request has arrived for ``idle_s`` real seconds (0: forever).

    A connection over which no whole request arrives for ``silent_s`` is closed.  ``lifeline`` is
    the descriptor of a pipe: when all who hold its other end have ended, and nothing is left to
    clean up, the server ends too.
    """
    server = _Server(world, port)
    threading.Thread(target=_watch, args=(server, idle_s, silent_s), daemon=True).start()
    if lifeline is not None:
        threading.Thread(target=_end_with, args=(lifeline, server), daemon=True).start()
    if ready is not None:
        ready(f"http://127.0.0.1:{server.server_port}")
    with server:
        server.serve_forever(poll_interval=0.1)
        server.ended.set()


def describe(world: World) -> dict[str, Any]:
    """What a client needs to know about the world behind an endpoint."""
    return {
        "world_id": world.world_id,
        "seed": world.seed,
        "market": world.market.name,
        "mode": world.clock.mode,
        "speed": world.clock.speed,
        "epoch": world.epoch.isoformat(),
        "now_s": world.now_s,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Serve a pretend EC2 spot market on this machine: the options of this command."""
    parser.add_argument("--seed", type=whole_number, default=1, help="seed of this world's draws")
    parser.add_argument("--market", default=FITTED, help=MARKET_HELP)
    parser.add_argument("--port", type=_port, default=0, help="0: any free port")
    parser.add_argument(
        "--date",
        type=_date,
        default=EPOCH,
        help="the world's date and time (UTC) when it begins, such as 2025-05-01",
    )
    parser.add_argument("--virtual", action="store_true", help="only clients move the clock")
    parser.add_argument("--speed", type=number, default=1.0, help="multiple of real time")
    parser.add_argument(
        "--idle-s", type=number, default=0.0, help="end if idle this long; 0: never"
    )
    parser.add_argument("--quota-vcpus", type=number, default=1000.0, help="spot quota per family")
    parser.add_argument(
        "--on-demand-vcpus", type=number, default=1000.0, help="on-demand quota per family"
    )
    parser.add_argument(
        "--fault",
        action="append",
        type=_fault,
        default=[],
        metavar="KIND[:NAME=VALUE,...]",
        help="inject a fault, such as throttled:action=DescribeInstances,rate=0.1 or "
        f"black_hole:from_s=60,to_s=120; kinds: {', '.join([*faults.KINDS, *faults.FLEET_KINDS])}",
    )
    parser.add_argument("--company", action="store_true", help="other users share the account")
    parser.add_argument(
        "--unknown-s", type=number, default=0.0, help="longest time ids are unknown"
    )
    parser.add_argument(
        "--template-unknown-s", type=number, default=0.0, help="the same of launch templates"
    )
    parser.add_argument("--lag-s", type=number, default=0.0, help="longest lag of describe calls")
    parser.add_argument("--page-most", type=whole_number, help="longest page of a describe call")
    parser.add_argument("--empty-share", type=number, default=0.0, help="share of empty pages")
    parser.add_argument(
        "--clock-off-s", type=number, help="error of each guest's clock until it is synchronised"
    )
    parser.add_argument(
        "--silent-share", type=number, default=0.0, help="share of instances without console output"
    )
    parser.add_argument(
        "--events",
        type=_delivery,
        metavar="NAME=VALUE,...",
        help="how events get into queues, such as lost_share=0.1,delay_median_s=5",
    )
    parser.add_argument("--throttled", action="store_true", help="apply EC2's token buckets")
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="end when standard input is closed and nothing is left to clean up",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON when ready")


def run(args: argparse.Namespace) -> int:
    """Serve a world with these options until interrupted or idle."""
    world = World(
        args.seed,
        market=Market.named(args.market),
        clock=VirtualTime() if args.virtual else ScaledTime(args.speed),
        epoch=args.date,
        quota_vcpus=args.quota_vcpus,
        on_demand_vcpus=args.on_demand_vcpus,
        throttled=args.throttled,
        reads=Reads(
            unknown_s=args.unknown_s,
            template_unknown_s=args.template_unknown_s,
            id_lag_s=args.lag_s,
            filter_lag_s=args.lag_s,
            page_most=args.page_most,
            empty_share=args.empty_share,
        ),
        guests=Guests(clock_off_s=args.clock_off_s, silent_share=args.silent_share),
        events=args.events,
    )
    world.faults += args.fault
    if args.company:
        company.move_in(world, company.crowd(catalogue.DEFAULT_REGIONS))

    def ready(url: str) -> None:
        text = json.dumps({"url": url, **describe(world)}) if args.json else _how_to(url, world)
        print(text, flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        lifeline = sys.stdin.fileno() if args.end_with_stdin else None
        serve(world, port=args.port, idle_s=args.idle_s, lifeline=lifeline, ready=ready)
    return 0


def _fault(text: str) -> faults.Fault:
    try:
        return _of_known_action(faults.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is wrong: {error}") from error


def _of_known_action(fault: faults.Fault) -> faults.Fault:
    api.require_known(fault.action)
    return fault


def _delivery(text: str) -> Delivery:
    known = [item.name for item in fields(Delivery)]
    given: dict[str, float] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if name not in known:
            hint = did_you_mean(name, known)
            raise argparse.ArgumentTypeError(
                f"has the settings {', '.join(known)}, got {name!r}{hint}"
            )
        given[name] = number(value)
    try:
        return Delivery(**given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is wrong: {error}") from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"must be a port from 0 to {_LAST_PORT}, got {text!r}")
    return int(text)


def _date(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a date, or a date and a time, such as 2025-05-01T12:30, got {text!r}"
        ) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise argparse.ArgumentTypeError(
            f"must be in a year from {_YEARS[0]} to {_YEARS[1]}, got {text!r}"
        )
    return moment


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, world: World, port: int) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:  # in use, or below 1024
            raise OSError(
                f"port {port} cannot be listened on ({error.strerror}): choose another --port, or "
                "0 for any free one"
            ) from error
        self.world = world
        self.last_request_s = time.monotonic()
        self.awaited: dict[_Handler, float] = {}  # connections, and since when we wait for them
        self.ended = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback if a client went away; that is its right."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close_silent(self, silent_s: float) -> None:
        """Close the connections whose client neither sends a whole request nor reads."""
        now_s = time.monotonic()
        for handler, since_s in self.awaited.copy().items():
            if now_s - since_s > silent_s:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    handler.connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    error_content_type = "text/plain"
    error_message_format = "%(code)d: %(message)s\n"

    def setup(self) -> None:
        """Begin to wait for the client."""
        super().setup()
        self.server.awaited[self] = time.monotonic()

    def finish(self) -> None:
        """Wait for it no longer."""
        self.server.awaited.pop(self, None)
        super().finish()

    def do_GET(self) -> None:
        """Answer any request: a control path or an AWS call."""
        self.server.last_request_s = time.monotonic()
        refused = self._refusal()
        if refused is not None:
            status, message = refused
            self.close_connection = True  # its body was not read
            self._send(*_json(status, {"error": message}))
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # the client went away, or was too slow
            self.close_connection = True
            return
        self.server.awaited.pop(self, None)  # from here it waits for us
        try:
            reply = self._answer(body)
        except BotoCoreError:  # a fault: the client's connection must break
            self.close_connection = True
            return
        finally:
            self.server.awaited[self] = time.monotonic()
        self._send(*reply)

    do_POST = do_PUT = do_DELETE = do_GET

    def _refusal(self) -> tuple[int, str] | None:
        """Why a request is refused before its body is read, or None."""
        sent = self.headers
        if _host_of(sent.get("Host", "")) not in _HERE or "Origin" in sent:
            return 403, "the sandbox answers programs on this machine, not web pages"
        length = sent.get("Content-Length", "0")
        if "Transfer-Encoding" in sent or not (length.isascii() and length.isdigit()):
            return 411, f"need a Content-Length, got {length!r}"
        if len(length) > 9 or int(length) > _MOST_BODY:
            return 413, f"a request has at most {_MOST_BODY} bytes, not {length}"
        is_json = sent.get_content_type() == "application/json"
        if self.path.startswith("/sandbox") and self.command != "GET" and not is_json:
            return 415, "need Content-Type: application/json"
        return None

    def _answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path, _, query = self.path.partition("?")
        control = _CONTROL.get((self.command, path))
        if control is not None:
            return _control(self.server.world, control, body, query)
        url = f"http://{self.headers.get('Host', '')}{self.path}"
        headers = {name.lower(): value for name, value in self.headers.items()}
        return answer(self.server.world, url, headers, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing: ``world.calls`` has every call."""


def _watch(server: _Server, idle_s: float, silent_s: float) -> None:
    """Close silent connections, and end the server when it is idle."""
    while not server.ended.wait(min(1.0, silent_s / 10, (idle_s or silent_s) / 10)):
        server.close_silent(silent_s)
        if idle_s and time.monotonic() - server.last_request_s >= idle_s:
            server.shutdown()


def _end_with(lifeline: int, server: _Server) -> None:
    """End the server with those who need it, unless something is left to clean up."""
    while os.read(lifeline, 1024):
        pass
    if not any(server.world.leftovers().values()):
        server.shutdown()


def _host_of(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _control(
    world: World, control: Callable[[World, dict[str, Any]], Any], body: bytes, query: str
) -> tuple[int, dict[str, str], bytes]:
    try:
        return _json(200, control(world, parse_qs(query) | json.loads(body or b"{}")))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        return _json(400, {"error": str(error)})


def _json(status: int, result: Any) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(result).encode()


def _advance(world: World, body: dict[str, Any]) -> dict[str, float]:
    return {"now_s": world.advance(float(body["seconds"]))}


def _add_fault(world: World, body: dict[str, Any]) -> dict[str, int]:
    with world.lock:
        world.faults.append(_of_known_action(faults.order(body)))
    return {"faults": len(world.faults)}


def _clear_faults(world: World, _: dict[str, Any]) -> dict[str, int]:
    with world.lock:
        world.faults.clear()
    return {"faults": 0}


_CONTROL: dict[tuple[str, str], Callable[[World, dict[str, Any]], Any]] = {
    ("GET", "/sandbox"): lambda world, _: describe(world),
    ("GET", "/sandbox/now"): lambda world, _: {"now_s": world.now_s},
    ("GET", "/sandbox/truth"): lambda world, _: world.truth(),
    ("GET", "/sandbox/fired"): lambda world, _: [asdict(each) for each in world.fired],
    ("GET", "/sandbox/touched"): lambda world, _: world.touched,
    ("GET", "/sandbox/leftovers"): lambda world, _: world.leftovers(),
    ("GET", "/spot-advisor-data.json"): lambda world, asked: advisor(world, asked.get("region")),
    ("POST", "/sandbox/advance"): _advance,
    ("POST", "/sandbox/faults"): _add_fault,
    ("POST", "/sandbox/faults/clear"): _clear_faults,
}


def _how_to(url: str, world: World) -> str:
    return f"""\
A pretend spot market (nothing here is AWS, nothing costs money): {url}
world {world.world_id}, seed {world.seed}, market {world.market.name}, {world.clock.mode} time

Point boto3 or the AWS CLI at it:

  export AWS_ENDPOINT_URL={url}
  export AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox AWS_DEFAULT_REGION=us-east-1

Some versions of the AWS CLI send "aws sqs" to AWS nevertheless: give it --endpoint-url too.

Then, for example:

  image=$(aws ssm get-parameter --query Parameter.Value --output text \\
    --name /aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64)
  aws ec2 request-spot-instances --instance-count 2 \\
    --launch-specification "ImageId=$image,InstanceType=t4g.nano"
  aws ec2 describe-spot-instance-requests
  aws ec2 describe-instance-status
  aws ec2 cancel-spot-instance-requests --spot-instance-request-ids sir-...
  aws ec2 terminate-instances --instance-ids i-...

Ctrl-C ends it."""


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
