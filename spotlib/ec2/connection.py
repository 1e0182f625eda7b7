"""The connection to EC2: clients for every region, its clock, and one attempt per call.

botocore never retries here, because a retry inside a measured interval would be read as latency.
``sandbox`` is a pretend market in a process of its own.  Only ``aws`` costs money; the URLs of
Amazon are refused.  Any other URL is a foreign endpoint; see ``foreign``.
"""

import math
import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spotlib.addresses import require_no_secret
from spotlib.ec2.caller import Caller, Memory, Reply
from spotlib.ec2.clock import (
    Clock,
    RemoteWorld,
    ScaledClock,
    SystemClock,
    VirtualClock,
    World,
    control,
)
from spotlib.ec2.credentials import Login, SessionKeys, sandbox_session
from spotlib.ec2.places import is_aws, partition_of
from spotlib.ec2.refusals import UNREADABLE, Refusal, garbled, refusal_of, refusal_of_code
from spotlib.ec2.sandbox_process import start_sandbox
from spotlib.errors import ParameterError
from spotlib.model import Kind

_REREAD_S = 1.0  # opening a Session anew takes a quarter of a second of work
_POLL_READ_S = 5  # a slower poll counts as missed: the schedule must not wait for it
_ACT_READ_S = 20
_FIRST_MOST_S = 20.0  # for one of the first questions to an endpoint, however it answers
_MAY_BE_EMPTY = frozenset({"list_queue_tags", "list_queues", "receive_message"})  # their answers
_FIRST_PAUSES_S = (0.5, 1.0)  # between the first questions to a foreign endpoint

Value = TypeVar("Value")


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
        """Where it leads; what it works with would fill pages."""
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
        """The pipe to a sandbox started here, which ends with all who hold it, if all is clean."""
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
        """Read them again for the next call, but not again for each call of one pass."""
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
            user_agent_extra="spotlib",
            ignore_configured_endpoint_urls=True,
            proxies={} if loopback else None,  # a proxy does not reach 127.0.0.1
        )
        client = self.session.client(
            service, region_name=region, endpoint_url=self.url, config=config
        )
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


def _members(client: Any, action: str) -> frozenset[str]:
    """The members that an answer may have; none if the action answers only that it is done."""
    operation = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[action])
    return frozenset(operation.output_shape.members if operation.output_shape else ())


def connect(
    endpoint: str,
    *,
    profile: str | None = None,
    market: str | None = None,
    seed: int | None = None,
    speed: float | None = None,
    keys: SessionKeys | None = None,
) -> Connection:
    """Connect to EC2 in every region.  Only ``aws`` costs money, and only once you launch.

    Parameters
    ----------
    endpoint
        ``sandbox`` starts a pretend spot market on this machine.  ``aws`` is Amazon.  A URL is any
        other EC2-compatible endpoint, or a sandbox that already runs.
    profile
        The AWS profile; None is the default one.  If it asks for an MFA code, so does this call,
        at the terminal or in the notebook.  The sandbox ignores it.
    market
        The market that a new sandbox plays, such as ``fitted/7`` with seed 7; None is ``fitted``.
    seed
        Seed of a new sandbox's draws; None draws one.
    speed
        How many times faster than real time a new sandbox runs; None is virtual time, in which
        waiting takes no real time.
    keys
        Session keys that another process hands over; None uses the profile's credentials.

    Returns
    -------
    Connection
        ``simulated`` says whether it leads to a sandbox.  ``close`` ends a sandbox started here.

    Raises
    ------
    ValueError
        If the endpoint is none of these or may hold a password, the profile is not configured, or
        something redirects calls for AWS.
    Refusal
        If there are no credentials to be had.
    OSError
        If the sandbox does not start, for example because the market is unknown.
    ConnectionError
        If nothing listens at a URL, or what answers there is no EC2.

    Examples
    --------
    >>> from spotlib import connect
    >>> connection = connect("sandbox", market="fitted/7", seed=1)
    >>> connection.simulated, connection.market
    (True, 'fitted/7')
    >>> connection.close()
    """
    require_endpoint(endpoint)
    if endpoint == "sandbox":
        process, url = start_sandbox(market=market, seed=seed, speed=speed)
        return _sandbox_connection(endpoint, url, control(url, "/sandbox"), process)
    if is_aws(endpoint):
        return _real_connection(endpoint, url=None, login=_login_to_aws(endpoint, profile, keys))
    try:
        about = _within(_FIRST_MOST_S, partial(control, endpoint, "/sandbox"))
    except (OSError, ValueError, RecursionError, HTTPException) as error:
        _require_listener(endpoint, getattr(error, "reason", error))
        about = {}  # no sandbox
    if "world_id" not in about:
        return _foreign_connection(endpoint, login=Login(profile, keys))
    try:
        return _sandbox_connection(endpoint, endpoint, about, None)
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(
            f"{endpoint} says that it is a sandbox, but not how its world is ({error!r}): restart "
            "it with this version"
        ) from error


