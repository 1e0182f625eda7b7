"""A log is written once and can be read at any time; its tables say what happened."""

import json
import math
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import get_args

import pandas as pd
import pytest
from conftest import ARM, NANO, QUICK, plan_for, read_events, scripted, unnumbered

from spotlib.analyze.load import load_comparable
from spotlib.collect.rounds import collect_batch
from spotlib.record.events import CleanEvent, Event
from spotlib.record.folder import find_logs
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.log import EventLog, new_batch_id, read_lines
from spotlib.record.selection_file import newest_selection, read_selection, selection_targets
from spotlib.record.tables import load_batches, load_launches, load_polls, load_readable
from spotlib.sandbox.world import Fate
from spotlib.workspace import results_folder

CLEAN = {"confirmed": True, "open_requests": {}, "live_instances": {}, "errors": {}}


@pytest.fixture
def batch(in_process, log):
    """A recorded batch of two targets: three requests become ready, one is never fulfilled."""
    connection = in_process(scripted(QUICK, QUICK, QUICK, Fate(held_s=None)))
    collect_batch(connection, plan_for(connection, NANO, ARM, n=2, timeout_s=60), log=log, seed=1)
    return log


def test_the_tables_have_a_row_per_poll_and_plan_per_request_and_per_batch(batch):
    polls, launches, batches = load_polls(batch), load_launches(batch), load_batches(batch)

    assert len(launches) == 4
    assert len(batches) == 1
    assert polls.groupby("plan")["n"].unique().map(list).tolist() == [[2], [2]]
    assert polls["ready"].max() == 2
    assert batches["clean"].all()
    assert batches[["rounds", "plans", "requests", "ended"]].to_numpy().tolist() == [[1, 2, 4, 4]]
    assert not batches["torn"].any()
    for table in (polls, launches, batches):
        assert table["simulated"].all()
        assert table["world"].str.startswith("w-").all()


def test_times_count_from_the_plans_own_request(batch):
    launches = load_launches(batch)

    assert (launches["accepted_after_s"] == 0).all()
    assert launches["accepted_by_s"].between(0.3, 6).all()
    assert (load_polls(batch)["asked_s"] > 0).all()


def test_ec2s_own_times_stand_beside_the_brackets(batch):
    ready = load_launches(batch).query("outcome == 'ready'")

    lasted = (ready["fulfilled_at"] - ready["created_at"]).dt.total_seconds()
    assert lasted.between(0, 5).all()
    assert str(ready["launched_at"].dtype).endswith("UTC]")


def test_any_number_of_logs_is_read_together(batch):
    other = batch.with_name("20240901T000001Z-abcdef.jsonl")
    other.write_text(batch.read_text().replace(batch.stem, other.stem))

    assert list(find_logs(batch.parent).batches) == [batch, other]
    assert len(load_launches(batch.parent)) == 8
    assert len(load_launches([batch, other])) == 8


