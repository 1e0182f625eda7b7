"""The way of a call: from an HTTP request to the world and back, in-process or behind a server.

``attach`` answers a boto3 client in-process, without a socket; ``server`` offers the same
``answer`` over HTTP.  Every call is recorded in ``world.calls``, spends its latency on the world's
clock, and is subject to the world's faults.  Any error inside is answered in AWS's form.
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
    ParsedCall,
    address,
    parse,
    protocol_of,
    write,
    write_error,
)
from spotlib.sandbox.world import Call, Fired, World


def attach(world: World, client: Any) -> None:
    """Connect this boto3 client to the world, and to nothing else."""
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

    Raises one of botocore's connection errors if a fault breaks the connection.
    """
    handler = _Handler(world, read_timeout_s)
    handler.read(url, headers, body)
    try:
        with world.lock:
            return handler.answer()
    finally:
        world.clock.hold(handler.harmed_s)  # outside the lock: other clients continue


class _Handler:
    """Handles one call."""

    def __init__(self, world: World, read_timeout_s: float | None) -> None:
        self.world = world
        self.read_timeout_s = read_timeout_s
        self.number, self.began_s = 0, 0.0
        self.service, self.region = "ec2", ""
        self.parsed: ParsedCall | ApiError = ApiError("InternalError", "Nothing was read.", 500)
        self.call: ParsedCall | None = None
        self.code: str | None = None  # of the error it is answered with
        self.harmed_s = 0.0  # time spent by faults

    def read(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Parse the request; it needs no lock, so a long one delays no other client."""
        try:
            self.service, self.region = address(url, headers)
            self.parsed = parse(self.service, self.region, url, headers, body)
        except ApiError as error:
            self.parsed = error

    def answer(self) -> Answer:
        self.number, self.began_s = len(self.world.calls), self.world.now_s
        try:
            reply = self._execute()
        except BotoCoreError as error:
            self.code = type(error).__name__
            raise
        except Exception as error:  # noqa: BLE001 (AWS too answers with an error of its own)
            refusal = error if isinstance(error, ApiError) else _internal(error)
            self.code = refusal.code
            request_id = _request_id(self.world, self.number)
            reply = write_error(protocol_of(self.service), refusal, request_id)
        finally:
            self.world.calls.append(self._record())
            self._spend_latency(after=True)
        return _dated(self.world, reply)

    def _execute(self) -> Answer:
        world, call = self.world, self.parsed
        if isinstance(call, ApiError):
            raise call
        self._spend_latency(call, after=False)
        self.call = call = replace(
            call, at_s=world.now_s, number=self.number, read_timeout_s=self.read_timeout_s
        )
        world.pool_error = ""
        self._apply_faults(call, executed=False)
        api.authorize(world, call)
        result: dict[str, Any] = {}
        if borrowed.answers(call):
            reply = borrowed.pass_on(call)
        else:
            result = api.execute(world, call)
            reply = write(call, result, _request_id(world, self.number))
        status, answer_headers, text = reply
        if self._apply_faults(call, executed=True):
            self.code = "malformed"
            return status, answer_headers, text[: len(text) // 2]
        api.note_seen(world, call, result)
        return reply

    def _apply_faults(self, call: ParsedCall, *, executed: bool) -> bool:
        """Apply the faults and return whether the answer is garbled; raise what ends the call."""
        garbled = False
        for fault in self.world.faults:
            try:
                harm = fault(call, executed)
            except (ApiError, BotoCoreError) as error:
                harm = Harm(error)
            if harm is None:
                continue
            name = getattr(fault, "kind", type(harm.error).__name__)
            fired = Fired(call.at_s, name, call.action, call.region, executed)
            self.world.fired.append(fired)
            self.harmed_s += harm.spend_s
            self.world.clock.spend(harm.spend_s)
            self.world.run_due()
            garbled |= harm.garbled
            self.world.pool_error = harm.pool_error or self.world.pool_error
            if harm.error is not None:
                raise harm.error
        return garbled

    def _spend_latency(self, call: ParsedCall | None = None, *, after: bool) -> None:
        """Spend the call's latency: one part before it takes effect, the rest after."""
        call, world = call or self.call, self.world
        if call is not None:
            name = (world.seed, call.region, self.number)
            latency_s = world.market.latency_s(api.latency_kind(call.action), *name)
            share = float(uniforms(1, "before", *name)[0])
            world.clock.spend(latency_s * (1.0 - share if after else share))
        world.run_due()

    def _record(self) -> Call:
        action = self.call.action if self.call else ""
        mutating = action in api.MUTATING
        return Call(self.began_s, self.service, action, self.region, mutating, self.code)


def _request_id(world: World, number: int) -> str:
    return digest(16, "call", world.seed, number).hex()


def _internal(error: Exception) -> ApiError:
    return ApiError("InternalError", f"{type(error).__name__}: {error}", 500)


def _dated(world: World, reply: Answer) -> Answer:
    """Add the world's date, and its time, which a client of a virtual clock needs."""
    status, headers, body = reply
    now_s = world.now_s
    stamp = {
        "Date": format_datetime(world.utc(now_s), usegmt=True),
        "x-sandbox-now": repr(now_s),
    }
    return status, {**headers, **stamp}, body


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
