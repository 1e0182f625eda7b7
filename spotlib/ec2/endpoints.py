"""Where EC2 is: ``connect`` to the sandbox, to AWS, or to another program that answers as EC2 does.

``sandbox`` is a pretend market in a process of its own.  Only ``aws`` costs money; the URLs of
Amazon are refused.  Any other URL is a foreign endpoint, or a sandbox that already runs.
"""

import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

from spotlib.addresses import require_no_secret
from spotlib.ec2.clock import (
    Clock,
    RemoteWorld,
    ScaledClock,
    SystemClock,
    VirtualClock,
    World,
    control,
)
from spotlib.ec2.connection import Connection
from spotlib.ec2.credentials import Login, SessionKeys, sandbox_session
from spotlib.ec2.places import is_aws
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.sandbox_process import start_sandbox
from spotlib.errors import ParameterError, did_you_mean
from spotlib.model import Kind

_FIRST_MOST_S = 20.0  # for one of the first questions to an endpoint, however it answers
_FIRST_PAUSES_S = (0.5, 1.0)  # between the first questions to a foreign endpoint

Value = TypeVar("Value")


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
    if starts_sandbox(endpoint):
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


def starts_sandbox(endpoint: str) -> bool:
    """Whether an endpoint means a new sandbox; one that already runs has a URL."""
    return endpoint == "sandbox"


def require_endpoint(endpoint: str) -> None:
    """Refuse what is no endpoint, and a URL that may hold a password.

    Raises
    ------
    ValueError
        With what an endpoint may be.
    """
    require_no_secret("endpoint", endpoint)
    if not starts_sandbox(endpoint) and not is_aws(endpoint) and not _is_url(endpoint):
        raise ParameterError(
            f"endpoint {endpoint!r} is unknown: use 'sandbox' (free), 'aws' (costs money), "
            "or the URL of an EC2-compatible endpoint, such as http://127.0.0.1:5000"
            f"{_meant(endpoint)}"
        )


def _meant(endpoint: str) -> str:
    host, _, port = endpoint.partition(":")
    if port.isdigit() or "." in host:
        return f"; did you mean http://{endpoint}?"
    return did_you_mean(endpoint, ["sandbox", "aws"])


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
