"""Where EC2 is: what a URL turns out to be, and what is no EC2."""

import itertools
import json
import re
import socketserver
import threading
import time
from contextlib import suppress
from functools import partial

import pytest
from conftest import NANO
from pages import shown_by

from spotlib.__main__ import main
from spotlib.ec2.clock import control
from spotlib.ec2.connection import Connection
from spotlib.ec2.endpoints import connect

PAGE = b"<!doctype html>\n<html><head><title>Welcome to\nnginx!</title></head><p>secret</html>"
XHTML = b"<html><head/><body><p>secret</p></body></html>"
S3 = b"<?xml version='1.0'?><Error><Code>MethodNotAllowed</Code><Message>secret</Message></Error>"
BUCKETS = b"<ListAllMyBucketsResult><Owner/><Buckets>secret</Buckets></ListAllMyBucketsResult>"


def http(body, status="200 OK", header="Content-Type: text/html"):
    head = f"HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


NONSENSE = {
    "JSON without anything": http(b"{}"),
    "JSON that is no object": http(b'["secret"]'),
    "brackets without an end": http(b"[" * 100_000),
    "JSON that says no": http(b'{"error": "secret"}', "404 Not Found"),
    "a page": http(PAGE),
    "a page that is XML": http(XHTML),
    "a page for what is not there": http(PAGE, "404 Not Found"),
    "the same as XML": http(XHTML, "404 Not Found"),
    "a log-in page": http(PAGE, "401 Unauthorized"),
    "a page of a broken server": http(PAGE, "500 Internal Server Error"),
    "a redirect": http(b"", "302 Found", "Location: http://127.0.0.1:9/secret"),
    "a redirect to itself": http(b"", "301 Moved Permanently", "Location: /"),
    "S3": http(S3, "405 Method Not Allowed"),
    "S3's list": http(BUCKETS),
    "an EC2 without regions": http(b"<DescribeRegionsResponse/>"),
    "bytes": bytes(range(256)),
    "bytes by HTTP": http(bytes(range(256))),
    "half an answer": http(XHTML)[:-30],
    "no answer": b"",
}


class Drip(bytes):
    """An answer of which a byte comes now and then."""


class Answers(socketserver.BaseRequestHandler):
    """Answers each request with the next of the server's answers, and closes."""

    def handle(self):
        head, _, body = self.request.recv(65536).partition(b"\r\n\r\n")
        length = next((int(w.split()[1]) for w in head.split(b"\r\n") if b"ength:" in w), 0)
        while len(body) < length:
            body += self.request.recv(65536)
        answer = next(self.server.answers)
        if isinstance(answer, Drip):
            with suppress(OSError):  # the client has gone
                for byte in answer:
                    self.request.sendall(bytes([byte]))
                    time.sleep(0.05)
        elif answer is None:  # it never comes
            self.request.recv(1)
        else:
            self.request.sendall(answer)


@pytest.fixture
def answers():
    """Return the address of a server that gives these answers, the last one for ever."""
    servers = []

    def serve(*answers):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answers)
        server.daemon_threads = True
        server.answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def answering(error):
    def control(*_, **__):
        raise error

    return control


def test_a_connection_is_shown_by_where_it_leads_and_by_nothing_else():
    there = partial(Connection, clock="clock", open_session=lambda: "secret", profile="secret")

    assert repr(there("aws")) == "<Connection to aws>"
    assert repr(there("sandbox", world="w-1")) == "<Connection to sandbox, world w-1>"


def test_a_sandbox_that_is_slow_to_answer_is_not_taken_for_another_endpoint(monkeypatch):
    """A guard that took it for one would believe that the market is gone."""
    monkeypatch.setattr("spotlib.ec2.endpoints.control", answering(TimeoutError()))

    with pytest.raises(OSError, match="listens but does not answer: try again"):
        connect("http://127.0.0.1:9")


@pytest.mark.parametrize("about", [b'{"world_id": 1}', b'{"world_id": "w", "epoch": "x"}'])
def test_a_sandbox_that_does_not_say_how_its_world_is_is_refused(answers, about):
    with pytest.raises(OSError, match="says that it is a sandbox, but not how its world is"):
        connect(answers(http(about)))


