"""One attempt at one call: what is learnt from its answer, whatever it is, and what is not."""

import gc
import io
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.error import URLError

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.parsers import ResponseParserError

from spotlib.ec2 import connection, endpoints
from spotlib.ec2.connection import Connection, new_executor
from spotlib.ec2.endpoints import _within, connect, require_endpoint
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATE, LATER = "Thu, 01 Jan 2026 01:00:00 GMT", "Thu, 01 Jan 2026 02:00:00 GMT"


class Clock:
    """Stands where it is set; notes the headers that it heard and how long it was to sleep."""

    inline = False

    def __init__(self):
        self.seconds, self.headers, self.slept_s = 100.0, [], []

    def now_s(self):
        return self.seconds

    def utc(self):
        return NOW + timedelta(seconds=self.seconds)

    def heard(self, headers):
        self.headers.append(headers)

    def sleep(self, seconds):
        self.slept_s.append(seconds)


class Client:
    """Gives these answers in turn, and may answer with these members."""

    def __init__(self, *answers, members=("Regions", "NextToken")):
        shape = SimpleNamespace(members=dict.fromkeys(members)) if members else None
        model = SimpleNamespace(operation_model=lambda _: SimpleNamespace(output_shape=shape))
        mapping = defaultdict(str)
        self.meta = SimpleNamespace(service_model=model, method_to_api_mapping=mapping)
        self.answers, self.asked = list(answers), []

    def __getattr__(self, action):
        def answer(**given):
            self.asked.append((action, given))
            found = self.answers.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        return answer


def reply(*, date=None, **members):
    headers = {} if date is None else {"date": date}
    return {"ResponseMetadata": {"HTTPHeaders": headers}} | members


def error(code, headers=None):
    response = {"Error": {"Code": code, "Message": "m"}}
    if headers is not None:
        response["ResponseMetadata"] = {"HTTPHeaders": headers, "HTTPStatusCode": 400}
    return ClientError(response | {"ResponseMetadata": {"HTTPHeaders": headers or {}}}, "X")


NO_ANSWER = EndpointConnectionError(endpoint_url="https://x")


@pytest.fixture
def there():
    """Return a connection whose sessions make one client for everything, and that client."""

    def build(*answers, endpoint="aws", members=("Regions", "NextToken"), **given):
        client, opened = Client(*answers, members=members), []

        def open_session():
            opened.append(SimpleNamespace(client=lambda *_, **__: client))
            return opened[-1]

        connection = Connection(endpoint, Clock(), open_session, **given)
        return connection, client, opened

    return build


def refused(connection, action="describe_regions"):
    with pytest.raises(Refusal) as caught:
        connection.call("us-east-1", action)
    return caught.value


def test_ec2s_time_is_that_of_its_last_answer_with_a_date_plus_what_has_passed_since(there):
    connection, _, _ = there(
        reply(Regions=[]), reply(Regions=[], date=DATE), reply(Regions=[], date="soon")
    )

    connection.call("us-east-1", "describe_regions")
    assert connection.server_utc() == NOW + timedelta(seconds=100)
    connection.call("us-east-1", "describe_regions")
    connection.clock.seconds = 130.0
    assert connection.server_utc() == NOW + timedelta(hours=1, seconds=30)
    connection.call("us-east-1", "describe_regions")
    assert connection.server_utc() == NOW + timedelta(hours=1, seconds=30)


def test_the_clock_hears_the_headers_of_every_answer_and_that_there_was_none(there):
    connection, _, _ = there(
        reply(Regions=[], date=DATE), error("Unavailable", {"date": LATER}), NO_ANSWER
    )

    connection.call("us-east-1", "describe_regions")
    refused(connection)
    refused(connection)

    assert connection.clock.headers == [{"date": DATE}, {"date": LATER}, None]


def test_something_answers_there_as_ec2_does_if_it_refuses_but_not_if_nothing_comes(there):
    connection, _, _ = there(NO_ANSWER, reply(), error("Unavailable"), NO_ANSWER)

    reached = []
    for _ in range(4):
        refused(connection)
        reached.append(connection.reached)
    assert reached == [False, False, True, True]
    other, _, _ = there(reply(Regions=[]))
    other.call("us-east-1", "describe_regions")
    assert other.reached


