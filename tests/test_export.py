"""What others are given: readable at once, described, joinable, and telling nothing of us."""

import argparse
import hashlib
import json
import os
import re
import stat
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from launch_rows import INF, drawn, run_rows, table_of

from spotlib import export as exports
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.connection import connect_in_process
from spotlib.export import export, read_original_study
from spotlib.forecast.training import COLUMNS
from spotlib.model import Stage, Target, plan_launches
from spotlib.record.tables import BATCH_COLUMNS, load_batches, load_launches, load_polls
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import World

NOW = datetime(2026, 11, 23, tzinfo=UTC)
ACCOUNT, HOST = "987654321098", "https://ec2.internal.example.org:8443"
SALT = b"pepper"


def real(number=0, **fields):
    """A run as if on an EC2-compatible endpoint of our own."""
    batch = {"batch_id": "20250102T030405Z-beef42", "endpoint": HOST, "simulated": False}
    ids = {"world": None, "instance_id": f"i-0123456789abcde{number:02x}"}
    return run_rows([20.0, INF], number=number, **batch, **ids, **fields)


def batch_of(launches):
    """The batches behind some launches, with an account each."""
    first = launches.drop_duplicates("batch_id")[["simulated", "world", "endpoint", "batch_id"]]
    settings = {"account": ACCOUNT, "profile": "our-profile", "rounds": 1, "every_s": 900.0}
    times = {"started_at": pd.Timestamp("2025-01-02", tz="UTC"), "poll_s": 3.0, "phase_s": 1.0}
    return first.assign(**settings, **times).reindex(columns=list(BATCH_COLUMNS))


@pytest.fixture
def both():
    """Launches of both kinds, and their batches."""
    launches = table_of(real(), real(1), run_rows([20.0, 30.0]))
    return launches, batch_of(launches)


def read(folder, name):
    """The Parquet form of a table, by pandas' own types."""
    return pl.read_parquet(folder / f"{name}.parquet")


def test_simulated_and_real_are_never_in_one_file(both, tmp_path):
    export(*both, to=tmp_path, created_at=NOW)

    for kind, simulated in (("simulated", True), ("real", False)):
        for name in COLUMNS:
            assert read(tmp_path / kind, name)["simulated"].unique().to_list() == [simulated]
    assert "SIMULATED" in (tmp_path / "simulated" / "README.md").read_text()
    assert "SIMULATED" not in (tmp_path / "real" / "README.md").read_text()


