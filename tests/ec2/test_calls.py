"""The calls that no launch method has of its own."""

import pytest

from spotlib.ec2.calls import chunks, terminate
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind


class Account:
    """An EC2 in which some instance ids are unknown: one of them fails a whole call."""

    def __init__(self, *unknown):
        self.unknown = set(unknown)
        self.terminated = []

    def call(self, region, action, /, *, InstanceIds):
        if self.unknown & set(InstanceIds):
            code = "InvalidInstanceID.NotFound"
            raise Refusal(code, "", kind=Kind.NOT_FOUND, advice="", action=action, region=region)
        self.terminated += InstanceIds


def test_one_unknown_id_does_not_keep_the_others_running():
    account = Account("i-2")

    terminate(account, "us-east-1", ["i-1", "i-2", "i-3"])

    assert account.terminated == ["i-1", "i-3"]


def test_a_single_unknown_id_is_reported_and_never_taken_for_gone():
    with pytest.raises(Refusal, match="NotFound"):
        terminate(Account("i-2"), "us-east-1", ["i-2"])


def test_two_ids_of_which_both_are_unknown_end_nothing_and_raise_nothing():
    account = Account("i-1", "i-2")

    terminate(account, "us-east-1", ["i-1", "i-2"])

    assert account.terminated == []


def test_an_empty_id_list_makes_no_call():
    assert list(chunks([], 5)) == []
    assert list(chunks("abcdefg", 3)) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
