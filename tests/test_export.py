"""Exports are readable at once, described, joinable, and free of identities."""

import argparse
import os
import re
import shutil
import stat

import numpy as np
import pandas as pd
import polars as pl
import pytest
from launch_rows import INF, drawn, run_rows, table_of
from pyarrow import parquet

from spotlib import export as exports
from spotlib.__main__ import main
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect_in_process
from spotlib.export import export
from spotlib.forecast.training import COLUMNS
from spotlib.model import Stage, Target, plan_launches
from spotlib.record.columns import BATCH_COLUMNS
from spotlib.record.tables import load_batches, load_launches, load_polls
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import World

ACCOUNT, HOST = "987654321098", "https://ec2.internal.example.org:8443"
SALT = b"pepper"


def real(number=0, **fields):
    """Return a run as on a private EC2-compatible endpoint."""
    batch = {"batch_id": "20250102T030405Z-beef42", "endpoint": HOST, "simulated": False}
    ids = {"world": None, "instance_id": f"i-0123456789abcde{number:02x}"}
    return run_rows([20.0, INF], number=number, **batch, **ids, **fields)


def batch_of(launches):
    """Return the batches of some launches, each with an account."""
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
    """Return a table from its Parquet file, by a reader other than ours."""
    return pl.read_parquet(folder / f"{name}.parquet")


def test_simulated_and_real_are_never_in_one_file(both, tmp_path):
    export(*both, to=tmp_path)

    for kind, simulated in (("simulated", True), ("not-aws", False)):
        for name in COLUMNS:
            assert read(tmp_path / kind, name)["simulated"].unique().to_list() == [simulated]
    assert "SIMULATED" in (tmp_path / "simulated" / "README.md").read_text()
    assert "SIMULATED" not in (tmp_path / "not-aws" / "README.md").read_text()


def test_parquet_and_csv_hold_the_same_with_units_kept(tmp_path):
    launches = drawn(targets=4, rounds=3)
    export(launches, batch_of(launches), to=tmp_path)
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
    export(*both, to=tmp_path)
    dictionary = pd.read_csv(tmp_path / "not-aws" / "dictionary.csv").groupby("table")["column"]

    for name in COLUMNS:
        assert dictionary.agg(list)[name] == read(tmp_path / "not-aws", name).columns


def test_pandas_reads_the_parquet(both, tmp_path):
    pytest.importorskip("pyarrow")
    export(*both, to=tmp_path)
    requests = pd.read_parquet(tmp_path / "not-aws" / "requests.parquet")

    assert requests["upper_s"].tolist() == [20.0, INF, 20.0, INF]
    assert requests["world"].isna().all()
    assert requests["sps"].dtype == float


