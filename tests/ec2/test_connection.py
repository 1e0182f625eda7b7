"""Where EC2 is: what a URL turns out to be."""

import pytest

from spotlib.ec2.connection import connect


def answering(error):
    def control(*_, **__):
        raise error

    return control


def test_a_sandbox_that_is_slow_to_answer_is_not_taken_for_another_endpoint(monkeypatch):
    """A guard that took it for one would believe that the market is gone."""
    monkeypatch.setattr("spotlib.ec2.connection.control", answering(TimeoutError()))

    with pytest.raises(OSError, match="listens but does not answer: try again"):
        connect("http://127.0.0.1:9")


def test_an_endpoint_that_knows_no_sandbox_is_another_ec2(monkeypatch):
    monkeypatch.setattr("spotlib.ec2.connection.control", answering(ConnectionRefusedError()))

    assert not connect("http://127.0.0.1:9").simulated