@pytest.mark.parametrize(
    ("action", "members", "answer", "lacks"),
    [
        ("describe_regions", ["Regions", "NextToken"], {}, "NextToken or Regions"),
        ("describe_regions", ["Regions", "NextToken"], {"NextToken": "t"}, None),
        ("describe_regions", ["Regions"], {"Vpcs": []}, "Regions"),
        ("cancel", [], {}, None),  # it answers only that it is done
        ("list_queues", ["QueueUrls"], {}, None),  # its answer may be empty
    ],
)
def test_an_answer_without_any_of_its_members_is_a_lost_one(there, action, members, answer, lacks):
    connection, _, _ = there(reply(**answer), members=members)

    if lacks is None:
        assert connection.call("us-east-1", action).keys() >= answer.keys()
    else:
        refusal = refused(connection, action)
        assert refusal.message == f"the answer has no {lacks}"
        assert (refusal.kind, refusal.maybe_done) == (Kind.UNREACHABLE, True)


def test_an_entry_that_failed_fails_the_call(there):
    failed = [{"ErrorCode": "ConcurrentModificationException", "ErrorMessage": "m"}]
    connection, _, _ = there(reply(FailedEntries=[]), reply(FailedEntries=failed), members=[])

    connection.call("us-east-1", "put_targets")
    assert refused(connection, "put_targets").kind is Kind.THROTTLED


def test_refused_credentials_are_read_again_but_not_for_each_call_of_a_second(there):
    expired = [error("ExpiredToken")] * 5
    connection, _, opened = there(error("Unavailable"), *expired, reply(Regions=[]))
    moments_s = [100.0, 100.0, 100.5, 101.0, 101.9, 102.1, 102.2]

    read = []
    for moment_s in moments_s[:-1]:
        connection.clock.seconds = moment_s
        refused(connection)
        read.append(len(opened))
    connection.clock.seconds = moments_s[-1]
    connection.call("us-east-1", "describe_regions")

    # The first refused ones are those of 100 s, and those of 101 s and 102.1 s are the next.
    assert [*read, len(opened)] == [1, 1, 2, 2, 3, 3, 4]


def test_a_client_is_made_once_for_each_service_and_region_and_waiting_time(there):
    connection, _, _ = there(*[reply(Regions=[])] * 5)
    made = []
    connection._new_client = lambda *what: made.append(what) or Client(reply(Regions=[]))

    for _ in range(2):
        for key in (("ec2", "a", 5), ("ec2", "b", 5), ("sqs", "a", 5), ("ec2", "a", 20)):
            connection._client(*key)

    assert made == [("ec2", "a", 5), ("ec2", "b", 5), ("sqs", "a", 5), ("ec2", "a", 20)]


class OneLogin:
    """Credentials that end at noon; notes the sessions that are renewed."""

    def __init__(self):
        self.renewed = []

    def renew(self, session):
        self.renewed.append(session)

    def end_at(self, session):
        return session, NOW


def test_credentials_are_renewed_before_each_call_and_say_when_they_end(there):
    login = OneLogin()
    connection, _, opened = there(*[reply(Regions=[])] * 2, login=login)
    plain, _, _ = there(reply(Regions=[]))

    for _ in range(2):
        connection.call("us-east-1", "describe_regions")

    assert login.renewed == opened * 2
    assert connection.credentials_end_at() == (opened[0], NOW)
    assert plain.credentials_end_at() is None
    assert plain.call("us-east-1", "describe_regions")


@pytest.mark.parametrize(
    ("endpoint", "world", "simulated", "foreign"),
    [
        ("aws", None, False, False),
        ("sandbox", "w", True, False),
        ("http://127.0.0.1:9", "w", True, False),
        ("http://127.0.0.1:9", None, False, True),
    ],
)
def test_an_endpoint_is_amazons_the_sandbox_or_another(there, endpoint, world, simulated, foreign):
    connection, _, _ = there(endpoint=endpoint, world=world)

    assert (connection.simulated, connection.foreign) == (simulated, foreign)


def test_the_lifeline_is_the_pipe_to_the_sandbox_that_was_started_here(there):
    connection, _, _ = there()
    assert connection.lifeline == ()
    connection.process = SimpleNamespace(stdin=None)
    assert connection.lifeline == ()
    connection.process.stdin = SimpleNamespace(fileno=lambda: 7)
    assert connection.lifeline == (7,)