def snippets(folder):
    """The Python code in an export's README: what pandas alone runs, and what needs lifelines."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    pandas_only, with_lifelines = found
    return pandas_only, with_lifelines


def test_the_readmes_code_counts_what_was_ready_of_each_target(tmp_path, monkeypatch):
    launches = drawn(targets=4, rounds=3)
    export(launches, batch_of(launches), to=tmp_path)
    monkeypatch.chdir(tmp_path / "simulated")
    names: dict[str, pd.DataFrame] = {}
    exec(snippets(tmp_path / "simulated")[0], names)

    shares = names["by_target"]["ready"].agg(["mean", "count"])
    ready = launches["ready_by_s"] <= 180
    assert len(shares) == 4
    assert shares.index.nlevels == 2  # the type, and the region or zone
    assert (shares["mean"] * shares["count"]).sum() == pytest.approx(ready.sum())
    assert shares["count"].sum() == len(launches)


def test_the_readmes_code_for_lifelines_draws_a_curve_per_target(tmp_path, monkeypatch):
    pytest.importorskip("lifelines")
    launches = drawn(targets=4, rounds=3)
    export(launches, batch_of(launches), to=tmp_path)
    monkeypatch.chdir(tmp_path / "simulated")
    names: dict[str, pd.DataFrame] = {}
    for code in snippets(tmp_path / "simulated"):
        exec(code, names)

    assert names["curve"].predict(0.0).mean() == pytest.approx(1.0)


def test_a_public_export_holds_no_identity_in_any_byte(both, tmp_path):
    written = export(*both, to=tmp_path, salt=SALT)

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
        export(*both, to=tmp_path / name, salt=salt)
        tables[name] = read(tmp_path / name / "not-aws", "requests")
    batches = read(tmp_path / "one" / "not-aws", "batches")

    assert tables["one"].join(batches, on="batch_id").height == 4
    assert tables["one"].equals(tables["two"])
    assert set(tables["one"]["batch_id"]).isdisjoint(tables["three"]["batch_id"])
    assert tables["one"]["request_id"].n_unique() == 4
    assert batches["account"].str.starts_with("account-").all()


def test_what_another_program_answered_for_ec2_is_not_among_the_real(tmp_path):
    amazon = [{**row, "endpoint": "aws", "batch_id": "20250102T030405Z-a2"} for row in real()]
    launches = table_of(real(1), amazon, run_rows([9.0]))
    export(launches, batch_of(launches), to=tmp_path)

    kinds = {"not-aws": HOST, "real": "aws", "simulated": "sandbox"}
    for kind, endpoint in kinds.items():
        assert read(tmp_path / kind, "requests")["endpoint"].unique().to_list() == [endpoint]
        assert ("NOT AWS" in (tmp_path / kind / "README.md").read_text()) is (kind == "not-aws")


def test_the_names_aws_and_sandbox_are_no_secret(tmp_path):
    rows = [{**row, "endpoint": "aws"} for row in real()]
    launches = table_of(rows, run_rows([9.0]))
    export(launches, batch_of(launches), to=tmp_path, salt=SALT)

    assert set(read(tmp_path / "simulated", "training")["endpoint"]) == {"sandbox"}
    assert set(read(tmp_path / "real", "training")["endpoint"]) == {"aws"}


def test_a_name_that_was_not_replaced_stops_the_export(both, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "aliased", lambda table, *_: table)

    with pytest.raises(ValueError, match=r"training would still hold 'w-1' in column world"):
        export(*both, to=tmp_path, salt=SALT)
    assert not list(tmp_path.iterdir())


def test_an_id_in_the_words_of_a_public_readme_stops_the_export(both, tmp_path):
    with pytest.raises(ValueError, match=r"README.md would hold '987654321098'.* look at --lic"):
        export(*both, to=tmp_path, salt=SALT, licence=f"all rights at account {ACCOUNT}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [None, SALT])
def test_a_public_and_a_private_export_never_share_a_folder(both, tmp_path, first):
    export(*both, to=tmp_path, salt=first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    with pytest.raises(ValueError, match=r"holds something else than a p.* export"):
        export(*both, to=tmp_path, salt=None if first else SALT)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    export(*both, to=tmp_path, salt=first)  # the same again is no mixture
    for readme in tmp_path.glob("*/README.md"):  # an older export, which does not say what it is
        readme.write_text("# Launch times")
    with pytest.raises(ValueError, match="holds something else"):
        export(*both, to=tmp_path, salt=first)


def test_a_private_export_is_for_its_owner_only(both, tmp_path):
    for salt, mode in ((None, 0o600), (SALT, 0o644)):
        for path in export(*both, to=tmp_path / f"{mode}", salt=salt):
            assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_files_hold_no_metadata_of_the_machine_or_of_pandas(both, tmp_path):
    for path in export(*both, to=tmp_path, salt=SALT):
        if path.suffix == ".parquet":
            assert set(parquet.read_metadata(path).metadata or {}) <= {b"ARROW:schema"}
            assert parquet.read_schema(path).metadata is None


def test_no_cell_of_a_csv_is_a_formula_and_the_text_can_be_restored(tmp_path):
    signs = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d")
    texts = [f"{sign}cmd|' /C calc'!A0" for sign in signs]
    launches = table_of(*map(real, range(5)))
    each = [*texts, texts[0]]
    export(launches.assign(zone_id=each, method=each), batch_of(launches), to=tmp_path)

    for name, columns in (("requests", ["zone_id", "method"]), ("training", ["method"])):
        table = pd.read_csv(tmp_path / "not-aws" / f"{name}.csv", dtype=str, lineterminator="\n")
        for column in columns:
            restored = read(tmp_path / "not-aws", name)[column]
            assert set(table[column]) == {f"'{text}" for text in texts}
            assert set(restored) == set(texts)
    assert "drop it on reading" in (tmp_path / "not-aws" / "README.md").read_text()


def test_the_words_of_a_log_make_no_link_and_no_html_in_a_readme(both, tmp_path):
    launches, batches = both
    evil = "<script>alert(1)</script> [x](javascript:alert(1))\n# heading"
    export(launches.assign(method=evil, wanted="running"), batches, to=tmp_path)
    readme = (tmp_path / "not-aws" / "README.md").read_text()

    assert "was not watched for" in readme
    assert r"\<script\>" in readme
    assert r"\[x\]" in readme
    assert "\n# heading" not in readme


def test_a_public_readme_names_the_licence_and_spotlake_where_targets_come_from_it(both, tmp_path):
    export(*both, to=tmp_path / "one", salt=SALT, licence="CC-BY-4.0", spotlake=True)
    export(*both, to=tmp_path / "two", salt=SALT)
    real, simulated = (
        (tmp_path / "one" / kind / "README.md").read_text() for kind in ("not-aws", "simulated")
    )

    assert "licensed CC-BY-4.0." in real
    assert "CC BY-NC 4.0" in real
    assert "IISWC" in real
    assert "licensed CC-BY-4.0." in simulated
    assert "NC" not in simulated
    assert "not named a licence yet" in (tmp_path / "two" / "not-aws" / "README.md").read_text()


def test_a_table_without_rows_keeps_the_types_of_its_columns(tmp_path):
    launches = table_of(run_rows([INF], outcome="refused", kind="quota"))
    export(launches, batch_of(launches), to=tmp_path)
    empty = pd.read_parquet(tmp_path / "simulated" / "training.parquet")

    assert empty.empty
    assert str(empty["sent_at"].dtype) == "datetime64[us, UTC]"
    assert empty["ready"].dtype == int
    assert empty["weight"].dtype == float


def test_the_readme_names_what_was_left_out(tmp_path):
    quota = run_rows([INF], number=1, outcome="refused", kind="quota")
    short = run_rows([20.0], number=2, wanted="running")
    launches = table_of(run_rows([20.0]), quota, short)
    export(launches, batch_of(launches), to=tmp_path)
    readme = (tmp_path / "simulated" / "README.md").read_text()

    assert "refused (quota): says nothing about the market: 1 run, 1 request" in readme
    assert "ready was not watched for" in readme


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A real log of the collect loop."""
    world = World(seed=3)
    connection = connect_in_process(world, lambda client: attach(world, client))
    targets = [Target("t3.nano", "sa-east-1"), Target("t4g.medium", "ap-northeast-3")]
    log = tmp_path_factory.mktemp("recorded") / "20240901T000000Z-abcdef.jsonl"
    collect_batch(connection, plan_launches(targets, count=3), log=log, seed=1).require()
    return log