def test_parquet_and_csv_hold_the_same_with_units_kept(tmp_path):
    launches = drawn(targets=4, rounds=3)
    export(launches, batch_of(launches), to=tmp_path, created_at=NOW)
    folder = tmp_path / "simulated"

    for name in COLUMNS:
        frame, table = read(folder, name), pd.read_csv(folder / f"{name}.csv")
        assert list(table.columns) == frame.columns
        for column in (each for each in frame.columns if frame[each].dtype.is_numeric()):
            values = frame[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            assert np.array_equal(values, table[column].to_numpy(float), equal_nan=True), column
        assert frame.columns == [column.name for column in COLUMNS[name]]
    assert (
        str(read(folder, "training")["sent_at"].dtype)
        == "Datetime(time_unit='us', time_zone='UTC')"
    )
    sent_at = pd.to_datetime(pd.read_csv(folder / "training.csv")["sent_at"])
    assert str(sent_at.dt.tz) == "UTC"


def test_the_dictionary_is_written_beside_the_tables(both, tmp_path):
    export(*both, to=tmp_path, created_at=NOW)
    dictionary = pd.read_csv(tmp_path / "real" / "dictionary.csv").groupby("table")["column"]

    for name in COLUMNS:
        assert dictionary.agg(list)[name] == read(tmp_path / "real", name).columns


def test_pandas_reads_the_parquet(both, tmp_path):
    pytest.importorskip("pyarrow")
    export(*both, to=tmp_path, created_at=NOW)
    requests = pd.read_parquet(tmp_path / "real" / "requests.parquet")

    assert requests["upper_s"].tolist() == [20.0, INF, 20.0, INF]
    assert requests["world"].isna().all()
    assert requests["sps"].dtype == float


def test_lifelines_starts_at_once(tmp_path):
    lifelines = pytest.importorskip("lifelines")
    launches = drawn(targets=4, rounds=3)
    export(launches, batch_of(launches), to=tmp_path, created_at=NOW)
    requests = pd.read_csv(tmp_path / "simulated" / "requests.csv")
    fitted = lifelines.KaplanMeierFitter()
    fitted.fit_interval_censoring(requests["lower_s"], requests["upper_s"])

    came = (requests["upper_s"] < 500.0).mean()
    assert 1.0 - fitted.predict(500.0).mean() == pytest.approx(came, abs=0.05)


def test_a_public_export_holds_no_identity_in_any_byte(both, tmp_path):
    written = export(*both, to=tmp_path, created_at=NOW, salt=SALT, author="A. Nonymous")

    secrets = [ACCOUNT, HOST, "internal.example", "our-profile", "beef42", "pepper", "aaaaaa"]
    patterns = re.compile(rb"arn:|sir-\d|\bi-0123|\b\d{12}\b")
    for path in written:
        held = [path.read_bytes()]
        if path.suffix == ".parquet":  # its pages are compressed
            held.append(pl.read_parquet(path).write_csv().encode())
        for data in held:
            assert not any(secret.encode() in data for secret in secrets), path
            assert not patterns.search(data), path


def test_aliases_join_across_tables_and_exports_of_one_salt_only(both, tmp_path):
    names = {"one": SALT, "two": SALT, "three": b"other"}
    tables = {}
    for name, salt in names.items():
        export(*both, to=tmp_path / name, created_at=NOW, salt=salt)
        tables[name] = read(tmp_path / name / "real", "requests")
    batches = read(tmp_path / "one" / "real", "batches")

    assert tables["one"].join(batches, on="batch_id").height == 4
    assert tables["one"].equals(tables["two"])
    assert set(tables["one"]["batch_id"]).isdisjoint(tables["three"]["batch_id"])
    assert tables["one"]["request_id"].n_unique() == 4
    assert batches["account"].str.starts_with("account-").all()


def test_the_names_aws_and_sandbox_are_no_secret(tmp_path):
    rows = [{**row, "endpoint": "aws"} for row in real()]
    launches = table_of(rows, run_rows([9.0]))
    export(launches, batch_of(launches), to=tmp_path, created_at=NOW, salt=SALT)

    assert set(read(tmp_path / "simulated", "training")["endpoint"]) == {"sandbox"}
    assert set(read(tmp_path / "real", "training")["endpoint"]) == {"aws"}


def test_an_identity_that_slipped_through_stops_the_export(both, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "_scrub", lambda tables, salt: tables)  # noqa: ARG005

    with pytest.raises(ValueError, match="would still hold an identity"):
        export(*both, to=tmp_path, created_at=NOW, salt=SALT)
    assert not list(tmp_path.iterdir())


def test_checksums_and_manifest_are_of_the_files_written(both, tmp_path):
    written = export(*both, to=tmp_path, created_at=NOW, salt=SALT)
    folder = tmp_path / "real"
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    manifest = json.loads((folder / "manifest.json").read_text())

    assert set(sums) | {"SHA256SUMS"} == {path.name for path in written if path.parent == folder}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert manifest["rows"] == {"training": 76, "requests": 4, "batches": 1}
    assert manifest["simulated"] is False


def test_the_citation_names_spotlake_and_its_licence_only_where_it_stands_behind(both, tmp_path):
    export(*both, to=tmp_path, created_at=NOW, salt=SALT, licence="CC-BY-4.0", spotlake=True)
    [real_note, simulated_note] = [
        (tmp_path / kind / "LICENCE.md").read_text() for kind in ("real", "simulated")
    ]
    citation = yaml.safe_load((tmp_path / "real" / "CITATION.cff").read_text())

    assert "CC BY-NC 4.0" in real_note
    assert "IISWC" in real_note
    assert "NC" not in simulated_note
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "CC-BY-4.0"
    assert citation["references"][0]["title"].startswith("SpotLake")


def test_what_was_left_out_is_said(tmp_path):
    quota = run_rows([INF], number=1, outcome="refused", kind="quota")
    short = run_rows([20.0], number=2, wanted="running")
    launches = table_of(run_rows([20.0]), quota, short)
    export(launches, batch_of(launches), to=tmp_path, created_at=NOW)
    readme = (tmp_path / "simulated" / "README.md").read_text()

    assert "refused (quota): says nothing about the market: 1 runs, 1 requests" in readme
    assert "ready was not watched for" in readme


@pytest.fixture
def results(tmp_path):
    """A results folder with a real log of the collect loop."""
    world = World(seed=3)
    connection = connect_in_process(world, lambda client: attach(world, client))
    targets = [Target("t3.nano", "sa-east-1"), Target("t4g.medium", "ap-northeast-3")]
    log = tmp_path / "launches" / "20240901T000000Z-abcdef.jsonl"
    collect_batch(connection, plan_launches(targets, count=3), log=log, seed=1).require()
    return tmp_path


def run(*words):
    parser = argparse.ArgumentParser()
    exports.add_arguments(parser)
    return exports.run(parser.parse_args(list(words)))


def test_the_command_exports_the_logs_of_the_loop(results, capsys):
    assert run("--results", str(results), "--public") == 0
    folder = results / "export" / "simulated"
    printed = capsys.readouterr().out.split()
    training, polls = read(folder, "training"), load_polls(results / "launches")

    assert str(folder / "training.parquet") in printed
    for (plan,), rows in training.group_by("plan"):
        looks = polls[(polls["plan"] == plan) & (polls["answered_s"] <= 300.0)]
        assert rows.filter(pl.col("elapsed_s") == 300.0)["ready"].item() == looks["ready"].max()
    for path in folder.iterdir():
        launches = load_launches(results / "launches")
        for value in [*launches["request_id"], *load_batches(results / "launches")["account"]]:
            assert value.encode() not in path.read_bytes()


def test_the_salt_is_made_once_and_for_its_owner_only(results, capsys):
    for _ in range(2):
        assert run("--results", str(results), "--public", "--stage", "running") == 0
    salt = results / "export.salt"
    before = salt.read_bytes()

    assert run("--results", str(results), "--public") == 0
    assert salt.read_bytes() == before
    assert stat.S_IMODE(os.stat(salt).st_mode) == 0o600
    assert before.decode().strip() not in capsys.readouterr().out


def test_nothing_to_export_is_said(tmp_path, capsys):
    assert run("--results", str(tmp_path)) == 1
    assert "no launch to export" in capsys.readouterr().err


ORIGINAL = """region,instance,instance_count,request_time,current_time,ready_instances
sa-east-1,t3.nano,10,1725148800,1725148804,0
sa-east-1,t3.nano,10,1725148800,1725148808,4
us-east-1,c7gd.medium,10,1725148801,1725148805,10
sa-east-1,t3.nano,10,1725149400,1725149404,1
"""


def test_the_original_study_is_read_as_polls_that_name_their_origin(tmp_path):
    path = tmp_path / "2024-09-01.csv"
    path.write_text(ORIGINAL)
    polls = read_original_study(path)

    assert list(polls.columns) == list(load_polls([]).columns)
    assert polls.dtypes["ready"] == load_polls([]).dtypes["ready"]
    assert polls["answered_s"].tolist() == [4.0, 8.0, 4.0, 4.0]
    assert polls["ready"].tolist() == [0, 4, 10, 1]
    assert polls["round"].tolist() == [0, 0, 0, 1]
    assert polls["plan"].tolist() == [0, 0, 1, 0]
    assert polls["tick"].tolist() == [0, 1, 0, 0]
    assert polls["endpoint"].unique().tolist() == ["original study on AWS"]
    assert not polls["simulated"].any()
    assert polls[["asked_s", "running", "fulfilled", "timeout_s", "placement"]].isna().all().all()
    assert polls["at"].iloc[0] == pd.Timestamp("2024-09-01 00:00:04", tz="UTC")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("instance_count", "count", "lacks the columns"),
        ("1725148804", "1725148704", "current_time before"),
        ("1725148808,4", "1725148808,11", "outside 0 to instance_count"),
    ],
)
def test_a_csv_that_cannot_be_the_original_study_is_refused(tmp_path, old, new, words):
    path = tmp_path / "broken.csv"
    path.write_text(ORIGINAL.replace(old, new))

    with pytest.raises(ValueError, match=words):
        read_original_study(path)


def test_every_stage_can_be_exported(both, tmp_path):
    launches, batches = both
    export(launches, batches, to=tmp_path, created_at=NOW, stage=Stage.RUNNING)

    assert read(tmp_path / "real", "requests")["event"].sum() == 0  # no look showed it running