@pytest.fixture
def hasty(monkeypatch):
    """Ask a foreign endpoint without pauses."""
    monkeypatch.setattr("spotlib.ec2.endpoints._FIRST_PAUSES_S", (0.0, 0.0))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", NONSENSE)
def test_what_is_no_ec2_is_one_sentence_without_its_page(answers, kind):
    url = answers(NONSENSE[kind])

    with pytest.raises(ConnectionError) as caught:
        connect(url)

    words = str(caught.value)
    assert words.startswith(f"{url} does not answer as EC2 does (")
    assert len(words) < 300
    for piece in ("<", "\n", "\\", "secret"):
        assert piece not in words


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["JSON without anything", "a page", "S3"])
def test_check_and_sweep_print_that_sentence_and_nothing_else(answers, capsys, tmp_path, kind):
    url = answers(NONSENSE[kind])
    for command in (["check"], ["sweep", "--results", str(tmp_path)]):
        assert main([*command, "--endpoint", url]) == 2
        shown = capsys.readouterr()
        [line] = shown.err.splitlines()
        assert line.startswith(f"error: {url} does not answer as EC2 does (")
        assert shown.out == ""


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999", "http://127.0.0.1:port"])
def test_what_is_no_address_is_one_sentence(capsys, url):
    assert main(["check", "--endpoint", url]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: endpoint {url!r} is unknown: use 'sandbox' (free)")


@pytest.mark.usefixtures("hasty")
def test_a_redirect_is_not_followed(answers):
    """A sandbox would be used at an address that nobody named."""
    about = {"world_id": "w", "epoch": "2024-09-01T00:00:00+00:00", "now_s": 0.0, "mode": "virtual"}
    other = answers(http(json.dumps(about | {"seed": 1, "market": "calm"}).encode()))

    assert connect(other).simulated
    with pytest.raises(ConnectionError, match="does not answer as EC2 does"):
        connect(answers(http(b"", "302 Found", f"Location: {other}/sandbox")))


@pytest.mark.usefixtures("hasty")
def test_the_notebook_says_so_too(answers, repository, tmp_path):
    url = answers(NONSENSE["a page"])
    given = {"instance_type": NANO.instance_type, "region": NANO.region, "results": str(tmp_path)}

    words = f"{url} does not answer as EC2 does (ResponseParserError: a web page, 'Welcome to "
    words += "nginx!'): check the address"
    with pytest.raises(ConnectionError, match=f"^{re.escape(words)}$"):
        shown_by(repository / "notebooks/02_collect.ipynb", endpoint=url, **given)


@pytest.mark.usefixtures("hasty")
def test_an_endpoint_that_fails_at_first_is_asked_again(answers):
    regions = b"<DescribeRegionsResponse><regionInfo/></DescribeRegionsResponse>"
    url = answers(http(PAGE, "404 Not Found"), http(PAGE, "503 Busy"), http(regions))

    connection = connect(url)

    assert connection.foreign
    assert not connection.simulated


def test_a_server_that_accepts_and_never_answers_is_given_up(answers, monkeypatch, capsys):
    hasty = partial(control, timeout_s=0.2)
    monkeypatch.setattr("spotlib.ec2.endpoints.control", hasty)
    url = answers(None)

    assert main(["check", "--endpoint", url]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"error: {url} listens but does not answer: try again"


def test_an_endpoint_that_drips_is_given_up_soon_and_not_after_its_last_byte(
    answers, monkeypatch, capsys
):
    """No single read takes long, so no time-out of a read ends it."""
    monkeypatch.setattr("spotlib.ec2.endpoints._FIRST_MOST_S", 0.3)
    at_once, drip = http(b"{}"), http(b" " * 400)
    for url in (answers(Drip(drip)), answers(at_once, Drip(drip))):
        began_s = time.monotonic()
        assert main(["check", "--endpoint", url]) == 2
        assert time.monotonic() - began_s < 5
        [line] = capsys.readouterr().err.splitlines()
        assert line == f"error: {url} listens but does not answer: try again"
