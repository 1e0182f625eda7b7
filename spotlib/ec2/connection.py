"""The connection to EC2: clients for every region, its clock, and one attempt per call.

botocore never retries here, because a retry inside a measured interval would be read as latency.
``sandbox`` is a pretend market in a process of its own.  Only ``aws`` costs money; the URLs of
Amazon are refused.  Any other URL is a foreign endpoint; see ``foreign``.
"""

import json
import math
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from spotlib.ec2.caller import Caller, Memory, Reply
from spotlib.ec2.clock import (
    Clock,
)
from spotlib.ec2.credentials import Login
from spotlib.ec2.places import is_aws, partition_of
from spotlib.ec2.refusals import UNREADABLE, garbled, refusal_of, refusal_of_code
from spotlib.model import Kind

_REREAD_S = 1.0  # opening a Session anew takes a quarter of a second of work
_POLL_READ_S = 5  # a slower poll counts as missed: the schedule must not wait for it
_ACT_READ_S = 20
_MAY_BE_EMPTY = frozenset({"list_queue_tags", "list_queues", "receive_message"})  # their answers


@dataclass
class Connection(Caller):
    """EC2 at one endpoint, and the clock that belongs to it.

    ``endpoint`` is what the user named: ``sandbox``, ``aws`` or a URL.  ``world`` is the id of the
    sandbox's world, drawn from ``world_seed`` in its ``market``; all three are None elsewhere.
    ``attach`` hooks an in-process market to each client.

    ``reached`` says whether anything there ever answered as EC2 does.

    ``open_session`` reads the credentials, of ``login`` if there is one.  It is called again after
    they were refused, because a Session and its clients keep the old ones.
    """

    endpoint: str
    clock: Clock
    open_session: Callable[[], Any]
    url: str | None = None
    world: str | None = None
    world_seed: int | None = None
    market: str | None = None
    attach: Callable[[Any], None] | None = None
    profile: str | None = None
    login: Login | None = None
    process: subprocess.Popen[bytes] | None = None
    reached: bool = False
    memory: Memory = field(default_factory=Memory)
    _session: Any = None
    _clients: dict[tuple[str, str, int], Any] = field(default_factory=dict)
    _forgot_s: float = -math.inf  # when credentials were last refused, and so read again
    _server: tuple[datetime, float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __repr__(self) -> str:
        """Its endpoint only; all its attributes would fill pages."""
        return f"<Connection to {self.endpoint}{f', world {self.world}' if self.world else ''}>"

    @property
    def simulated(self) -> bool:
        """Whether this is the sandbox, whose results say nothing about AWS."""
        return self.world is not None

    @property
    def foreign(self) -> bool:
        """Whether another program answers for EC2: neither Amazon's nor the sandbox."""
        return not self.simulated and not is_aws(self.endpoint)

    @property
    def lifeline(self) -> tuple[int, ...]:
        """The pipe to a sandbox started here, which ends with the last holder if all is clean."""
        pipe = self.process.stdin if self.process is not None else None
        return (pipe.fileno(),) if pipe is not None else ()

    @property
    def session(self) -> Any:
        """The boto3 Session in use."""
        if self._session is None:
            self._session = self.open_session()
        return self._session

    def credentials_end_at(self) -> datetime | None:
        """When the credentials end for good; None if they are renewed or do not say."""
        return self.login.end_at(self.session) if self.login is not None else None

    def region_names(self, region: str, service: str = "ec2") -> list[str]:
        """The regions of this region's partition that have a service, as botocore knows them."""
        partition = partition_of(region)
        return list(self.session.get_available_regions(service, partition_name=partition))

    def server_utc(self) -> datetime:
        """Return EC2's UTC: its last Date header, plus the time since then on our clock."""
        if self._server is None:
            return self.clock.utc()
        date, read_s = self._server
        return date + timedelta(seconds=self.clock.now_s() - read_s)

    def call(
        self,
        region: str,
        action: str,
        /,
        *,
        service: str = "ec2",
        quick: bool = False,
        **given: Any,
    ) -> dict[str, Any]:
        """Make one attempt at one call; ``quick`` waits for at most ``_POLL_READ_S``.

        Raises
        ------
        Refusal
            If the call did not succeed, for any reason.
        """
        try:
            client = self._client(service, region, _POLL_READ_S if quick else _ACT_READ_S)
            if self.login is not None:
                self.login.renew(self.session)
            reply: dict[str, Any] = getattr(client, action)(**given)
        except (ClientError, BotoCoreError, *UNREADABLE) as error:
            self.reached |= isinstance(error, ClientError)
            response = getattr(error, "response", None) or {}  # None without an answer
            self.clock.heard(response.get("ResponseMetadata", {}).get("HTTPHeaders"))
            refusal = refusal_of(error, action=action, region=region)
            if refusal.kind is Kind.CREDENTIALS:
                self._forget_credentials()
            raise refusal from error
        headers = reply["ResponseMetadata"]["HTTPHeaders"]
        self.clock.heard(headers)
        if "date" in headers:
            with suppress(ValueError):  # of a proxy, say: the last good date still counts
                self._server = (parsedate_to_datetime(headers["date"]), self.clock.now_s())
        members = _members(client, action) if action not in _MAY_BE_EMPTY else ()
        if members and not members & reply.keys():
            raise garbled(" or ".join(sorted(members)), action=action, region=region)
        self.reached = True
        for each in reply.get("FailedEntries", ()):  # EventBridge: of a call that succeeds
            code, message = each["ErrorCode"], each.get("ErrorMessage", "")
            raise refusal_of_code(code, message, action=action, region=region)
        return Reply({"action": action, "region": region}, reply)

    def _client(self, service: str, region: str, read_s: int) -> Any:
        with self._lock:  # clients are thread-safe, a Session is not
            key = (service, region, read_s)
            if key not in self._clients:
                self._clients[key] = self._new_client(service, region, read_s)
            return self._clients[key]

    def _forget_credentials(self) -> None:
        """Read the credentials again for the next call, but only once for all calls of one pass."""
        with self._lock:
            if self.clock.now_s() - self._forgot_s < _REREAD_S:
                return
            self._forgot_s = self.clock.now_s()
            self._session = None
            self._clients.clear()

    def _new_client(self, service: str, region: str, read_s: int) -> Any:
        loopback = self.url is not None and urlsplit(self.url).hostname in (
            "127.0.0.1",
            "localhost",
        )
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=3,
            # Virtual time must not depend on how busy this machine is.
            read_timeout=120 if self.clock.inline and self.attach is None else read_s,
            max_pool_connections=16,
            # boto3 makes its own for each call, a tenth of a call that stays in this process.
            user_agent=None if self.attach is None else "spotlib",
            user_agent_extra="spotlib",
            ignore_configured_endpoint_urls=True,
            proxies={} if loopback else None,  # a proxy does not reach 127.0.0.1
        )
        client = self.session.client(
            service, region_name=region, endpoint_url=self.url, config=config
        )
        if service == "sqs":
            client.meta.events.register("before-parse.sqs", _require_json)
        if self.attach is not None:
            self.attach(client)
        return client

    def close(self) -> None:
        """End the sandbox that this connection started.

        Left open, it ends with this process if nothing is left to clean up, else when it was idle
        for a while.
        """
        if self.process is not None:
            self.process.terminate()
            self.process.communicate()
            self.process = None


def _require_json(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Refuse an answer that was cut off: botocore would read it as an empty one."""
    try:
        json.loads(response_dict["body"] or b"{}")
    except ValueError as error:
        if response_dict["status_code"] < HTTPStatus.MULTIPLE_CHOICES:
            raise ResponseParserError(f"an answer that is no JSON: {error}") from error


def _members(client: Any, action: str) -> frozenset[str]:
    """The members that an answer may have; none if the action answers only that it is done."""
    operation = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[action])
    return frozenset(operation.output_shape.members if operation.output_shape else ())


_THREADS = 8


def new_executor(connection: Connection) -> Executor:
    """Return a small thread pool; with virtual time, an executor that runs calls inline."""
    return _Inline() if connection.clock.inline else ThreadPoolExecutor(_THREADS)


class _Inline(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as with any executor, result() raises it
            future.set_exception(error)
        return future
