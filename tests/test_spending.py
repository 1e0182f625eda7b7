"""Only ``endpoint="aws"`` or a URL of Amazon reaches AWS: no default and no environment does."""

import pytest
from botocore.httpsession import URLLib3Session
from conftest import NANO

from spotlib.__main__ import main
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.connection import connect, is_aws
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
    assert main(["check", "t4g.nano@eu-west-1", "-n", "3"]) == 0
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


@pytest.mark.parametrize(
    ("names", "address"),
    [
        (["AWS_ENDPOINT_URL"], "https://ec2.us-east-1.amazonaws.com"),
        (["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], "http://127.0.0.1:9"),
    ],
)
def test_neither_an_endpoint_nor_a_proxy_in_the_environment_redirects_the_sandbox(
    monkeypatch, sent, names, address
):
    for name in names:
        monkeypatch.setenv(name, address)
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
        ("sandbox", False),
        ("http://127.0.0.1:5000", False),
        ("https://amazonaws.com.example.org", False),
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
