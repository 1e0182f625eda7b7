"""The calls that no launch method has of its own."""

import pytest
from conftest import scripted

from spotlib.ec2.caller import Memory
from spotlib.ec2.calls import Ended, chunks
from spotlib.ec2.instances import terminate
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.spot_requests import cancel
from spotlib.model import Kind


class Account:
    """An EC2 in which some ids are unknown: one of them fails a whole call, as does any fault."""

    def __init__(self, *unknown, failing=()):
        self.unknown, self.failing = set(unknown), set(failing)
        self.ended, self.memory = [], Memory()

    def call(self, region, action, /, **given):
        [(name, ids)] = given.items()
        about = {"kind": Kind.NOT_FOUND, "advice": "", "action": action, "region": region}
        if self.unknown & set(ids):
            raise Refusal(f"Invalid{name.removesuffix('Ids')}ID.NotFound", "", **about)
        if self.failing & set(ids):
            raise Refusal("RequestLimitExceeded", "", **about)
        self.ended += ids


ENDS = pytest.mark.parametrize(("end", "word"), [(terminate, "i"), (cancel, "sir")])


@ENDS
@pytest.mark.parametrize("known", [[1], [1, 3]])
def test_one_unknown_id_keeps_no_other_from_being_ended(end, word, known):
    account = Account(f"{word}-2")
    ids = [f"{word}-{number}" for number in known]

    ended = end(account, "us-east-1", [*ids, f"{word}-2"])

    assert account.ended == ids
    assert ended == Ended(tuple(ids))


@ENDS
@pytest.mark.parametrize("count", [1, 2])
def test_an_unknown_id_is_no_error_and_never_taken_for_ended(end, word, count):
    ids = [f"{word}-{number}" for number in range(count)]

    assert end(Account(*ids), "us-east-1", ids) == Ended()


@ENDS
def test_a_call_that_fails_keeps_no_other_ids_from_being_ended(end, word):
    ids = [f"{word}-{number}" for number in range(501)]  # more than one call takes
    ended = end(Account(failing=ids[:1]), "us-east-1", ids)

    assert ended.ids[-1] == ids[-1]
    assert ["RequestLimitExceeded" in error for error in ended.errors] == [True]


def test_an_empty_id_list_makes_no_call():
    assert list(chunks([], 5)) == []
    assert list(chunks("abcdefg", 3)) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_an_answer_with_a_date_that_is_none_is_an_answer(in_process):
    """A proxy may have written it; clean-up must not end there."""
    connection = in_process(scripted())
    connection.call("us-east-1", "describe_regions")
    before = connection.server_utc()
    for client in connection._clients.values():
        client.meta.events.register("after-call.ec2", undated)

    assert connection.call("us-east-1", "describe_regions")["Regions"]
    assert connection.server_utc() >= before


def undated(parsed, **_):
    parsed["ResponseMetadata"]["HTTPHeaders"]["date"] = "yesterday"