@pytest.fixture
def results(recorded, tmp_path):
    """A results folder with that log."""
    (tmp_path / "launches").mkdir()
    shutil.copy(recorded, tmp_path / "launches")
    return tmp_path


def run(*words):
    parser = argparse.ArgumentParser()
    exports.add_arguments(parser)
    return exports.run(parser.parse_args(list(words)))


def test_the_command_exports_the_logs_of_the_loop(results, capsys):
    assert run("--results", str(results), "--public") == 0
    folder = results / "export-public" / "simulated"
    printed = capsys.readouterr().out.split()
    training, polls = read(folder, "training"), load_polls(results / "launches")

    assert str(folder / "training.parquet") in printed
    for (plan,), rows in training.group_by("plan"):
        shown = polls[(polls["plan"] == plan) & (polls["answered_s"] <= 300.0)]
        assert rows.filter(pl.col("elapsed_s") == 300.0)["ready"].item() == shown["ready"].max()
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


def test_a_salt_is_never_published_with_the_tables(results):
    with pytest.raises(ValueError, match="would lie in the folder that you publish"):
        run("--results", str(results), "--public", "--to", str(results))


def test_a_selection_without_its_columns_is_refused_in_one_sentence(results):
    (results / "selection").mkdir()
    (results / "selection" / "x.csv").write_text("rank,region\n1,sa-east-1\n")

    with pytest.raises(ValueError, match=r"selection .*x.csv' lacks the columns"):
        run("--results", str(results), "--public")