def test_closing_ends_the_sandbox_that_was_started_here_and_waits_for_it(there):
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdin=-1, stdout=-1
    )
    connection, _, _ = there(process=process)

    connection.close()
    connection.close()

    assert process.returncode == -signal.SIGTERM
    assert process.stdin.closed
    assert connection.process is None


def test_calls_run_in_threads_but_in_virtual_time_at_once_one_after_another(there):
    connection, _, _ = there()
    with new_executor(connection) as executor:
        assert isinstance(executor, ThreadPoolExecutor)
    connection.clock.inline = True
    with new_executor(connection) as executor:
        here = executor.submit(threading.current_thread)
        assert here.done()
        assert here.result() is threading.current_thread()
        assert executor.submit(int, "7", base=8).result() == 7
        assert isinstance(executor.submit(int, "x").exception(), ValueError)


def test_a_first_question_is_asked_in_a_thread_that_keeps_no_process_from_ending():
    here = threading.current_thread()

    assert _within(5.0, lambda: threading.current_thread().daemon)
    assert _within(5.0, threading.current_thread) is not here
    with pytest.raises(ZeroDivisionError):
        _within(5.0, lambda: 1 // 0)
    never = threading.Event()
    with pytest.raises(TimeoutError):
        _within(0.01, never.wait)
    never.set()


@pytest.fixture
def first_questions(monkeypatch, there):
    """Connect to an endpoint that answers the first questions so; return how it went."""

    def ask(*answers):
        asked, (connection, _, _) = [], there(endpoint="http://x")

        def call(*what, **given):
            asked.append((what, given))
            found = answers[min(len(asked), len(answers)) - 1]
            if isinstance(found, Exception):
                raise found
            if found is not None:
                raise Refusal("No", "m", kind=found, advice="")

        connection.call = call
        monkeypatch.setattr(endpoints, "_real_connection", lambda *_, **__: connection)
        try:
            endpoints._foreign_connection("http://x", login=None)
            error = None
        except OSError as caught:
            error = str(caught)
        assert {str(each) for each in asked} == {
            str((("us-east-1", "describe_regions"), {"quick": True}))
        }
        return len(asked), connection.clock.slept_s, error

    return ask


AWAY = Kind.UNREACHABLE


@pytest.mark.parametrize(
    ("answers", "asked", "slept_s", "error"),
    [
        ([None], 1, [], None),
        ([Kind.PERMISSION], 1, [], None),  # refused in EC2's own words
        ([AWAY, AWAY, None], 3, [0.5, 1.0], None),
        ([AWAY, Kind.SERVER], 2, [0.5], None),
        ([AWAY], 3, [0.5, 1.0], "http://x does not answer as EC2 does (No: m): check the address"),
        ([TimeoutError()], 1, [], "http://x listens but does not answer: try again"),
    ],
)
def test_a_foreign_endpoint_is_asked_three_times_at_most(
    first_questions, answers, asked, slept_s, error
):
    assert first_questions(*answers) == (asked, slept_s, error)


@pytest.mark.parametrize(
    ("endpoint", "known"),
    [
        ("sandbox", True),
        ("aws", True),
        ("https://ec2.us-east-1.amazonaws.com", True),  # it is refused with a word of its own
        ("http://127.0.0.1:5000", True),
        ("https://x", True),
        ("http://x:1", True),
        ("http://x:0", False),
        ("http://x:65536", False),
        ("http://", False),
        ("ftp://x", False),
        ("x:5000", False),
        ("aaa", False),
        ("zzz", False),
        ("sandbox2", False),
        ("", False),
    ],
)
def test_an_endpoint_is_the_sandbox_aws_or_a_web_address(endpoint, known):
    if known:
        require_endpoint(endpoint)
    else:
        with pytest.raises(ValueError, match=f"endpoint '{endpoint}' is unknown: use 'sandbox'"):
            require_endpoint(endpoint)


@pytest.mark.parametrize("connects", [require_endpoint, connect])
def test_an_address_that_may_hold_a_password_is_refused_without_it(connects):
    with pytest.raises(ValueError, match="endpoint") as caught:
        connects("http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(caught.value)


def test_what_is_no_endpoint_is_asked_nothing(monkeypatch):
    monkeypatch.setattr(endpoints, "control", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(endpoints, "_real_connection", lambda *_, **__: pytest.fail("opened"))

    own = ("amazonaws.com", "https://ec2.amazonaws.com", "sts.amazonaws.com")
    unknown = ("asw", "sandboxes", "staging", "")
    said = dict.fromkeys(own, "is Amazon's own") | dict.fromkeys(unknown, "is unknown")
    for endpoint, words in said.items():
        with pytest.raises(ValueError, match=words):
            connect(endpoint)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "listens but does not answer: try again"),
        (URLError(TimeoutError()), "listens but does not answer: try again"),
        (URLError(ConnectionRefusedError()), "nothing listens at http://127.0.0.1:9: check the"),
        (ConnectionRefusedError(), "nothing listens at http://127.0.0.1:9: check the address"),
    ],
)
def test_where_nothing_listens_or_answers_that_is_said_at_once(monkeypatch, error, reason):
    def fail(*_):
        raise error

    monkeypatch.setattr(endpoints, "control", fail)
    with pytest.raises(OSError, match=reason):
        connect("http://127.0.0.1:9")


