"""Logging in with real botocore and real files: what each fault says, until when keys last, and
that a code is asked for once.  Nothing leaves this machine.
"""

import getpass
import json
import ssl
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import EndpointConnectionError
from conftest import NANO, plan_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jupyter_client import KernelManager
from kill_with_mfa import CODE, PROFILE
from kill_with_mfa import SERIAL as DEVICE
from programs import PATIENCE_S, run, served

from spotlib.cleanup.commands import aws_options
from spotlib.collect.rounds import collect_batch
from spotlib.ec2 import credentials
from spotlib.ec2.credentials import Login, SessionKeys
from spotlib.ec2.endpoints import connect
from spotlib.ec2.refusals import NoTerminal, Refusal
from spotlib.model import Kind
from spotlib.sandbox import server
from spotlib.sandbox.world import World

KEYS = "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI\n"
SSO = """
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1
sso_account_id = 123456789012
sso_role_name = research
"""
SSO_SESSION = """
[profile research]
sso_session = work
sso_account_id = 123456789012
sso_role_name = research
[sso-session work]
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1
"""


@pytest.fixture(autouse=True)
def configure(monkeypatch, tmp_path):
    """A home of its own, without credentials; returns what writes ``~/.aws/config``."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws/sso/cache").mkdir(parents=True)
    for name in ("config", "credentials"):
        variable = "AWS_CONFIG_FILE" if name == "config" else "AWS_SHARED_CREDENTIALS_FILE"
        monkeypatch.setenv(variable, str(tmp_path / ".aws" / name))
    folder = str(tmp_path / ".aws/sso/cache")  # botocore knows it since it was imported
    monkeypatch.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", folder)
    monkeypatch.setattr("botocore.tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR", folder)
    return (tmp_path / ".aws/config").write_text


def refused(endpoint="aws", profile="research"):
    """The one sentence with which a login or the first call after it ends."""

    def act():
        connect(endpoint, profile=profile).call("us-east-1", "get_caller_identity", service="sts")

    with pytest.raises(Refusal) as caught:
        act()
    assert not caught.value.maybe_done
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("config", "code", "advice"),
    [
        ("[oops", "ConfigParseError", "mend that file"),
        (f"[profile research]\nx =\n nonsense\n{KEYS}", "ConfigParseError", "mend that file"),
        (
            "[profile research]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = gone\n",
            "InvalidConfigError",
            "mend the profile",
        ),
        (
            "[profile research]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = b\n"
            "[profile b]\nrole_arn = arn:aws:iam::1:role/b\nsource_profile = research\n",
            "InfiniteLoopConfigError",
            "mend source_profile",
        ),
        (
            "[profile research]\nrole_arn = arn:aws:iam::1:role/r\n",
            "PartialCredentialsError",
            "add what is missing",
        ),
        (
            "[profile research]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n",
            "PartialCredentialsError",
            "add what is missing",
        ),
        (
            "[profile research]\nlogin_session = arn:aws:iam::1:user/u\n",
            "MissingDependencyException",
            "pip install 'botocore[crt]'",
        ),
        (f"[profile research]{SSO}", "SSOTokenLoadError", "aws sso login --profile research"),
        (SSO_SESSION, "SSOTokenLoadError", "aws sso login --profile research"),
        (
            "[profile research]\ncredential_process = sh -c 'echo no; echo no vault >&2; exit 3'\n",
            "CredentialRetrievalError",
            "run that command by hand",
        ),
        (
            "[profile research]\ncredential_process = /no/such/program\n",
            "FileNotFoundError",
            "credential_process",
        ),
        (
            "[profile research]\ncredential_process = echo hello\n",
            "JSONDecodeError",
            "what its credential_process prints",
        ),
        (
            "[profile research]\ncredential_process = echo "
            '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"b","Expiration":"2020-01-01"}\n',
            "JSONDecodeError",
            "credential_process",
        ),
        ("[profile research]\nregion = us-east-1\n", "NoCredentialsError", "aws configure"),
    ],
)
def test_each_fault_of_a_profile_has_its_own_advice(monkeypatch, configure, config, code, advice):
    monkeypatch.setattr("botocore.credentials.EC", None)  # without botocore[crt]
    configure(config)

    refusal = refused()

    assert refusal.code == code
    assert refusal.kind is Kind.CREDENTIALS
    assert advice in refusal.advice
    assert str(refusal).startswith("credentials in profile research: ")


def test_a_malformed_credentials_file_is_named(configure, tmp_path):
    configure("[profile research]\n")
    (tmp_path / ".aws/credentials").write_text("aws_access_key_id = AKIA\n")

    refusal = refused()

    assert str(tmp_path / ".aws/credentials") in refusal.message
    assert "mend that file" in refusal.advice


@pytest.mark.parametrize(("given", "variable"), [("nonsense", ""), (None, "nonsense")])
def test_an_unknown_profile_is_refused_with_those_that_there_are(
    monkeypatch, configure, given, variable
):
    configure("[profile research]\n[profile other]\n")
    monkeypatch.setenv("AWS_PROFILE", variable) if variable else None

    with pytest.raises(ValueError, match=r"'nonsense' is not configured; there are: .*research"):
        connect("aws", profile=given)


def test_half_of_the_keys_in_the_environment_are_named(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")

    refusal = refused(profile=None)

    assert refusal.code == "PartialCredentialsError"
    assert "AWS_SECRET_ACCESS_KEY" in refusal.message


def test_keys_that_have_ended_in_the_environment_are_named(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z")

    assert "renew the credentials" in refused(profile=None).advice


# MFA


@pytest.fixture
def elsewhere(monkeypatch, configure):
    """An EC2 that knows nothing of sandboxes, whose STS asks for the code of a device."""
    monkeypatch.setattr(server, "_CONTROL", {})
    world = World(epoch=datetime.now(UTC).replace(microsecond=0), mfa_codes={DEVICE: CODE})
    url = served(world)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
    configure(PROFILE)
    return world, url


@pytest.fixture
def asked(monkeypatch):
    """The prompts that a person saw, who enters the code."""
    prompts = []

    def enter(prompt):
        prompts.append(prompt)
        return CODE

    monkeypatch.setattr(getpass, "getpass", enter)
    return prompts


def test_the_code_is_asked_for_once_however_often_the_session_is_opened_again(elsewhere, asked):
    _, url = elsewhere
    connection = connect(url, profile="research")

    for _ in range(3):
        connection.call("us-east-1", "describe_regions")
        connection._forget_credentials()

    assert asked == [f"Enter MFA code for {DEVICE}: "]


def test_the_end_of_the_session_is_known_and_a_batch_that_outlives_it_is_refused(
    elsewhere, asked, log
):
    world, url = elsewhere
    connection = connect(url, profile="research")
    checked = plan_for(connection, NANO, n=1)

    end_at = checked.credentials_end_at
    with pytest.raises(ValueError, match=r"the credentials end at .* longer duration_seconds"):
        collect_batch(connection, checked, log=log, rounds=9)

    assert timedelta(0) < end_at - world.utc() <= timedelta(hours=1)
    assert len(asked) == 1
    assert world.truth() == []


def test_a_wrong_code_is_said_to_be_wrong(elsewhere, monkeypatch):
    monkeypatch.setattr(getpass, "getpass", lambda _: "000000")

    refusal = refused(elsewhere[1])

    assert str(refusal).startswith("AssumeRole in profile research: AccessDenied")
    assert "the MFA code was wrong" in refusal.advice


def test_a_role_that_refuses_is_no_missing_permission_of_ours(elsewhere, configure):
    configure(PROFILE.replace("mfa_serial", "# mfa_serial"))

    refusal = refused(elsewhere[1])

    assert refusal.kind is Kind.CREDENTIALS
    assert "whom the role trusts" in refusal.advice
    assert "spotlib policy" not in str(refusal)


def test_a_code_is_not_asked_for_where_it_would_be_shown(monkeypatch):
    """``getpass`` warns, and then would read the code from standard input as it is typed."""

    def getpass_without_terminal(_):
        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=2)
        return CODE

    monkeypatch.setattr(getpass, "getpass", getpass_without_terminal)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a program: tests make errors of all warnings
        with pytest.raises(NoTerminal):
            credentials.ask_person("MFA code: ")


def test_without_a_terminal_one_sentence_says_what_to_do(configure):
    """Standard input is open and silent, as under a service manager: nothing waits for it."""
    configure(PROFILE)
    command = [sys.executable, "-m", "spotlib", "check", "--endpoint", "aws"]

    began_s = time.monotonic()
    done = run("setsid", *command, "--profile", "research", check=False)

    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "there is no terminal to ask at" in done.stderr
    assert "aws configure export-credentials --profile research --format env" in done.stderr


ASK_IN_KERNEL = """
from spotlib import connect
connection = connect({url!r}, profile="research")
print(connection.call("us-east-1", "get_caller_identity", service="sts")["Account"])
"""


@pytest.mark.parametrize("has_person", [True, False])
def test_a_kernel_asks_in_the_notebook_if_there_is_a_person(elsewhere, has_person):
    """papermill's kernels have nobody to ask."""
    manager = KernelManager()
    manager.start_kernel()
    client, outputs = manager.blocking_client(), []
    try:
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE_S)
        client.execute_interactive(
            ASK_IN_KERNEL.format(url=elsewhere[1]),
            allow_stdin=has_person,
            stdin_hook=lambda _: client.input(CODE),
            output_hook=lambda message: outputs.append(str(message["content"])),
            timeout=PATIENCE_S,
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

    expected = "123456789012" if has_person else "there is no terminal to ask at"
    assert expected in "".join(outputs)


def test_keys_for_a_guard_are_one_line_and_never_shown():
    keys = SessionKeys("ASIA", "secret", "token", datetime.now(UTC))

    assert keys.to_line().count(b"\n") == 1
    assert SessionKeys.from_line(keys.to_line()) == keys
    assert SessionKeys.from_line(b"\n") is SessionKeys.from_line(keys.to_line()[:40]) is None
    assert "secret" not in repr(keys)
    assert "token" not in repr(keys).replace("token=", "")


# SSO


@contextmanager
def answering(status, body, *, certificate=None):
    """A server on this machine that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/sandbox" else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            there.socket = context.wrap_socket(there.socket, server_side=True)
        there.handle_error = lambda *_: None  # a client that trusts nobody goes away
        threading.Thread(target=there.serve_forever, daemon=True).start()
        scheme = "http" if certificate is None else "https"
        yield f"{scheme}://127.0.0.1:{there.server_port}"
        there.shutdown()


@pytest.fixture
def sso_at(monkeypatch):
    """Where the SSO portal is."""
    return partial(monkeypatch.setenv, "AWS_ENDPOINT_URL_SSO")


def write_token(tmp_path, *, ends_in, of="https://example.awsapps.com/start", **more):
    """A login that ``aws sso login`` left."""
    end_at = (datetime.now(UTC) + ends_in).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = sha1(of.encode()).hexdigest()
    token = {"accessToken": "t", "expiresAt": end_at, **more}
    (tmp_path / f".aws/sso/cache/{name}.json").write_text(json.dumps(token))
    return datetime.fromisoformat(end_at)


def test_an_sso_login_that_has_ended_says_how_to_log_in(configure, tmp_path):
    configure(f"[profile research]{SSO}")
    write_token(tmp_path, ends_in=timedelta(hours=-1))

    refusal = refused()

    assert refusal.code == "UnauthorizedSSOTokenError"
    assert "aws sso login --profile research" in refusal.advice


def test_an_sso_login_without_access_says_whom_to_ask(configure, sso_at, tmp_path):
    configure(f"[profile research]{SSO}")
    write_token(tmp_path, ends_in=timedelta(hours=1))
    with answering(403, b'{"__type": "ForbiddenException", "message": "No access"}') as url:
        sso_at(url)

        refusal = refused(url)

    assert refusal.action == "GetRoleCredentials"
    assert "sso_account_id" in refusal.advice


@pytest.mark.parametrize(
    ("login", "end_s"),
    [
        ((3600, 7200, {}), 7200),  # renewed until the login ends
        ((7200, 3600, {}), 7200),  # the role's keys outlive the login
        ((3600, 7200, {"refreshToken": "r"}), None),  # the login itself is renewed
    ],
)
def test_the_end_of_an_sso_login_is_known(configure, sso_at, tmp_path, login, end_s):
    role_s, token_s, more = login
    configure(f"[profile research]{SSO}")
    now = datetime.now(UTC).replace(microsecond=0)
    write_token(tmp_path, ends_in=timedelta(seconds=token_s), **more)
    keys = {"accessKeyId": "ASIA", "secretAccessKey": "s", "sessionToken": "t"}
    keys["expiration"] = int((now.timestamp() + role_s) * 1000)
    with answering(200, json.dumps({"roleCredentials": keys}).encode()) as url:
        sso_at(url)
        login = Login("research")
        end_at = login.end_at(login.open())

    if end_s is None:
        assert end_at is None
    else:
        assert abs((end_at - now).total_seconds() - end_s) <= 2


def test_the_end_of_a_login_is_read_by_the_name_of_its_session_also_behind_a_role(
    configure, tmp_path
):
    configure(f"{SSO_SESSION}[profile role]\nsource_profile = research\n")
    write_token(tmp_path, ends_in=timedelta(hours=5))  # another login at the same address
    end_at = write_token(tmp_path, ends_in=timedelta(hours=1), of="work")

    assert credentials._sso_end_at("research") == end_at
    assert credentials._sso_end_at("role") == end_at


# What stands between this machine and the endpoint


@pytest.fixture
def _keys(configure):
    configure(f"[profile research]\n{KEYS}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody trusts, as that of a proxy that inspects TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "proxy")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "proxy.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.usefixtures("_keys")
def test_a_proxy_that_inspects_tls_is_named(certificate):
    with answering(200, b"", certificate=certificate) as url:
        assert "AWS_CA_BUNDLE" in refused(url).advice


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_wrong_ca_bundle_is_named(certificate, monkeypatch, tmp_path, text):
    bundle = tmp_path / "bundle.pem"
    if text is not None:
        bundle.write_text(text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with answering(200, b"", certificate=certificate) as url:
        assert "check the file that AWS_CA_BUNDLE" in refused(url).advice


@pytest.mark.usefixtures("_keys")
def test_a_proxy_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    assert "HTTPS_PROXY" in refused().advice


def test_a_region_that_is_none_is_named(configure, monkeypatch):
    configure(PROFILE.replace("mfa_serial", "# mfa_serial"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "no region")

    assert "AWS_DEFAULT_REGION" in refused().advice


def test_a_role_without_a_region_is_asked_for_in_its_own_partition(configure, monkeypatch):
    asked = []

    def send(_, request):
        asked.append(request.url)
        raise EndpointConnectionError(endpoint_url=request.url)

    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", send)
    configure(PROFILE.replace("mfa_serial", "# mfa_serial").replace("arn:aws:", "arn:aws-us-gov:"))

    refused()

    assert set(asked) == {"https://sts.us-gov-west-1.amazonaws.com/"}
    assert Login("research").profile == "research"


ENVIRONMENT_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalr"}


@pytest.mark.parametrize(
    ("given", "environment", "used"),
    [
        (None, {}, None),
        (None, {"AWS_PROFILE": "research"}, "research"),
        (None, {"AWS_DEFAULT_PROFILE": "research"}, "research"),
        (None, {"AWS_PROFILE": "research"} | ENVIRONMENT_KEYS, None),
        ("research", ENVIRONMENT_KEYS, "research"),
        ("research", {"AWS_PROFILE": "default"}, "research"),
    ],
)
def test_printed_commands_name_the_profile_that_the_keys_came_from_and_no_other(
    monkeypatch, configure, given, environment, used
):
    """To name a profile beside keys in the environment would switch those off."""
    configure(f"[default]\n{KEYS}[profile research]\n{KEYS}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    connection = connect("aws", profile=given)

    assert connection.profile == used
    assert aws_options(connection) == (f" --profile {used}" if used else "")


@pytest.mark.parametrize(
    ("method", "token_file", "used"),
    [
        ("custom-process", "", "research"),
        ("assume-role-with-web-identity", "", "research"),
        ("assume-role-with-web-identity", "/token", None),
        ("container-role", "", None),
        ("iam-role", "", None),
    ],
)
def test_a_profile_that_the_keys_did_not_come_from_is_not_named(
    monkeypatch, configure, method, token_file, used
):
    configure("[profile research]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_PROFILE", "research")
    if token_file:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token_file)
    found = Credentials("A", "b", method=method)
    monkeypatch.setattr("spotlib.ec2.credentials._find", lambda *_: found)

    assert connect("aws").profile == used


# By parts.


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER, EARLIER = NOON + timedelta(hours=1), NOON - timedelta(hours=1)


def keys_of(method, end_at=None):
    """Credentials that came in this way."""
    frozen = SimpleNamespace(access_key="A", secret_key="s", token="t")
    return SimpleNamespace(
        method=method, _expiry_time=end_at, get_frozen_credentials=lambda: frozen
    )


@pytest.mark.parametrize(
    ("method", "end_at", "asked", "held"),
    [
        ("env", NOON, False, True),
        ("env", None, False, False),
        ("assume-role", NOON, True, True),
        ("assume-role", NOON, False, False),  # botocore renews them
        ("sso", NOON, False, False),
        ("container-role", NOON, False, False),
        ("shared-credentials-file", None, False, False),
    ],
)
def test_only_what_a_person_or_the_environment_gave_is_read_once_and_held(  # noqa: PLR0917
    monkeypatch, configure, method, end_at, asked, held
):
    configure("[profile research]\n")
    monkeypatch.setenv("AWS_PROFILE", "research")
    found = []

    def find(_, prompts):
        prompts += ["code?"] * asked
        found.append(keys_of(method, end_at))
        return found[-1]

    monkeypatch.setattr(credentials, "_find", find)
    login = Login()
    session = login.open()
    login.open()

    assert login.keys == (SessionKeys("A", "s", "t", NOON) if held else None)
    assert len(found) == (1 if held else 2)
    assert login.used == (None if method in {"env", "container-role"} else "research")
    if held:
        shown = session.get_credentials()
        assert (shown.access_key, shown.secret_key, shown.token) == ("A", "s", "t")
        assert (shown.method, login.end_at(session)) == ("held", NOON)


@pytest.mark.parametrize(
    ("method", "variable", "of_profile"),
    [
        ("assume-role-with-web-identity", True, False),
        ("assume-role-with-web-identity", False, True),
        ("assume-role", True, True),
        ("sso", True, True),
        ("a", True, False),
        ("env", False, False),
        ("iam-role", False, False),
    ],
)
def test_credentials_are_of_the_profile_unless_the_environment_or_the_machine_gave_them(
    monkeypatch, method, variable, of_profile
):
    if variable:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")

    assert credentials._is_of_profile(keys_of(method)) is of_profile


@pytest.mark.parametrize(
    ("method", "token_end_at", "keys_end_at", "end_at"),
    [
        ("env", NOON, NOON, None),
        ("sso", None, NOON, None),  # it is renewed
        ("sso", NOON, None, NOON),
        ("sso", NOON, LATER, LATER),
        ("assume-role", NOON, EARLIER, NOON),
        ("assume-role", NOON, LATER.astimezone(timezone(timedelta(hours=3))), LATER),
    ],
)
def test_a_session_ends_when_neither_its_keys_nor_the_login_behind_them_last(
    monkeypatch, method, token_end_at, keys_end_at, end_at
):
    monkeypatch.setattr(credentials, "_sso_end_at", lambda _: token_end_at)
    session = SimpleNamespace(get_credentials=lambda: keys_of(method, keys_end_at))

    found = Login().end_at(session)

    assert found == end_at
    assert found is None or found.utcoffset() == timedelta(0)


def test_profiles_that_name_each_other_have_no_login_and_are_not_followed_for_ever(configure):
    configure(
        "[profile a]\nsource_profile = b\n[profile b]\nsource_profile = a\n"
        "[profile before]\nsource_profile = a\n"  # it is not in the circle that it leads to
    )

    assert credentials._sso_end_at("a") is None
    assert credentials._sso_end_at("before") is None
    assert credentials._sso_end_at("gone") is None


def test_credentials_are_renewed_in_time_and_what_fails_then_was_never_sent():
    asked = []

    def renew():
        asked.append(1)
        raise EndpointConnectionError(endpoint_url="https://sts")

    session = SimpleNamespace(get_credentials=lambda: SimpleNamespace(get_frozen_credentials=renew))
    with pytest.raises(Refusal) as caught:
        Login("default").renew(session)

    assert asked == [1]
    assert (caught.value.kind, caught.value.maybe_done) == (Kind.UNREACHABLE, False)


def test_where_no_profile_is_configured_that_is_said(configure):
    configure("")

    with pytest.raises(ValueError, match="profile 'gone' is not configured; there are: none"):
        Login("gone").open()


@pytest.mark.parametrize(
    ("config", "variables", "found"),
    [
        ("", {}, []),
        ("", {"AWS_ENDPOINT_URL": "http://a"}, ["AWS_ENDPOINT_URL=http://a"]),
        ("", {"AWS_ENDPOINT_URL_SQS": "http://a"}, ["AWS_ENDPOINT_URL_SQS=http://a"]),
        ("", {"AWS_ENDPOINT_URL_S3": "http://a", "AWS_ENDPOINT_URL_EC2": ""}, []),
        (
            "[default]\nendpoint_url = http://a\nservices = s\n[services s]\nec2 =\n"
            "  endpoint_url = http://b\ns3 =\n  endpoint_url = http://c\n",
            {},
            [
                "endpoint_url = http://a in the profile",
                "endpoint_url = http://b of ec2 in the profile",
            ],
        ),
        (
            "[default]\nendpoint_url = http://a\nignore_configured_endpoint_urls = true\n",
            {"AWS_ENDPOINT_URL": "http://a"},
            [],
        ),
    ],
)
def test_what_leads_calls_elsewhere_is_named_unless_it_is_to_be_ignored(
    monkeypatch, configure, config, variables, found
):
    configure(config)
    for name, url in variables.items():
        monkeypatch.setenv(name, url)

    redirected = Login().redirections()

    assert isinstance(redirected, list)
    assert redirected == found


def test_the_sandbox_gets_keys_of_its_own_and_reads_no_setting_for_aws(
    monkeypatch, configure, tmp_path
):
    configure(f"[default]\nregion = eu-west-1\nca_bundle = /gone\n{KEYS}")
    (tmp_path / ".aws/credentials").write_text(f"[default]\n{KEYS}")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # those are read at home
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "gone")
    session = credentials.sandbox_session.__wrapped__()  # a new one

    assert session.get_credentials().access_key == "sandbox"
    assert session.region_name is None
    assert session.available_profiles == []