def connect_in_process(world: World, attach: Callable[[Any], None]) -> Connection:
    """Connect to a pretend market in this process, for tests and benchmarks.

    ``attach`` hooks the market to a client, which then opens no socket.
    """
    clock = VirtualClock(world)
    return Connection("sandbox", clock, sandbox_session, world=world.world_id, attach=attach)


def require_endpoint(endpoint: str) -> None:
    """Refuse what is no endpoint, and a URL that may hold a password.

    Raises
    ------
    ValueError
        With what an endpoint may be.
    """
    require_no_secret("endpoint", endpoint)
    if endpoint != "sandbox" and not is_aws(endpoint) and not _is_url(endpoint):
        raise ParameterError(
            f"endpoint {endpoint!r} is unknown: use 'sandbox' (free), 'aws' (costs money), "
            "or the URL of an EC2-compatible endpoint, such as http://127.0.0.1:5000"
        )


def _login_to_aws(endpoint: str, profile: str | None, keys: SessionKeys | None) -> Login:
    """Refuse an address of Amazon, and every setting that leads "AWS" elsewhere."""
    if endpoint != "aws":
        raise ParameterError(
            f"endpoint {endpoint!r} is Amazon's own: write 'aws' (it costs money), which finds the "
            "address of every region and service"
        )
    login = Login(profile, keys)
    if elsewhere := login.redirections():
        raise ParameterError(
            f"endpoint 'aws' would not lead to AWS: {'; '.join(elsewhere)}: remove that, or name "
            "its URL as the endpoint"
        )
    return login


def _real_connection(endpoint: str, *, url: str | None, login: Login) -> Connection:
    connection = Connection(endpoint, SystemClock(), login.open, url=url, login=login)
    _ = connection.session  # whoever must be asked for a code is asked now
    connection.profile = login.used
    return connection


def _is_url(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number or above 65535, a bracket that is not closed
        return False


def _within(most_s: float, ask: Callable[[], Value]) -> Value:
    """Return an answer, or raise TimeoutError: a server may send a byte now and then for ever."""
    future: Future[Value] = Future()
    # As a daemon it does not keep this process from ending.
    threading.Thread(target=_answer, args=(future, ask), daemon=True).start()
    try:
        return future.result(timeout=most_s)
    finally:
        del future


def _answer(future: Future[Value], ask: Callable[[], Value]) -> None:
    try:
        future.set_result(ask())
    except Exception as error:  # noqa: BLE001 - whatever it is, result() raises it
        future.set_exception(error)
    finally:
        del future  # else an error would keep itself, and the socket that it holds


def _require_listener(endpoint: str, reason: object) -> None:
    """Name what is certain already; any other error may be a proxy's or a certificate's."""
    if isinstance(reason, TimeoutError):  # a busy sandbox is no other endpoint
        raise OSError(f"{endpoint} listens but does not answer: try again") from reason
    if isinstance(reason, ConnectionRefusedError):
        raise ConnectionRefusedError(
            f"nothing listens at {endpoint}: check the address, or start what should answer there"
        ) from reason


def _foreign_connection(endpoint: str, *, login: Login) -> Connection:
    """Connect to another program that answers as EC2 does, and to nothing else."""
    connection = _real_connection(endpoint, url=endpoint, login=login)
    for pause_s in (*_FIRST_PAUSES_S, None):
        try:
            ask = partial(connection.call, "us-east-1", "describe_regions", quick=True)
            _within(_FIRST_MOST_S, ask)
            break
        except TimeoutError as error:
            _require_listener(endpoint, error)
        except Refusal as refusal:
            if refusal.kind is not Kind.UNREACHABLE:  # refused in EC2's own words
                break
            if pause_s is None:
                raise ConnectionError(
                    f"{endpoint} does not answer as EC2 does ({refusal.code}: {refusal.message}): "
                    "check the address"
                ) from refusal
            connection.clock.sleep(pause_s)
    return connection


def _sandbox_connection(
    endpoint: str, url: str, about: Mapping[str, Any], process: subprocess.Popen[bytes] | None
) -> Connection:
    epoch = datetime.fromisoformat(about["epoch"]).astimezone(UTC)
    clock: Clock = VirtualClock(RemoteWorld(url, epoch, about["now_s"], about["world_id"]))
    if about["mode"] != "virtual":
        clock = ScaledClock(speed=about["speed"], utc=clock.utc())
    connection = Connection(
        endpoint,
        clock,
        sandbox_session,
        url=url,
        world=about["world_id"],
        world_seed=about["seed"],
        market=about["market"],
        process=process,
    )
    if process is not None and process.stdin is not None:
        # subprocess itself keeps the pipe of a process that nobody waited for.
        weakref.finalize(connection, process.stdin.close)
    return connection


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
