"""Whatever a log says, only public knowledge and aliases leave in a public export."""

import json
import os
import random
import re
import stat
import threading
from functools import partial

import pandas as pd
import pytest
from botocore.session import get_session
from conftest import CHAOS, NANO, QUICK, plan_for, scripted
from hypothesis import example, given, settings
from hypothesis import strategies as st
from launch_rows import INF, run_rows, table_of
from pyarrow import parquet

from spotlib.__main__ import main
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect_in_process
from spotlib.ec2.refusals import _CODES
from spotlib.export import export
from spotlib.forecast.training import COLUMNS
from spotlib.model import OUTCOME_KINDS
from spotlib.public import aliased, is_public, read_salt
from spotlib.record.columns import BATCH_COLUMNS
from spotlib.sandbox.numbers import PROFILES
from spotlib.sandbox.states import STATE_OF_CODE
from spotlib.sandbox.wire import attach

SALT = b"0" * 64
MARK = "zq7private"  # occurs nowhere of itself
ALIAS = re.compile(r"[a-z-]+-[0-9a-f]{16}")
TEXTS = [each.name for columns in COLUMNS.values() for each in columns if each.unit == "name"]
ALMOST = [  # nearly a known name
    *["us-east-1 ", "US-EAST-1", "us-east-1\n", "us-alice-1", "aws-alice", "use1-alice-az1"],
    *["alic1-az1", "use1-az1\n", "use1-az\u0661", "alice7.nano", "t3.nano ", "t3.nano-alice"],
    *["sandbox/alice", "sandbox/tight/alice", "aws/alice", "sandbox/", "sandbox/tight/\u0663"],
    *["AWS", "fulfilled-by-alice", "alice", "987654321098", "arn:aws:iam::987654321098:user/a"],
    *["i-0123456789abcdef0", "sir-abcd1234", "ami-0123456789abcdef0", "subnet-0123abcd"],
    *["al2023-ami-kernel-6.1-alice", "al2023-ami-alice-kernel-6.1-arm64"],
    *["/data/alice/results", "https://ec2.alice.example:8443", "http://alice:secret@host/"],
]


def tables(**texts):
    """Launches of two runs, and their batches, with these texts in all rows."""
    launches = table_of(run_rows([20.0, INF]), run_rows([30.0], number=1))
    first = launches.drop_duplicates("batch_id").assign(
        started_at=launches["sent_at"].min(), account="987654321098", profile="alice"
    )
    batches = first.reindex(columns=list(BATCH_COLUMNS)).assign(rounds=2, every_s=9.0)
    mine = {name: text for name, text in texts.items() if name in launches}
    shared = {name: text for name, text in texts.items() if name in batches}
    return launches.assign(**mine), batches.assign(**shared)


def cells(folder):
    """Every text in every table of an export, by column, from its Parquet files."""
    for path in sorted(folder.rglob("*.parquet")):
        for name, values in parquet.read_table(path).to_pydict().items():
            yield from ((name, each) for each in set(values) if isinstance(each, str))


def plain_text(folder):
    """What an export holds, as text."""
    readable = [path.read_text() for path in folder.rglob("*") if path.suffix in {".csv", ".md"}]
    return "\n".join([*readable, *(text for _, text in cells(folder))])


def known(text):
    """An independent list: what these tests put into the tables of themselves."""
    ours = {"sandbox", "t3.nano", "sa-east-1", "region", "request_spot_instances", "spot", "ready"}
    return text in ours | {"fulfilled", "timed_out", "unfinished", ""} or ALIAS.fullmatch(text)


DECIDING = {"wanted", "outcome", "kind"}  # they decide which rows there are, so one at a time
TOGETHER = [*({*TEXTS, "image"} - DECIDING - {"cause", "stage"})]


