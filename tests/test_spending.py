"""Only ``endpoint="aws"`` or a URL of Amazon reaches AWS: no default and no environment does."""

import sys

import pytest
from botocore.httpsession import URLLib3Session
from conftest import NANO
from programs import run, run_papermill, texts

from spotlib.__main__ import main
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect
from spotlib.ec2.places import is_aws
from spotlib.model import plan_launches


@pytest.fixture
def sent(monkeypatch):
    """The hosts that requests were sent to; a request to AWS raises instead of being sent."""
    hosts = []
    send = URLLib3Session.send

    def guarded(self, request):
        hosts.append(request.url.split("/")[2].split(":")[0])
        if "amazonaws" in request.url:
            raise AssertionError(f"AWS was reached: {request.url}")
        return send(self, request)

    monkeypatch.setattr(URLLib3Session, "send", guarded)
    return hosts


def test_a_call_to_aws_would_fail_these_tests(sent):
    with pytest.raises(AssertionError, match="AWS was reached"):
        preflight(connect("aws"), plan_launches([NANO], count=1))

    assert sent == ["sts.us-east-1.amazonaws.com"]


def test_the_defaults_of_every_entry_point_stay_on_this_machine(sent, log, capsys):
    """Credentials are set, as on a researcher's machine."""
    assert main(["check"]) == 0
    connection = connect("sandbox", seed=1)
    try:
        collect_batch(connection, plan_launches([NANO], count=2), log=log, seed=1).require()
    finally:
        connection.close()

    assert set(sent) == {"127.0.0.1"}
    assert "SIMULATED" in capsys.readouterr().out


def test_the_sandbox_never_receives_real_keys():
    connection = connect("sandbox", seed=1)
    try:
        credentials = connection.session.get_credentials()
        assert (credentials.access_key, credentials.secret_key) == ("sandbox", "sandbox")
        connection.call("us-east-1", "get_caller_identity", service="sts")
    finally:
        connection.close()


