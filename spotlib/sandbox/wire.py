"""How a call travels: from an HTTP request to the world and back, in-process or behind a server.

``attach`` answers a boto3 client in-process, without a socket; ``server`` puts the same
``answer`` behind HTTP.  Every call is journaled, spends its latency on the world's clock, and
passes the world's faults.  Whatever goes wrong inside is an error in AWS's own form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from email.utils import format_datetime
from io import BytesIO
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import BotoCoreError
from urllib3.response import HTTPResponse

from spotlib.sandbox import api, borrowed
from spotlib.sandbox.chance import digest, uniforms
from spotlib.sandbox.faults import Harm
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
from spotlib.sandbox.world import Call, Fired, World


def attach(world: World, client: Any) -> None:
    """Let this boto3 client talk to the world and to nothing else."""
    read_timeout_s = client.meta.config.read_timeout

    def before_send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        status, answer_headers, answer_body = answer(
            world, request.url, headers, body, read_timeout_s=read_timeout_s
        )
        raw = HTTPResponse(body=BytesIO(answer_body), preload_content=False)
        return AWSResponse(request.url, status, answer_headers, raw)

    events = client.meta.events
    events.unregister("before-send", unique_id="sandbox")  # a client has one world at a time
    events.register_first("before-send", before_send, unique_id="sandbox")


def answer(
    world: World,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    read_timeout_s: float | None = None,
) -> Answer:
    """Answer one AWS request; header names are in lower case.

    Raises botocore's connection errors where a fault says so.
    """
    call = _Call(world, read_timeout_s)
    try:
        with world.lock:
            return call.answer(url, headers, body)
    finally:
        world.clock.hold(call.harmed_s)  # outside the lock: other clients go on


class _Call:
    """One call on its way through the world, and what befell it there."""

    def __init__(self, world: World, read_timeout_s: float | None) -> None:
        self.world = world
        self.read_timeout_s = read_timeout_s
        self.number, self.began_s = 0, 0.0
        self.service, self.region = "ec2", ""
        self.asked: Asked | None = None
        self.code: str | None = None  # of the error it is answered with
        self.harmed_s = 0.0  # what faults let it take

    def answer(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.number, self.began_s = len(self.world.calls), self.world.now_s
        try:
            reply = self._carry_out(url, headers, body)
        except BotoCoreError as error:
            self.code = type(error).__name__
            raise
        except Exception as error:  # noqa: BLE001 (even a bug of ours is answered as AWS would)
            refusal = error if isinstance(error, ApiError) else _internal(error)
            self.code = refusal.code
            request_id = _request_id(self.world, self.number)
            reply = write_error(protocol_of(self.service), refusal, request_id)
        finally:
            self.world.calls.append(self._journaled())
            self._spend_latency(after=True)
        return _stamped(self.world, reply)

    def _carry_out(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        world = self.world
        self.service, self.region = address(url, headers)
        asked = parse(self.service, self.region, url, headers, body)
        self._spend_latency(asked, after=False)
        self.asked = asked = replace(
            asked, at_s=world.now_s, number=self.number, read_timeout_s=self.read_timeout_s
        )
        self._suffer(asked, executed=False)
        api.authorize(world, asked)
        result: dict[str, Any] = {}
        if borrowed.answers(asked):
            reply = borrowed.pass_on(asked, without_vpc=self.region in world.no_default_vpc)
        else:
            result = api.execute(world, asked)
            reply = write(asked, result, _request_id(world, self.number))
        status, answer_headers, text = reply
        if self._suffer(asked, executed=True):
            self.code = "malformed"
            return status, answer_headers, text[: len(text) // 2]
        api.note_seen(world, asked, result)
        return reply

    def _suffer(self, asked: Asked, *, executed: bool) -> bool:
        """Let the faults strike; whether the answer is garbled.  Raises what breaks the call."""
        garbled = False
        for fault in self.world.faults:
            try:
                harm = fault(asked, executed)
            except (ApiError, BotoCoreError) as error:
                harm = Harm(error)
            if harm is None:
                continue
            name = getattr(fault, "kind", type(harm.error).__name__)
            fired = Fired(asked.at_s, name, asked.action, asked.region, executed)
            self.world.fired.append(fired)
            self.harmed_s += harm.spend_s
            self.world.clock.spend(harm.spend_s)
            self.world.catch_up()
            garbled |= harm.garbled
            if harm.error is not None:
                raise harm.error
        return garbled

    def _spend_latency(self, asked: Asked | None = None, *, after: bool) -> None:
        """Spend the call's latency, a part before it takes effect and the rest after."""
        asked, world = asked or self.asked, self.world
        if asked is not None:
            name = (world.seed, asked.region, self.number)
            latency_s = world.market.latency_s(api.latency_kind(asked.action), *name)
            share = float(uniforms(1, "before", *name)[0])
            world.clock.spend(latency_s * (1.0 - share if after else share))
        world.catch_up()

    def _journaled(self) -> Call:
        action = self.asked.action if self.asked else ""
        mutating = action in api.MUTATING
        return Call(self.began_s, self.service, action, self.region, mutating, self.code)


def _request_id(world: World, number: int) -> str:
    return digest(16, "call", world.seed, number).hex()


def _internal(error: Exception) -> ApiError:
    return ApiError("InternalError", f"{type(error).__name__}: {error}", 500)


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
