"""How a call travels: from an HTTP request to the world and back, in-process or behind a server.

``attach`` answers a boto3 client in-process, without a socket; ``server`` puts the same
``answer`` behind HTTP.  Every call is journaled, spends its latency on the world's clock, and
passes the world's faults.  Whatever goes wrong inside is an error in AWS's own form.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import format_datetime
from io import BytesIO
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import BotoCoreError
from urllib3.response import HTTPResponse

from spotlib.sandbox import api, borrowed
from spotlib.sandbox.chance import digest, uniforms
from spotlib.sandbox.protocol import (
    Answer,
    ApiError,
    Asked,
    address,
    parse,
    protocol_of,
    write,
    write_error,
)
from spotlib.sandbox.world import Call, World


def attach(world: World, client: Any) -> None:
    """Let this boto3 client talk to the world and to nothing else."""

    def before_send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        status, answer_headers, answer_body = answer(world, request.url, headers, body)
        raw = HTTPResponse(body=BytesIO(answer_body), preload_content=False)
        return AWSResponse(request.url, status, answer_headers, raw)

    events = client.meta.events
    events.unregister("before-send", unique_id="sandbox")  # a client has one world at a time
    events.register_first("before-send", before_send, unique_id="sandbox")


def answer(world: World, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """Answer one AWS request; header names are in lower case.

    Raises botocore's connection errors where a fault says so.
    """
    with world.lock:
        number, began_s = len(world.calls), world.now_s
        asked: Asked | None = None
        code: str | None = None
        service, region = "ec2", ""
        try:
            service, region = address(url, headers)
            asked = parse(service, region, url, headers, body)
            reply = _carry_out(world, asked, number)
        except BotoCoreError as error:
            code = type(error).__name__
            raise
        except Exception as error:  # noqa: BLE001 (even a bug of ours is answered as AWS would)
            refusal = error if isinstance(error, ApiError) else _internal(error)
            code = refusal.code
            reply = write_error(protocol_of(service), refusal, _request_id(world, number))
        finally:
            world.calls.append(_journaled(began_s, service, region, asked, code))
            _spend(world, asked, number, after=True)
        return _stamped(world, reply)


def _carry_out(world: World, asked: Asked, number: int) -> Answer:
    _spend(world, asked, number, after=False)
    for fault in world.faults:
        fault(asked, False)
    api.authorize(world, asked)
    if borrowed.answers(asked):
        reply = borrowed.pass_on(asked)
    else:
        reply = write(asked, api.execute(world, asked), _request_id(world, number))
    for fault in world.faults:
        fault(asked, True)
    return reply


def _request_id(world: World, number: int) -> str:
    return digest(16, "call", world.seed, number).hex()


def _internal(error: Exception) -> ApiError:
    return ApiError("InternalError", f"{type(error).__name__}: {error}", 500)


def _spend(world: World, asked: Asked | None, number: int, *, after: bool) -> None:
    """Spend the call's latency, a part before it takes effect and the rest after."""
    if asked is not None:
        name = (world.seed, asked.region, number)
        latency_s = world.market.latency_s(api.latency_kind(asked.action), *name)
        share = float(uniforms(1, "before", *name)[0])
        world.clock.spend(latency_s * (1.0 - share if after else share))
    world.catch_up()


def _journaled(
    at_s: float, service: str, region: str, asked: Asked | None, code: str | None
) -> Call:
    action = asked.action if asked else ""
    return Call(at_s, service, action, region, action in api.MUTATING, code)


def _stamped(world: World, reply: Answer) -> Answer:
    """The answer with the world's date, and its time, which a client of a virtual clock needs."""
    status, headers, body = reply
    now_s = world.now_s
    stamp = {
        "Date": format_datetime(world.utc(now_s), usegmt=True),
        "x-sandbox-now": repr(now_s),
    }
    return status, {**headers, **stamp}, body


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