ABOUT = {
    **{"world_id": "w-1", "epoch": "2026-01-01T00:00:00+00:00", "now_s": 5.0, "mode": "virtual"},
    **{"speed": 2.0, "seed": 7, "market": "calm"},
}


def test_a_sandbox_that_was_started_here_ends_with_the_connection_that_nobody_holds_any_more():
    """The pipe to it is closed then."""
    process = SimpleNamespace(stdin=io.BytesIO())
    held = endpoints._sandbox_connection("sandbox", "http://x", ABOUT, process)
    assert held.process is process
    assert not process.stdin.closed

    del held
    gc.collect()

    assert process.stdin.closed
    without = SimpleNamespace(stdin=None)
    assert endpoints._sandbox_connection("sandbox", "http://x", ABOUT, without).lifeline == ()


def test_a_sandbox_is_started_with_what_was_asked_for_and_used_where_it_listens(monkeypatch):
    process, started = SimpleNamespace(stdin=io.BytesIO()), []

    def start(**given):
        started.append(given)
        return process, "http://127.0.0.1:5"

    asked = {("http://127.0.0.1:5", "/sandbox"): ABOUT}
    monkeypatch.setattr(endpoints, "start_sandbox", start)
    monkeypatch.setattr(endpoints, "control", lambda *question: asked[question])
    found = connect("sandbox", market="calm/7", seed=7, speed=2.0)

    assert started == [{"market": "calm/7", "seed": 7, "speed": 2.0}]
    assert (found.endpoint, found.url, found.process) == ("sandbox", "http://127.0.0.1:5", process)
    assert (found.simulated, found.world, found.market) == (True, "w-1", "calm")


@pytest.mark.parametrize(("mode", "virtual"), [("virtual", True), ("scaled", False)])
def test_what_says_that_it_is_a_sandbox_is_one_and_anything_else_is_foreign(
    monkeypatch, mode, virtual
):
    about = ABOUT | {"mode": mode}
    monkeypatch.setattr(endpoints, "control", lambda *_: about)
    found = connect("http://127.0.0.1:9")

    assert (found.world, found.world_seed, found.market, found.url) == (
        *("w-1", 7, "calm", "http://127.0.0.1:9"),
    )
    assert found.clock.inline is virtual
    assert (found.clock.utc() - NOW).total_seconds() == pytest.approx(5.0, abs=60.0)
    monkeypatch.setattr(endpoints, "_foreign_connection", lambda *given, **_: given)
    about.pop("world_id")
    assert connect("http://127.0.0.1:9") == ("http://127.0.0.1:9",)


@pytest.mark.parametrize(
    ("body", "status", "refused"),
    [
        (b"", 200, False),  # of a deletion, say
        (b'{"Messages": []}', 200, False),
        (b'{"Messages": [', 200, True),
        (b'{"Messages": [', 299, True),
        (b"<html>", 300, False),  # no success: its status says what it is
        (b"<html>", 503, False),
    ],
)
def test_an_answer_of_success_that_was_cut_off_is_not_read_as_an_empty_one(body, status, refused):
    given = {"body": body, "status_code": status}
    with pytest.raises(ResponseParserError, match="no JSON") if refused else nullcontext():
        connection._require_json(given, operation_model="left out")