@pytest.fixture
def many(batch, tmp_path):
    """A folder of five logs: copies of the batch, the last cut off before an answer."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(5):
        other = f"2024090{number + 2}T000000Z-abcdef"
        lines = batch.read_text().replace(batch.stem, other).splitlines(keepends=True)
        (folder / f"{other}.jsonl").write_text("".join(lines[: 2 if number == 4 else None]))
    return folder


LOADERS = (load_batches, load_launches, load_polls)


def _same(tables, others):
    for table, other in zip(tables, others, strict=True):
        pd.testing.assert_frame_equal(table, other, check_exact=True)


def test_logs_read_in_parts_yield_the_same_tables(many, monkeypatch):
    at_once = [load(many) for load in LOADERS]
    monkeypatch.setattr("spotlib.record.folder._PART_BYTES", 1)

    assert len(list(find_logs(many).parts())) == 5
    with ThreadPoolExecutor(2) as executor:
        _same([load(many, executor=executor) for load in LOADERS], at_once)
    monkeypatch.setattr("spotlib.record.tables._WORTH_PARTS", 2)  # as 64 MB are: processes
    _same([load(many) for load in LOADERS], at_once)


def test_a_damaged_log_is_named_from_whichever_part_it_is_in(many, monkeypatch):
    monkeypatch.setattr("spotlib.record.folder._PART_BYTES", 1)
    monkeypatch.setattr("spotlib.record.tables._WORTH_PARTS", 2)
    third = many / "20240904T000000Z-abcdef.jsonl"
    third.write_text(third.read_text().replace('"poll"', '"pole"', 1))

    with pytest.raises(ValueError, match=third.name):
        load_polls(many)
    found = load_readable(many)
    assert [each.path for each in found.faults] == [third]
    assert len(found.batches) == 4


def test_a_folder_without_logs_yields_empty_tables_of_the_same_columns(tmp_path, batch):
    for load in (load_polls, load_launches, load_batches):
        assert load(tmp_path).empty
        assert list(load(tmp_path).columns) == list(load(batch).columns)


def test_a_path_that_is_not_there_is_an_error_and_not_an_empty_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="no log or folder"):
        load_polls(tmp_path / "nowhere")


def test_a_last_line_torn_at_any_byte_is_left_out_and_reported(batch):
    whole = batch.read_bytes()
    events, _ = read_events(batch)
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last + 1, len(whole)):
        batch.write_bytes(whole[:cut])
        kept, torn = read_events(batch)
        assert torn
        assert kept == events[:-1]
    assert load_batches(batch)["torn"].all()


def test_a_log_that_is_still_being_written_is_read_at_every_line(batch, tmp_path):
    lines = batch.read_text().splitlines(keepends=True)
    growing = tmp_path / "growing.jsonl"
    for count in range(len(lines) + 1):
        growing.write_text("".join(lines[:count]))
        launches = load_launches(growing)
        assert len(load_batches(growing)) == (count > 0)
        assert load_polls(growing)["ready"].fillna(0).between(0, 2).all()
        running = launches[launches["outcome"].isna()]
        assert (running["watched_s"] >= 0).all()


def test_a_request_under_way_is_censored_at_the_last_poll(batch):
    lines = [
        line for line in batch.read_text().splitlines(keepends=True) if '"outcome"' not in line
    ]
    batch.write_text(unnumbered("".join(lines[:-1])))  # nor does anything confirm its end

    launches, polls = load_launches(batch), load_polls(batch)

    assert launches["outcome"].isna().all()
    last = polls.groupby("plan")["asked_s"].max()
    assert launches.groupby("plan")["watched_s"].max().tolist() == pytest.approx(last.tolist())


@pytest.mark.parametrize(
    ("schema", "advice"), [(99, "update spotlib"), (1, "read it with the version that wrote it")]
)
def test_a_log_of_another_schema_is_refused_by_name(batch, schema, advice):
    batch.write_text(batch.read_text().replace('"schema":2', f'"schema":{schema}', 1))

    with pytest.raises(ValueError, match=f"schema {schema}, .* reads schema 2 only: {advice}"):
        load_launches(batch)


@pytest.mark.parametrize(
    ("written", "damaged", "complaint"),
    [
        ('"request_ids":[', '"request_idz":[', "line 3 is no valid event: .*`request_idz`"),
        ('"vcpus":2', '"vcpus":"two"', r"line 2 is no valid event: .*`\$\.vcpus`"),
        ('"vcpus":2', '"vcpus":-2', r"line 2 is no valid event: .*`\$\.vcpus`"),
        ('"outcome":"ready"', '"outcome":"readi"', r"line \d+ is no valid event: .*`\$\.outcome`"),
        ('"event":"requested"', '"event":"asked"', r"line 3 is no valid event: .*`\$\.event`"),
        ('{"event":"requested"', '5\n{"event":"requested"', "line 3 is no valid event"),
        ('"stage":"running"', '"stage":"runing"', r"line \d+ is no valid event: .*`\$\.stage`"),
        ('"plan":0,"asked_s"', '"plan":7,"asked_s"', r"line \d+ is no valid event: .*\(0, 7\)"),
        (
            '"instance_type":"t3.nano"',
            '"instance_type":"t3"',
            r"line \d+ is no valid event: .*instance_type",
        ),
        ('"after_s":', '"after_s":9', r"line \d+ is no valid event: after_s is 9.*above by_s"),
        ('"after_s":', '"after_s":-', r"line \d+ is no valid event: .*`\$\.after_s`"),
        ('"answered_s":', '"answered_s":99999999999', r"line \d+ is .*`\$\.answered_s`"),
        ('"asked_s":', '"asked_s":9999', r"line \d+ is .*asked_s is 9999.*above answered_s"),
        ('"watched_s":', '"watched_s":-', r"line \d+ is no valid event: .*`\$\.watched_s`"),
        ('"accepted":2', '"accepted":3', r"line \d+ is .*accepted is 3, above n, which is 2"),
        ('"ready":0', '"ready":2', r"line \d+ is .*ready is 2, above running"),
        ('"running":0', '"running":-1', r"line \d+ is .*`\$\.plans\[\.\.\.\]\.running`"),
        ('"outcome":"ready"', '"outcome":"expired"', r"line \d+ is .*outcome is expired, its st"),
    ],
)
def test_a_line_that_is_no_valid_event_is_refused_with_file_line_and_field(
    batch, written, damaged, complaint
):
    text = unnumbered(batch.read_text())
    assert written in text
    batch.write_text(text.replace(written, damaged, 1))

    with pytest.raises(ValueError, match=rf"abcdef\.jsonl, {complaint}"):
        load_polls(batch)


def test_a_log_that_is_clean_and_has_a_request_without_an_outcome_contradicts_itself(batch):
    lines = unnumbered(batch.read_text()).splitlines(keepends=True)
    [*_, last] = [line for line in lines if '"event":"outcome"' in line]
    batch.write_text("".join(line for line in lines if line != last))

    with pytest.raises(ValueError, match=r"confirmed is true, but sir-\w+ has no outcome"):
        load_launches(batch)


def test_every_event_is_read_back_as_it_was_written(batch):
    """Each kind of event that a batch writes is the same after reading."""
    events = [event for _, event in read_lines(batch).events]

    copy = EventLog(batch.with_name("copy.jsonl"))
    for event in events:
        copy.append(event)
    copy.close()

    assert read_lines(copy.path).events == read_lines(batch).events
    assert len({type(event) for event in events}) >= 9


def test_a_number_that_is_not_known_is_written_as_null_and_read_as_none(tmp_path):
    log = EventLog(tmp_path / "a.jsonl")
    log.append(CleanEvent(**CLEAN, spent_at_most_usd=math.nan))
    log.close()

    assert json.loads(log.path.read_text())["spent_at_most_usd"] is None


def test_a_broken_line_before_the_last_is_an_error_that_names_the_file(batch):
    batch.write_text(batch.read_text().replace('"event":"requested"', '"event:"requested"'))

    with pytest.raises(ValueError, match=r"abcdef\.jsonl is broken before its last line"):
        load_launches(batch)


def test_another_json_file_is_no_log(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"hello": 1}\n')

    with pytest.raises(ValueError, match="is not a log of spotlib"):
        load_polls(tmp_path)


def test_a_log_is_never_written_twice(batch):
    before = batch.read_bytes()

    with pytest.raises(ValueError, match="never written twice"):
        EventLog(batch)

    assert batch.read_bytes() == before


def test_a_writer_holds_the_lock_until_it_is_done_or_dead(tmp_path):
    path = tmp_path / "a.jsonl"
    script = """
        import sys
        from spotlib.record.log import EventLog, is_alive
        try:
            EventLog.resume(sys.argv[1])
        except BlockingIOError:
            sys.exit(3 if is_alive(sys.argv[1]) else 4)
    """

    def try_lock():
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        return subprocess.run(command, check=False).returncode

    log = EventLog(path)
    assert try_lock() == 3
    log.close()
    assert try_lock() == 0


def test_a_disk_that_takes_only_a_part_of_a_line_is_an_error(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "a.jsonl")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))

    with pytest.raises(OSError, match="is it full"):
        log.append(CleanEvent(**CLEAN))

    monkeypatch.undo()
    log.close()


@pytest.mark.parametrize("written", [0, 5, None], ids=["nothing", "a part", "all of it"])
def test_a_line_interrupted_while_it_is_written_leaves_a_readable_log(batch, monkeypatch, written):
    """An interrupt can come after the system took the line and before the writer knows."""
    batch.write_bytes(batch.read_bytes().splitlines(keepends=True)[0])
    log, write = EventLog.resume(batch), os.write

    def interrupted(file, data):
        write(file, data[:written])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append(CleanEvent(**CLEAN))
    log.append(CleanEvent(**CLEAN))
    log.close()

    events, _ = read_events(batch)
    assert sum(each["event"] == "clean" for each in events) == (2 if written is None else 1)
    assert [each["line"] for each in events] == list(range(1, len(events) + 1))


def test_batch_ids_sort_by_time_and_differ():
    moments = pd.date_range("2026-01-01", periods=3, freq="s", tz="UTC")
    ids = [new_batch_id(moment.to_pydatetime()) for moment in moments]

    assert ids == sorted(ids)
    for number, each in enumerate(ids):
        assert re.fullmatch(f"20260101T00000{number}Z-[0-9a-f]{{6}}", each)
    assert len({new_batch_id(moments[0].to_pydatetime()) for _ in range(20)}) == 20


def test_results_that_cannot_be_written_are_refused_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ValueError, match=r"results .*file.* cannot be made"):
        results_folder(tmp_path / "file")


def test_a_mistyped_path_to_results_is_an_error_and_is_not_made(tmp_path):
    """The folder itself is made, but not the one that it is to be in."""
    with pytest.raises(ValueError, match=r"there is no folder '.*reslts'; correct the name, or"):
        results_folder(tmp_path / "reslts" / "one")

    assert list(tmp_path.iterdir()) == []
    assert (results_folder(tmp_path / "one") / "launches").is_dir()


def test_a_selection_is_read_best_first_and_cut_at_the_top(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(
        "rank,instance_type,region,source,availability_zone_id\n"
        "2,t3.micro,us-east-1,sandbox,use1-az4\n1,t3.nano,sa-east-1,sandbox,\n"
    )

    table = read_selection(path)

    assert [str(each) for each in selection_targets(table, top=5)] == [
        "t3.nano in sa-east-1",
        "t3.micro in use1-az4",
    ]
    assert len(selection_targets(table, top=1)) == 1


HEADER = "rank,instance_type,region,source\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "instance_type,region\nt3.nano,sa-east-1\n",
            "lacks the columns rank and source, it has instance_type and region",
        ),
        ("rank,instance_type,region,source\n", "needs rows of one source"),
        (
            "rank,instance_type,region,source\n1,a.b,us-east-1,sandbox\n2,a.c,us-east-1,spotlake\n",
            "needs rows of one source",
        ),
        ("", "cannot be read"),
        (f"{HEADER}1,a.b,us-east-1,spotlake\n2,a.c,us-east-1,\n", "has no source in some rows"),
        (f"{HEADER}1,a.b,us-east-1,evil\n", "has the source 'evil', not spotlake or sandbox"),
        (f"{HEADER}1,a.b,us-east-1,SpotLake\n", "has the source 'SpotLake'"),
        (f"{HEADER}1,a.b,us-east-1,spotlake,x\n", "more cells in its rows than in its header"),
        (
            "rank,instance_type,region,source,source\n1,a.b,us-east-1,spotlake,sandbox\n",
            "has the columns source twice",
        ),
        (f"{HEADER}first,a.b,us-east-1,spotlake\n", "lacks a number as rank"),
        (f"{HEADER}1,,us-east-1,spotlake\n", "lacks the instance_type in some rows"),
        (f"{HEADER}1,a.b,5,spotlake\n", "lacks the region in some rows"),
        (
            "rank,instance_type,region,source,market\n1,a.b,us-east-1,sandbox,\n",
            "lacks the market of the sandbox",
        ),
        (
            "rank,instance_type,region,source,market\n"
            "1,a.b,us-east-1,sandbox,calm\n2,a.b,us-east-1,sandbox,tight\n",
            "has several markets",
        ),
        (
            "rank,instance_type,region,source,dataset\n"
            "1,a.b,us-east-1,spotlake,\n2,a.c,us-east-1,spotlake,Sandbox \n",
            "names the sandbox as its dataset, and spotlake as its source",
        ),
        (
            "rank,instance_type,region,source,dataset\n"
            "1,a.b,us-east-1,spotlake,/data/spot_dataset/sandbox/calm\n",
            "names the sandbox as its dataset, and spotlake as its source",
        ),
        (f'{HEADER}1,"a.b,us-east-1,spotlake\n', "cannot be read"),
        (
            "rank,instance_type,region,source,market\n1,a.b,us-east-1,spotlake,calm\n",
            "names a market of the sandbox, and spotlake as its source",
        ),
        (
            "rank,instance_type,region,source,market\n"
            "1,a.b,us-east-1,sandbox,calm\n2,a.b,us-east-1,sandbox,\n",
            "has several markets",
        ),
        (
            f"{HEADER}1,a.b,us-east-1,evil\n2,a.c,us-east-1,bad\n",
            "has the source 'evil', not spotlake or sandbox",
        ),
        (f"{HEADER}1,a.b,us-east-1,evil\n2,a.c,us-east-1,\n", "has the source 'evil'"),
        (f"{HEADER}inf,a.b,us-east-1,spotlake\n", "lacks a number as rank"),
        (f"{HEADER}1,a.b,us-east-1,spotlake\n,a.c,us-east-1,spotlake\n", "lacks a number as"),
    ],
)
def test_a_file_that_is_no_selection_is_refused_in_a_sentence(tmp_path, text, words):
    path = tmp_path / "s.csv"
    path.write_text(text)

    with pytest.raises(ValueError, match=words):
        read_selection(path)


@pytest.mark.parametrize("dataset", ["", "spot_dataset/aws", "/data/sandbox/aws-2024-08.zip"])
@pytest.mark.parametrize("market", ["", ","])
def test_another_dataset_of_spotlake_is_no_sandbox(tmp_path, dataset, market):
    path, column = tmp_path / "s.csv", ",market" * (market == ",")
    rows = (
        f"2,a.b,us-east-1,spotlake,{dataset}{market}\n1,a.c,us-east-1,spotlake,{dataset}{market}\n"
    )
    path.write_text(f"{HEADER[:-1]},dataset{column}\n{rows}")

    assert read_selection(path)["instance_type"].to_dict() == {0: "a.c", 1: "a.b"}


def test_a_selection_of_the_sandbox_names_its_market_and_its_dataset(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(f"{HEADER[:-1]},market,dataset\n1,a.b,us-east-1,sandbox,calm,sandbox\n")

    assert len(read_selection(path)) == 1
    with pytest.raises(ValueError, match="cannot be read: there is no such file"):
        read_selection(tmp_path)


def test_the_newest_selection_is_the_last_by_name(tmp_path):
    assert newest_selection(tmp_path) is None
    (tmp_path / "selection").mkdir()
    for name in ("20260101T000000Z.csv", "20260301T000000Z.csv", "20260201T000000Z.csv"):
        (tmp_path / "selection" / name).write_text("")

    assert newest_selection(tmp_path).name == "20260301T000000Z.csv"


def test_every_line_of_a_log_is_one_json_object_with_a_known_event(batch):
    lines = batch.read_text().splitlines()

    assert {json.loads(line)["event"] for line in lines} <= {
        each.__struct_config__.tag for each in get_args(Event)
    }
    assert {"batch", "intent", "requested", "poll", "stage", "outcome", "release", "clean"} <= {
        json.loads(line)["event"] for line in lines
    }


def test_our_last_launch_of_a_target_is_known_from_real_batches_only(batch, tmp_path):
    year = datetime(2024, 1, 1, tzinfo=UTC)
    real = tmp_path / "real"
    real.mkdir()
    text = batch.read_text()
    (real / "renamed.jsonl").write_text(text.replace("true", "false", 1))
    (real / "20240902T000000Z-b.jsonl").write_text(text.replace(batch.stem, "20240902T000000Z-b"))
    (real / "20230901T000000Z-c.jsonl").write_text("not even read: it is too old")

    assert last_launches(batch.parent, since=year) == {}
    found = last_launches(real, since=year)
    assert set(found) == {NANO, ARM}
    assert all(each.year == 2024 for each in found.values())


def test_another_market_of_the_sandbox_is_another_endpoint(in_process, tmp_path):
    """Calm and tight markets are never pooled, even with their logs in one folder."""
    for seed, name in enumerate(("calm", "tight")):
        connection = in_process(scripted(seed=seed))
        connection.market = name
        plans = plan_for(connection, n=1)
        collect_batch(connection, plans, log=tmp_path / f"{name}.jsonl", seed=1, guard=False)

    for table in (load_batches(tmp_path), load_launches(tmp_path), load_polls(tmp_path)):
        assert set(table["endpoint"]) == {"sandbox/calm", "sandbox/tight"}
    kept = load_comparable(tmp_path)
    assert set(kept.launches["endpoint"]) == {"sandbox/tight"}
    assert kept.left_out["why"].tolist() == ["endpoint sandbox/calm, not sandbox/tight"]


def test_a_log_that_cannot_be_read_hides_no_launch_and_makes_the_cost_unknown(tmp_path):
    """A campaign budget then refuses the next batch, because the sum is not known."""
    (tmp_path / "20240901T000000Z-abcdef.jsonl").write_text('{"event":"batch","schema":2}\n')

    assert last_launches(tmp_path, since=datetime(2024, 1, 1, tzinfo=UTC)) == {}
    assert math.isnan(earlier_usd(tmp_path, simulated=False))


@pytest.mark.parametrize("name", ["launches", "selection", "counts", "figures", "tables"])
def test_a_file_in_place_of_a_folder_of_results_is_named_at_the_start(tmp_path, name):
    (tmp_path / name).write_text("")

    with pytest.raises(ValueError, match=f"results needs '.*{name}' as a folder: move what is"):
        results_folder(tmp_path)