def test_an_unknown_name_is_an_alias_and_that_is_said(results, capsys):
    log = next((results / "launches").iterdir())
    log.write_text(log.read_text().replace('"status_code":"fulfilled"', '"status_code":"alices"'))

    assert run("--results", str(results), "--public") == 0
    said = capsys.readouterr().err
    held = read(results / "export-public" / "simulated", "requests")["status_code"]

    assert said.startswith("status_code: aliases replace 1 unknown name, such as 'alices'; if A")
    assert held.drop_nulls().str.contains("^status-code-[0-9a-f]{16}$").all()


def test_of_what_is_not_exported_no_alias_is_said(results, capsys):
    """The log says why there is no T3; no table does."""
    log = next((results / "launches").iterdir())
    text = log.read_text()
    refused = text.replace('"t3_source":"not asked"', '"t3_source":"not known: throttled"')
    log.write_text(refused)

    assert run("--results", str(results), "--public") == 0
    assert "aliases" not in capsys.readouterr().err
    assert refused != text


def test_nothing_to_export_is_said(recorded, tmp_path, capsys):
    (tmp_path / "launches").mkdir()
    batch = recorded.read_text().splitlines(keepends=True)[0]
    (tmp_path / "launches" / recorded.name).write_text(batch)
    assert run("--results", str(tmp_path)) == 1
    assert "no launch to export" in capsys.readouterr().err


def test_every_stage_can_be_exported(both, tmp_path):
    launches, batches = both
    export(launches, batches, to=tmp_path, stage=Stage.RUNNING)

    assert read(tmp_path / "not-aws", "requests")["event"].sum() == 0  # no poll showed it running


@pytest.mark.parametrize("kind", ["simulated", "real", "not-aws"])
def test_no_folder_of_an_export_changes_its_use(kind, tmp_path):
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "README.md").write_text("**PRIVATE**")
    launches, batches = load_launches([]), load_batches([])

    with pytest.raises(ValueError, match=f"{kind}.* holds something else than a public export"):
        export(launches, batches, to=tmp_path, salt=b"x" * 32)


@pytest.mark.parametrize("option", ["--licence", "--salt-file"])
def test_what_is_for_a_public_export_only_is_refused_without_it(results, capsys, option):
    assert main(["export", "--results", str(results), option, "x"]) == 2
    assert f"error: {option} is for a public export: add --public" in capsys.readouterr().err
    assert not (results / "export").exists()


def test_where_nothing_can_be_written_is_one_sentence(results, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")

    assert main(["export", "--results", str(results), "--to", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(f"error: '{file}/simulated' cannot be written to (Not a directory): ")
    assert file.read_text() == "mine"


def test_probes_are_no_launches_and_have_tables_of_their_own_stage(tmp_path):
    """Beside launches they are in their own history, and the README says why they are no rows."""
    granted = {"granted_after_s": 1.0, "granted_by_s": 1.6, "outcome": "granted"}
    probe = {"wanted": "granted", "timeout_s": 30.0, "watched_s": 1.0, **granted}
    probes = [row | probe for row in run_rows([INF], number=1)]
    launches = table_of(run_rows([INF]), probes, run_rows([200.0], number=2))

    export(launches, batch_of(launches), to=tmp_path / "ready")
    export(launches, batch_of(launches), to=tmp_path / "granted", stage=Stage.GRANTED)

    ready = read(tmp_path / "ready" / "simulated", "requests")
    assert ready["wanted"].to_list() == ["ready", "ready"]
    assert ready["last_share"].to_list() == [None, 1.0]
    readme = (tmp_path / "ready" / "simulated" / "README.md").read_text()
    assert "granted: ready was not watched for, only granted" in readme
    found = read(tmp_path / "granted" / "simulated", "requests")
    assert found["wanted"].to_list() == ["granted"]
    assert found["cause"].to_list() == ["granted"]
    assert found["upper_s"].to_list() == [1.6]
