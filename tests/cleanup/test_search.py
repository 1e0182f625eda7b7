"""Where a sweep looks for what is ours, and what an error of one call keeps it from knowing."""

from functools import partial
from types import SimpleNamespace

import pytest

from spotlib.cleanup.search import Search
from spotlib.ec2.events import EVENTS
from spotlib.ec2.fleets import FLEETS
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind

ENABLED = [
    *({"RegionName": "us-east-1", "OptInStatus": "opt-in-not-required"},),
    *({"RegionName": "eu-west-1"}, {"RegionName": "me-south-1", "OptInStatus": "not-opted-in"}),
]


class There:
    """An EC2 that notes every call, and refuses those named with this kind of refusal."""

    simulated = foreign = False
    session = SimpleNamespace(region_name=None)
    memory = None

    def __init__(self, **refusing):
        self.refusing, self.calls = refusing, []
        self.slept_s = []
        now_s = partial(sum, self.slept_s)
        self.clock = SimpleNamespace(inline=True, now_s=now_s, sleep=self.slept_s.append)

    def call(self, region, action, /, **_):
        self.calls.append((region, action))
        if kind := self.refusing.get(action):
            raise Refusal("No", "not so", kind=kind, advice="", action=action, region=region)
        return {"Account": 123456789012, "Regions": ENABLED}

    def region_names(self, region, _service="ec2"):
        return [f"beside {region}"]


def log_of(*regions, resources=(INSTANCES,)):
    return SimpleNamespace(regions=regions, resources=resources)


def searched(monkeypatch, there, *, regions=None, failing=(), **logs):
    """The regions that are searched, what is found, and the errors."""
    asked = []

    def find(_, region):
        asked.append(region)
        if region in failing:
            raise Refusal("No", "not so", kind=Kind.SERVER, advice="", action="x", region=region)
        return [f"of {region}"]

    monkeypatch.setattr(Search, "find", find)
    found, errors = Search(there, logs, regions=regions, batch_id=None).everywhere()
    return asked, found, errors


@pytest.mark.parametrize(
    ("regions", "logs", "asked"),
    [
        (None, (), ["eu-west-1", "us-east-1"]),
        (None, ("me-south-1", "sa-east-1"), ["eu-west-1", "me-south-1", "sa-east-1", "us-east-1"]),
        (["sa-east-1"], (), ["sa-east-1"]),
        (["sa-east-1"], ("eu-west-1",), ["eu-west-1", "sa-east-1"]),
        ([], ("sa-east-1",), ["eu-west-1", "sa-east-1", "us-east-1"]),
    ],
)
def test_the_regions_of_logs_are_searched_and_the_given_or_else_the_enabled(
    monkeypatch, regions, logs, asked
):
    """A log's region may have been disabled since; the home region is not searched for being it."""
    there = There()
    found = searched(monkeypatch, there, regions=regions, a=log_of(*logs))

    assert found == (asked, [(each, f"of {each}") for each in asked], {})
    assert there.calls == ([] if regions else [("us-east-1", "describe_regions")])


def test_a_region_that_fails_keeps_no_other_from_being_searched(monkeypatch):
    _, found, errors = searched(monkeypatch, There(), failing=["eu-west-1"])

    assert found == [("us-east-1", "of us-east-1")]
    assert list(errors) == ["eu-west-1"]


@pytest.mark.parametrize("kind", [Kind.SERVER, Kind.PERMISSION, Kind.CREDENTIALS])
def test_without_the_list_of_regions_those_of_logs_are_searched(monkeypatch, kind):
    """Those that are known by name, if it may not be had; without credentials nothing is known."""
    there = There(describe_regions=kind)
    if kind is Kind.CREDENTIALS:
        with pytest.raises(Refusal):
            searched(monkeypatch, there, a=log_of("sa-east-1"))
        return
    asked, _, errors = searched(monkeypatch, there, a=log_of("sa-east-1"))

    named = kind is Kind.PERMISSION
    assert asked == [*["beside us-east-1"] * named, "sa-east-1"]
    assert list(errors) == ["regions that no log names"] * (not named)


def test_the_first_region_that_is_known_tells_which_partition_is_asked():
    there = There(get_caller_identity=Kind.PERMISSION)
    for given, logs in ((["cn-north-1"], ()), ((), ("cn-north-1", "sa-east-1")), ((), ())):
        Search(there, {"a": log_of(*logs)}, regions=given, batch_id=None).account()
    there.session = SimpleNamespace(region_name="us-gov-east-1")
    Search(there, {}, regions=None, batch_id=None).account()

    assert [region for region, _ in there.calls] == [
        *("cn-northwest-1", "cn-north-1", "cn-northwest-1", "cn-north-1", "sa-east-1"),
        *("us-east-1", "us-gov-west-1"),
    ]


def test_the_account_is_text_and_not_known_where_it_is_refused_or_simulated():
    there, nowhere, simulated = There(), There(get_caller_identity=Kind.PERMISSION), There()
    simulated.simulated = True

    accounts = [
        Search(each, {}, regions=None, batch_id=None).account()
        for each in (there, nowhere, simulated)
    ]
    assert accounts == ["123456789012", None, None]
    assert simulated.calls == []


@pytest.mark.parametrize(
    ("resource", "kind", "where", "tolerated"),
    [
        (INSTANCES, Kind.PERMISSION, "", False),
        (FLEETS, Kind.PERMISSION, "", True),
        (FLEETS, Kind.PERMISSION, "recorded", False),
        (FLEETS, Kind.SERVER, "", False),
        (FLEETS, Kind.SERVER, "foreign", True),
        (INSTANCES, Kind.SERVER, "foreign", False),
        (EVENTS, Kind.SERVER, "recorded", True),
    ],
)
def test_what_no_log_says_was_made_need_not_be_listed_by_who_may_not(
    monkeypatch, resource, kind, where, tolerated
):
    there, asked = There(), []
    there.foreign = where == "foreign"

    def listed(self, _connection, region, batch_id):
        asked.append((self, batch_id))
        if self is resource:
            raise Refusal("No", "not so", kind=kind, advice="", action="x", region=region)
        return ["one"]

    monkeypatch.setattr(type(resource), "find_ours", listed)
    logs = {"a": log_of("sa-east-1", resources=[resource] if where == "recorded" else [])}
    search = Search(there, logs, regions=None, batch_id=None)
    if not tolerated:
        with pytest.raises(Refusal):
            search.find("sa-east-1")
        return
    assert search.find("sa-east-1") == ["one"] * (len(asked) - 1)
    assert len(asked) == 5
    assert list(search.unlisted) == ["sa-east-1"] * (resource is EVENTS)


def test_of_a_batch_with_a_log_only_what_it_may_have_made_is_listed(monkeypatch):
    asked = []
    monkeypatch.setattr(type(FLEETS), "find_ours", lambda self, *_: asked.append(self) or [])
    logs = {"a": log_of("sa-east-1", resources=[FLEETS])}
    Search(There(), logs, regions=None, batch_id="a").find("sa-east-1")
    assert asked == [FLEETS]
    Search(There(), logs, regions=None, batch_id="another").find("sa-east-1")
    assert len(asked) == 6
