"""The calls that no launch method has of its own."""

import pytest
from conftest import scripted

from spotlib.ec2.caller import Memory
from spotlib.ec2.calls import Ended, ask_near, chunks, tag_instances, warm
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


class Answering:
    """An EC2 that notes every call, and refuses those in these regions."""

    def __init__(self, **refusing):
        self.refusing, self.calls = refusing, []

    def call(self, region, action, /, **given):
        self.calls.append((region, action, given))
        kind = self.refusing.get(region.replace("-", "_"))
        if kind is not None:
            about = {"kind": kind, "advice": "", "action": action, "region": region}
            raise Refusal("No", "not so", **about)
        return {"region": region}


@pytest.mark.parametrize(
    ("refusing", "asked"),
    [
        ({}, ["a-1"]),
        ({"a_1": Kind.PERMISSION}, ["a-1", "b-1"]),
        ({"a_1": Kind.UNREACHABLE, "b_1": Kind.PERMISSION}, ["a-1", "b-1", "c-1"]),
    ],
)
def test_the_account_is_asked_about_in_the_first_region_that_answers(refusing, asked):
    there = Answering(**refusing)

    assert ask_near(there, ["a-1", "b-1", "a-1", "c-1"], "x", more=1) == {"region": asked[-1]}
    assert [region for region, *_ in there.calls] == asked
    assert all(given == {"more": 1} for *_, given in there.calls)


def test_if_no_region_answers_the_first_says_why_and_what_is_true_everywhere_is_not_asked_again():
    nowhere = Answering(a_1=Kind.PERMISSION, b_1=Kind.UNREACHABLE)
    with pytest.raises(Refusal) as caught:
        ask_near(nowhere, ["a-1", "b-1"], "x")
    assert caught.value.region == "a-1"
    refused = Answering(a_1=Kind.PERMISSION, b_1=Kind.CREDENTIALS)
    with pytest.raises(Refusal) as caught:
        ask_near(refused, ["a-1", "b-1", "c-1"], "x")
    assert caught.value.region == "a-1"
    assert len(refused.calls) == 2


def test_a_connection_is_opened_by_a_call_that_finds_nothing_and_never_fails():
    good, bad = Answering(), Answering(a_1=Kind.SERVER)
    for there in (good, bad):
        warm(there, "a-1", round_tag="b/0")
        [(region, action, given)] = there.calls
        assert (region, action) == ("a-1", "describe_spot_instance_requests")
        assert given == {"Filters": [{"Name": "tag:spotlib:round", "Values": ["b/0"]}]}


def test_instances_are_tagged_with_their_batch_or_it_is_said_why_not():
    good, bad = Answering(), Answering(a_1=Kind.SERVER)

    assert tag_instances(good, "a-1", ("i-1", "i-2"), batch_id="b") is None
    assert "No (not so)" in tag_instances(bad, "a-1", ("i-1",), batch_id="b")
    tags = [{"Key": "spotlib:batch", "Value": "b"}]
    assert good.calls == [("a-1", "create_tags", {"Resources": ["i-1", "i-2"], "Tags": tags})]
