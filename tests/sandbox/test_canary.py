"""Fails with one clear sentence if moto changes a part that the sandbox uses."""

import inspect
import subprocess
import sys
from importlib import import_module

import moto
import pytest

from spotlib.sandbox import catalogue

SENTENCE = (
    f"moto {moto.__version__} changed a private part that the sandbox uses: {{}}. "
    "Pin the version before, or adapt the named module."
)


def check(part, test):
    try:
        good = test()
    except Exception as error:  # noqa: BLE001 (the sentence says where, for any error)
        pytest.fail(SENTENCE.format(f"{part} ({error!r})"))
    assert good, SENTENCE.format(part)


def test_the_parsers_still_read_requests_by_botocores_model():
    """``protocol`` parses every request with them."""

    def parsed():
        model = import_module("moto.core.utils").get_service_model("ec2")
        request = import_module("moto.core.request")
        protocol = request.determine_request_protocol(model, "application/x-www-form-urlencoded")
        parser = import_module("moto.core.parse").PROTOCOL_PARSERS[protocol](
            model.operation_model("DescribeInstances"), timestamp_parser=str
        )
        sent = {"values": {"Filter.1.Name": "a", "Filter.1.Value.1": "b", "MaxResults": "5"}}
        read = parser.parse({"body": b"", "headers": {}, "url_params": {}, **sent})
        return read == {"Filters": [{"Name": "a", "Values": ["b"]}], "MaxResults": 5}

    check("moto.core.parse.PROTOCOL_PARSERS (spotlib/sandbox/protocol.py)", parsed)


def test_the_backends_still_answer_requests():
    """``borrowed`` passes calls on to them."""

    def answers():
        backend = import_module("moto.backends").get_backend("ssm")["123456789012"]["us-east-1"]
        request = import_module("moto.core.request").Request
        return callable(next(iter(backend.urls.values()))) and {
            "method",
            "url",
            "headers",
            "body",
        } == set(inspect.signature(request.from_primitives).parameters)

    check("moto.backends.get_backend (spotlib/sandbox/borrowed.py)", answers)


def test_the_matcher_still_knows_event_patterns():
    """``patterns`` matches events with it."""

    def matches():
        pattern = import_module("moto.events.models").EventPattern.load('{"a": {"b": ["x"]}}')
        return pattern.matches_event({"a": {"b": "x"}, "c": 1}) and not pattern.matches_event(
            {"a": {"b": "y"}}
        )

    check("moto.events.models.EventPattern (spotlib/sandbox/patterns.py)", matches)


def test_the_packaged_data_are_still_there():
    """``catalogue`` reads types, offerings and images from moto's files, zones from its code."""

    def known():
        kind = catalogue.instance_type("t4g.nano")
        architectures = {i["Architecture"] for i in catalogue.images("us-east-1").values()}
        return (
            kind is not None
            and kind.vcpus == 2
            and "use1-az1" in catalogue.offered("us-east-1")["t4g.nano"]
            and len(catalogue.zones("us-east-1")) == 6
            and catalogue.regions("aws")["me-central-1"] == "ec2.me-central-1.amazonaws.com"
            and list(catalogue.regions("aws-cn")) == ["cn-north-1", "cn-northwest-1"]
            and architectures >= {"arm64", "x86_64"}
        )

    check("the files under moto/ec2/resources (spotlib/sandbox/catalogue.py)", known)


def test_a_missing_part_is_reported_in_one_sentence_before_anything_else_fails():
    """Without it no module of the sandbox can be imported."""
    program = "import moto.core.parse as p; del p.PROTOCOL_PARSERS; import spotlib.sandbox.wire"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("ImportError: moto changed a private part that the sandbox uses (cannot")
    assert "install 'moto>=5.2,<5.3', or adapt spotlib/sandbox/protocol.py" in last


@pytest.mark.parametrize(
    ("part", "canary"),
    [
        ("moto.core.request.determine_request_protocol", "parsers_still_read"),
        ("moto.backends.get_backend", "backends_still_answer"),
        ("moto.events.models.EventPattern.load", "matcher_still_knows"),
        ("spotlib.sandbox.catalogue.offered", "packaged_data"),
    ],
)
def test_the_canary_fails_with_one_sentence_if_a_part_changed(monkeypatch, part, canary):
    def changed(*_):
        raise TypeError("another signature")

    monkeypatch.setattr(part, changed)
    [test] = [value for name, value in globals().items() if canary in name]
    with pytest.raises(pytest.fail.Exception, match=r"changed a private part .*another signature"):
        test()