@settings(max_examples=300 if CHAOS else 8)
@given(
    columns=st.sampled_from([TOGETHER, TOGETHER, *([each] for each in sorted(DECIDING))]),
    text=st.text() | st.sampled_from(ALMOST),
)
@example(columns=TOGETHER, text="alice")
@example(columns=["wanted"], text="alice")
@example(columns=["outcome"], text="alice")
def test_any_text_in_any_text_column_is_known_or_an_alias(tmp_path_factory, columns, text):
    folder = tmp_path_factory.mktemp("export")
    export(*tables(**dict.fromkeys(columns, MARK + text)), to=folder, salt=SALT)

    assert MARK not in plain_text(folder)
    for name, held in cells(folder):
        assert known(held), (name, held)


def test_what_is_nearly_a_known_name_is_not_public():
    columns = {*TEXTS, *DECIDING}

    assert not [(name, text) for name in columns for text in ALMOST if is_public(name, text)]


def test_documented_names_are_published_as_they_are():
    outcomes = [code for code, (kind, _) in _CODES.items() if kind in OUTCOME_KINDS]
    ec2 = get_session().get_service_model("ec2")
    fleets = [*ec2.shape_for("FleetActivityStatus").enum, *ec2.shape_for("FleetStateCode").enum]
    for column, texts in {
        "region": ["us-east-1", "us-gov-west-1", "cn-northwest-1", "ap-northeast-3"],
        "instance_type": ["t3.nano", "u-6tb1.metal", "m7i-flex.large", "t1.micro"],
        "zone_id": ["use1-az4", "apne1-az2", "usgw1-az1", "usw2-lax1-az1", "use1-wl1-bos-wlz1"],
        "image_family": ["al2023-ami-kernel-6.1-arm64", "al2023-ami-minimal-kernel-6.12-x86_64"],
        "endpoint": ["aws", "sandbox", *(f"sandbox/{each}" for each in PROFILES), "sandbox/calm/7"],
        "instance_reason": ["Server.SpotInstanceTermination", "Client.UserInitiatedShutdown"],
        "status_code": [*STATE_OF_CODE, *outcomes, *fleets],
    }.items():
        assert [each for each in texts if not is_public(column, each)] == []


def test_an_alias_is_the_same_in_every_table_and_column_of_one_meaning():
    table = pd.DataFrame({"zone_id": ["alice"], "availability_zone_id": ["alice"], "n": [1]})
    held = aliased(table, SALT, table.columns).iloc[0]

    assert held["zone_id"] == held["availability_zone_id"] != "alice"
    assert held["n"] == 1


