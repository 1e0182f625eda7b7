"""A password in an address reaches no log, no command line and no message."""

import json

import pytest
from botocore.exceptions import EndpointConnectionError
from conftest import NANO, plan_for, scripted
from hypothesis import example, given
from hypothesis import strategies as st

from spotlib.__main__ import main
from spotlib.addresses import is_foreign, require_no_secret, without_secrets
from spotlib.cleanup.unfinished import dead_lines, unfinished
from spotlib.collect.parameters import CollectParameters
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect
from spotlib.ec2.places import is_aws
from spotlib.ec2.refusals import refusal_of
from spotlib.record.tables import load_batches, load_launches
from spotlib.select.parameters import SelectParameters

SECRET = "hunter2"
ADDRESSES = [
    *[f"http://me:{SECRET}@127.0.0.1:9/", f"https://{SECRET}@127.0.0.1", f"me:{SECRET}@host"],
    *[f"http://127.0.0.1:9/?token={SECRET}", f"http://127.0.0.1:9/#{SECRET}"],
    *[f"http://me:p/{SECRET}@host", f"ftp://me:{SECRET}@host", f"http://[me:{SECRET}@host"],
    *[f"http://me:{SECRET}\uff20127.0.0.1", f"http://me:{SECRET}%40127.0.0.1"],
]
COLLECT = {
    **{"methods": "request_spot_instances", "arm_pause_s": 60.0, "rounds": 1, "every_s": 9.0},
    **{"n": 1, "selection": "", "top": 1, "instance_type": "", "region": "", "market": ""},
    **{"availability_zone_id": "", "profile": "", "account_id": "", "usable": False},
    **{"events": False},
    **{"ready": "ready", "timeout_s": 9.0, "poll_s": 3.0, "image": "", "max_price_usd": 0.0},
    **{"budget_usd": 0.0, "campaign_budget_usd": 0.0, "placement_scores": False, "seed": 1},
    **{"dry_run": True, "speed": 0.0, "results": "", "t3": False, "allow_any_image": False},
}
SELECT = {
    **{"market": "", "month": "", "days": "", "sizes": "nano", "top": 1, "form": "pooled"},
    **{"missing": "drop", "max_per_region": 0, "max_per_family": 0, "controls": 0, "seed": 0},
    **{"held_s": 1.0, "skip_bad_files": False, "results": "", "out": ""},
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_endpoint_that_may_hold_a_password_is_refused_and_not_shown(address, tmp_path, capsys):
    for refuse in (
        lambda: connect(address),
        lambda: CollectParameters(endpoint=address, **COLLECT),
    ):
        with pytest.raises(ValueError, match=r"endpoint holds .* give the plain address") as error:
            refuse()
        assert SECRET not in str(error.value)
    for command in (["check"], ["sweep", "--results", str(tmp_path)]):
        assert main([*command, "--endpoint", address]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: endpoint holds ")
        assert SECRET not in said.out + said.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("address", [f"s3://key:{SECRET}@bucket", f"https://host/?sig={SECRET}"])
def test_so_is_the_address_of_an_archive(address):
    with pytest.raises(ValueError, match="dataset holds") as error:
        SelectParameters(dataset=address, **SELECT)
    assert SECRET not in str(error.value)
    SelectParameters(dataset="/data/a?b@c#d", **SELECT)  # the names of files may hold anything


def test_plain_endpoints_are_accepted():
    for endpoint in ("sandbox", "aws", "http://127.0.0.1:5000", "HTTPS://host/services/compute"):
        CollectParameters(endpoint=endpoint, **COLLECT)
    assert is_aws("https://ec2.us-east-1.amazonaws.com")
    assert not is_aws("http://[nonsense")
    with pytest.raises(ValueError, match="endpoint 'http://' is unknown"):
        connect("http://")


@given(st.text(), st.text(st.characters(exclude_categories=["Z", "C"])))
@example("a", "p@ss/w?rd#1")
def test_what_is_left_of_any_url_holds_no_password(before, password):
    kept = without_secrets(f"{before} http://me:{password}{SECRET}@host:1/a?token={SECRET} end")

    assert SECRET not in kept
    assert kept.endswith("host:1/a end")


def test_text_without_a_url_is_left_as_it_is():
    for text in ("what? me@host #1", "https://host:8443/ec2", "a//b", ""):
        assert without_secrets(text) == text
    require_no_secret("endpoint", "https://host:8443/ec2")


def test_the_password_of_an_address_configured_elsewhere_is_not_in_a_refusal():
    error = EndpointConnectionError(endpoint_url=f"http://me:{SECRET}@127.0.0.1:9/?a={SECRET}")
    refusal = refusal_of(error, action="describe_instances", region="us-east-1")

    assert SECRET not in str(refusal)
    assert "http://127.0.0.1:9/" in refusal.message


def test_a_password_in_an_older_log_is_not_shown(in_process, log):
    connection = in_process(scripted())
    collect_batch(connection, plan_for(connection, NANO, n=1), log=log, guard=False)
    first, *rest = log.read_text().splitlines()
    address = f"https://me:{SECRET}@ec2.example.org:8443/?token={SECRET}"
    event = json.loads(first) | {"simulated": False, "endpoint": address, "url": address}
    log.write_text("\n".join([json.dumps(event), *rest[:-1]]) + "\n")  # it has no clean end
    [batch] = unfinished(log.parent)
    said = "\n".join([*dead_lines(log.parent), batch.line()])

    assert "--endpoint https://ec2.example.org:8443/" in said
    for text in (said, load_launches(log).to_csv(), load_batches(log).to_csv()):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("endpoint", "foreign"),
    [
        ("aws", False),
        ("sandbox", False),
        ("https://ec2.us-east-1.amazonaws.com", False),
        ("HTTPS://EC2.US-EAST-1.AMAZONAWS.COM./", False),
        ("https://ec2.us-east-1.api.aws", False),
        ("http://127.0.0.1:5000", True),
        ("http://ec2.amazonaws.localhost:5000", True),
        ("http://localhost:5000/amazonaws", True),
        ("http://ec2.us-east-1.amazonaws.com.localhost.localstack.cloud:4566", True),
    ],
)
def test_only_amazons_own_domains_are_no_foreign_endpoint(endpoint, foreign):
    assert is_foreign(endpoint) == foreign