def test_neither_an_endpoint_nor_a_proxy_in_the_environment_redirects_the_sandbox(
    monkeypatch, sent
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://ec2.us-east-1.amazonaws.com")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    connection = connect("sandbox", seed=1)
    try:
        preflight(connection, plan_launches([NANO], count=1)).require()
    finally:
        connection.close()

    assert set(sent) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("endpoint", "costs"),
    [
        ("aws", True),
        ("https://ec2.us-east-1.amazonaws.com", True),
        ("https://ec2.us-east-1.amazonaws.com:443/", True),
        ("https://EC2.US-EAST-1.AMAZONAWS.COM", True),
        ("https://ec2.cn-north-1.amazonaws.com.cn", True),
        ("https://ec2.us-east-1.amazonaws.com.", True),
        ("https://ec2.us-east-1.amazonaws.com.:443/", True),
        ("https://Ec2.eu-west-1.Api.AWS", True),
        ("https://ec2.cn-north-1.api.amazonwebservices.com.cn", True),
        ("https://ec2.eusc-de-east-1.amazonaws.eu/", True),
        ("https://ec2.us-iso-east-1.c2s.ic.gov", True),
        ("https://user@vpce-0a.ec2.us-east-1.vpce.amazonaws.com/path?x", True),
        ("ec2.us-east-1.amazonaws.com", True),
        ("ec2.us-east-1.amazonaws.com:443", True),
        ("amazonaws.com", True),
        ("sandbox", False),
        ("http://127.0.0.1:5000", False),
        ("https://amazonaws.com.example.org", False),
        ("https://notamazonaws.com", False),
        ("https://example.org/ec2.us-east-1.amazonaws.com", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_every_url_of_amazon_counts_as_aws(endpoint, costs):
    assert is_aws(endpoint) is costs


def test_an_unreachable_endpoint_is_reported_and_nothing_is_launched(log):
    with pytest.raises(ConnectionRefusedError, match=r"^nothing listens at http://127.0.0.1:9: "):
        collect_batch(connect("http://127.0.0.1:9"), plan_launches([NANO], count=1), log=log)

    assert not log.exists()


def test_without_a_seed_each_sandbox_is_another_world():
    worlds = []
    for _ in range(2):
        connection = connect("sandbox")
        worlds.append((connection.world, connection.world_seed))
        connection.close()

    assert len(set(worlds)) == 2


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://ec2.us-east-1.amazonaws.com",
        "amazonaws.com",
        "ec2.eu-west-1.api.aws",
        "http://x.amazonaws.eu.",
    ],
)
def test_an_address_of_amazon_is_refused_because_aws_has_many(sent, endpoint):
    with pytest.raises(ValueError, match=r"is Amazon's own: write 'aws' \(it costs money\)"):
        connect(endpoint)

    assert sent == []


@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_STS"]
)
def test_a_variable_that_leads_aws_elsewhere_is_refused_by_name(monkeypatch, sent, name):
    """Else a simulation would be recorded as AWS."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")

    with pytest.raises(ValueError, match=f"would not lead to AWS: {name}=http://127.0.0.1:9: "):
        connect("aws")

    assert sent == []


@pytest.mark.parametrize(
    "setting",
    [
        "endpoint_url = http://127.0.0.1:9",
        "services = here\n[services here]\nec2 =\n  endpoint_url = http://127.0.0.1:9",
    ],
)
def test_a_setting_of_the_profile_that_leads_aws_elsewhere_is_refused(
    monkeypatch, sent, tmp_path, setting
):
    (tmp_path / "config").write_text(f"[profile research]\n{setting}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    with pytest.raises(ValueError, match=r"endpoint_url = http://127.0.0.1:9.* in the profile"):
        connect("aws", profile="research")

    assert sent == []


def test_what_is_told_to_be_ignored_leads_nowhere(monkeypatch, sent):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")

    with pytest.raises(AssertionError, match="AWS was reached"):
        connect("aws").call("us-east-1", "describe_regions")

    assert sent == ["ec2.us-east-1.amazonaws.com"]


NONSENSE = {
    "AWS_PROFILE": "nonsense",
    "AWS_DEFAULT_REGION": "no region",
    "AWS_CA_BUNDLE": "/no/such/file.pem",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_EC2": "http://127.0.0.1:9",
    "AWS_MAX_ATTEMPTS": "abc",
    "AWS_RETRY_MODE": "never",
    "AWS_DEFAULTS_MODE": "none",
    "AWS_STS_REGIONAL_ENDPOINTS": "none",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "none",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE": "none",
    "AWS_METADATA_SERVICE_TIMEOUT": "soon",
    "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES": "few",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_CSM_ENABLED": "true",
    "AWS_CSM_PORT": "none",
    "AWS_ACCESS_KEY_ID": "half",
    "AWS_SECRET_ACCESS_KEY": "",
}

IN_PROCESS = """
from functools import partial
from spotlib import Target, plan_launches, preflight
from spotlib.ec2.endpoints import connect_in_process
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import World

world = World()
plans = plan_launches([Target("t3.nano", "sa-east-1")], count=1)
preflight(connect_in_process(world, partial(attach, world)), plans).require()
"""


@pytest.fixture
def nonsense(tmp_path):
    """An environment and a home in which every setting for AWS is wrong."""
    (tmp_path / ".aws").mkdir()
    for name in ("config", "credentials"):
        (tmp_path / ".aws" / name).write_text("[oops\n")
    return {**NONSENSE, "HOME": str(tmp_path)}


@pytest.mark.usefixtures("_programs_end_with_the_test")
def test_no_setting_for_aws_reaches_the_sandbox_nor_what_it_starts(repository, tmp_path, nonsense):
    """The whole of 02: its sandbox, its guard, its collection; and ``status`` and ``sweep``."""
    given = ("-p", "instance_type", "t3.nano", "-p", "region", "sa-east-1", "-p", "n", "1")
    notebook, executed = repository / "notebooks/02_collect.ipynb", tmp_path / "out.ipynb"

    run_papermill(notebook, executed, *given, "-p", "results", tmp_path, **nonsense)
    swept = run(sys.executable, "-m", "spotlib", "sweep", "--results", tmp_path, **nonsense)

    assert "open requests 0, live instances 0 (confirmed)" in texts(executed)
    assert "no simulated batch is unfinished" in swept.stdout


def test_no_setting_for_aws_reaches_a_market_in_this_process(nonsense):
    run(sys.executable, "-c", IN_PROCESS, **nonsense)