def test_a_salt_is_made_whole_and_for_its_owner_only(tmp_path):
    salt = read_salt(tmp_path / "salt")

    assert re.fullmatch(rb"[0-9a-f]{64}", salt)
    assert read_salt(tmp_path / "salt") == salt
    assert stat.S_IMODE((tmp_path / "salt").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["salt"]


@pytest.mark.parametrize("held", [b"", b"ab", b"0" * 63, b"0" * 65, b"g" * 64, b"\xff" * 64])
def test_a_salt_that_is_not_whole_is_refused_and_kept(tmp_path, held):
    (tmp_path / "salt").write_bytes(held)

    with pytest.raises(ValueError, match=r"not whole: .* earlier exports .* restore"):
        read_salt(tmp_path / "salt")
    assert (tmp_path / "salt").read_bytes() == held


def test_a_salt_that_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()

    for name in ("pipe", "dead", "folder"):
        with pytest.raises(ValueError, match=f"{name}' is no file"):
            read_salt(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read or made: No such file"):
        read_salt(tmp_path / "missing" / "salt")


def test_a_restored_salt_that_others_could_read_is_closed_to_them(tmp_path):
    (tmp_path / "salt").write_bytes(b"0" * 64)
    (tmp_path / "salt").chmod(0o644)

    read_salt(tmp_path / "salt")
    assert stat.S_IMODE((tmp_path / "salt").stat().st_mode) == 0o600


def test_a_disk_that_fails_leaves_no_salt_behind(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match="cannot be read or made: No space left"):
            read_salt(tmp_path / "salt")
    assert not list(tmp_path.iterdir())


def test_exports_that_start_together_share_one_salt(tmp_path):
    barrier, salts = threading.Barrier(8), []

    def export_at_once():
        barrier.wait()
        salts.append(read_salt(tmp_path / "salt"))

    threads = [threading.Thread(target=export_at_once) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(salts) == 8
    assert len(set(salts)) == 1


def leaves(value, path=()):
    """Every place in JSON that holds a value which is no list and no object."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        if isinstance(each, dict | list) and each:
            yield from leaves(each, (*path, key))
        else:
            yield (*path, key)


def planted(line, rng):
    """Return a line with a private text, or nonsense, in one of its places."""
    event = json.loads(line)
    *way, last = rng.choice(list(leaves(event)))
    place = event
    for key in way:
        place = place[key]
    old = place[last]
    texts = [
        MARK,
        f"={MARK}",
        f"<img src=x onerror={MARK}>",
        f"arn:aws:iam::{MARK}",
        f"{old}{MARK}",
    ]
    place[last] = rng.choice([*texts, *texts, None, -1, 1e308, [], {}, 10**30, "", "\ud800"])
    return json.dumps(event).encode()


def damage(results, rng):
    """Damage or plant one thing in a results folder."""
    log = results / "launches" / "20240901T000000Z-abcdef.jsonl"
    lines = log.read_bytes().splitlines()
    number = rng.randrange(len(lines))
    how = rng.choice(["plant"] * 8 + ["byte", "cut", "twice", "salt", "selection", "name"])
    if how == "plant":
        lines[number] = planted(lines[number], rng)
    elif how == "byte":
        at = rng.randrange(len(lines[number]))
        lines[number] = lines[number][:at] + rng.randbytes(1) + lines[number][at + 1 :]
    elif how == "cut":
        lines[number] = lines[number][: rng.randrange(len(lines[number]))]
    elif how == "twice":
        lines.insert(number, lines[number])
    elif how == "salt":
        (results / "export.salt").write_bytes(rng.randbytes(rng.randrange(70)))
    elif how == "selection":
        (results / "selection").mkdir()
        text = "rank,instance_type,region,source\n1,t3.nano,sa-east-1,spotlake\n"
        at = rng.randrange(len(text))
        (results / "selection" / "a.csv").write_text(text[:at] + rng.choice(["", MARK, '"', "\0"]))
    log.write_bytes(b"\n".join(lines) + b"\n")
    if how == "name":
        log.rename(log.with_name(f"{MARK}<b>.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A log of a private endpoint."""
    world = scripted(QUICK)
    log = tmp_path_factory.mktemp("whole") / "20240901T000000Z-abcdef.jsonl"
    connection = connect_in_process(world, partial(attach, world))
    collect_batch(connection, plan_for(connection, NANO, n=2, timeout_s=60), log=log, seed=1)
    lines = log.read_text().splitlines()
    first = json.loads(lines[0]) | {"simulated": False, "endpoint": f"https://{MARK}.example"}
    first |= {"market": None, "url": None, "world": None, "profile": MARK, "arn": MARK}
    return "\n".join([json.dumps(first), *lines[1:]]) + "\n"


def test_damaged_and_planted_results_leak_nothing_and_end_in_one_sentence(whole, tmp_path, capsys):
    base = random.randrange(10**6) if CHAOS else 13
    codes = []
    for number in range(1000 if CHAOS else 40):
        rng = random.Random(f"{base}/{number}")
        results = tmp_path / f"{number}"
        (results / "launches").mkdir(parents=True)
        (results / "launches" / "20240901T000000Z-abcdef.jsonl").write_text(whole)
        damage(results, rng)

        codes.append(main(["export", "--public", "--results", str(results)]))
        said = capsys.readouterr().err.splitlines()

        what = f"seed {base}/{number}: {said}"
        assert codes[-1] in (0, 1, 2), what
        assert codes[-1] != 2 or (len(said) == 1 and said[0].startswith("error: ")), what
        folder = results / "export-public"
        assert MARK not in plain_text(folder), what
        for name, held in cells(folder):
            assert is_public(name, held) or ALIAS.fullmatch(held), (what, name, held)
    assert min(map(codes.count, (0, 2))) > len(codes) / 10  # both are tried
