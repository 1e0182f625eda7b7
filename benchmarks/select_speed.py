"""The study's way and ours from archive to ranking: time, rows per second, peak memory.

    python benchmarks/select_speed.py                 one day and three, all forms (some minutes)
    python benchmarks/select_speed.py --month FOLDER  a month written by select_archive.py

Each figure is the median of ``--repeat`` runs in separate processes.  The ways take turns, so a
noisy machine affects all of them alike: read the ratios.

study   reads every file with pandas, concatenates, and goes through the pairs one by one
tuned   the same as fast as pandas allows: four columns only, one vectorised group-by
limit   decompresses and tokenises those four columns and does nothing else, on all processors
ours    counts, validates all values and ranks, with an empty cache; days on all processors, whose
        start and imports are part of it
one     the same, one day after another in one process
cached  ranks from the counts of the run before

Memory is the peak of this process and, after a +, of the largest of the processes it started.
"""

# ruff: noqa: PLC0415 (each way imports only what it needs, because its memory is measured)
import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

COLUMNS = ["InstanceType", "Region", "SPS", "IF"]
FORMS = ["csv", "csv.gz", "zip", "parquet"]
WAYS = ["study", "tuned", "limit", "ours", "one", "cached"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--month", type=Path, help="read this month instead")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--forms", nargs="*", default=FORMS)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "FORM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_here(*options.one)))
    elif options.month:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["SPOTLIB_BENCHMARK_CACHE"] = cache
            run_apart("cached", "csv.gz", options.month)  # fills the cache
            ways = ("limit", "ours", "one", "cached")
            in_turns(ways, "month", "csv.gz", options.month, options.repeat)
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    for days in (1, 3):
        sources = write_archives(folder / f"{days} days", days)
        for form in options.forms:
            os.environ["SPOTLIB_BENCHMARK_CACHE"] = str(folder / f"cache {days} {form}")
            in_turns(WAYS, f"{days} d", form, sources[form], options.repeat)


def in_turns(ways: Sequence[str], what: str, form: str, folder: Path, repeat: int) -> None:
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeat):
        for way in ways:
            runs[way].append(run_apart(way, form, folder))
    for way in ways:
        show(way, f"{what} {form}", runs[way], runs)


def write_archives(folder: Path, days: int) -> dict[str, Path]:
    from select_archive import write_day, write_parquet, write_zip

    for after in range(days):
        for form in ("csv", "csv.gz"):
            write_day(folder / form, date(2024, 8, 8) + timedelta(days=after), form=form)
    (folder / "zip").mkdir()
    write_zip(folder / "csv.gz", folder / "zip" / "aws-2024-08.zip")
    write_parquet(folder / "csv.gz", folder / "parquet")
    return {form: folder / form for form in FORMS}


def run_apart(way: str, form: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", way, form, str(folder)]
    # numpy's linear algebra, which no way needs, spins for a tenth of a second after its import.
    quiet = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=quiet)
    return json.loads(done.stdout)


def run_here(way: str, form: str, folder: str) -> dict[str, float]:
    """Time one way after its imports; peak memory includes them."""
    work = {"study": study, "tuned": study, "limit": limit}.get(way, ours)
    if work is ours:
        import spotlib.select.archive.counts
        import spotlib.select.cov  # noqa: F401

        if way == "cached" or form == "parquet":
            import pyarrow.parquet  # noqa: F401
    elif way in ("study", "tuned"):
        import pandas  # noqa: F401
    else:
        import polars  # noqa: F401
    os.environ.setdefault("SPOTLIB_BENCHMARK_CACHE", "")
    before, cpu = time.perf_counter(), time.process_time()
    rows = work(Path(folder), form, way)
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
    others = children()
    return {
        "seconds": seconds,
        "cpu": cpu + sum(map(cpu_s, others)),
        "peak_mb": peak_mb(Path("/proc/self")),
        "child_mb": max(map(peak_mb, others), default=0.0),
        "rows": rows,
    }


def children() -> list[Path]:
    """Return the processes that this one started and that have not ended, idle ones included."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [Path("/proc", pid) for task in tasks for pid in task.read_text().split()]


def cpu_s(process: Path) -> float:
    user, system = process.joinpath("stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_mb(process: Path) -> float:
    """Peak memory of a process; ru_maxrss would start at that of its parent."""
    status = process.joinpath("status").read_text().splitlines()
    [line] = [line for line in status if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def study(folder: Path, form: str, way: str) -> int:
    """Concatenate all snapshots, std over mean by (type, region), multiply, drop zeros."""
    import pandas as pd

    columns = COLUMNS if way == "tuned" else None
    if form == "parquet":
        files = sorted(folder.rglob("*.parquet"))
        parts = [pd.read_parquet(path, columns=columns)[COLUMNS] for path in files]
    else:
        parts = [pd.read_csv(data, usecols=columns)[COLUMNS] for data in _opened(folder, form)]
    table = pd.concat(parts)
    grouped = table.groupby(["InstanceType", "Region"])[["SPS", "IF"]]
    if way == "tuned":
        cov = grouped.std() / grouped.mean()
    else:
        cov = grouped.apply(lambda rows: rows.std() / rows.mean())
    score = cov["SPS"] * cov["IF"]
    score[score != 0].sort_values(ascending=False)
    return len(table)


def limit(folder: Path, form: str, _: str) -> int:
    """Decompress and tokenise the four columns on threads, and count the rows."""
    import polars as pl

    def rows_of(data: bytes) -> int:
        if form == "parquet":
            return pl.read_parquet(data, columns=COLUMNS).height
        return pl.read_csv(data, columns=COLUMNS).height

    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as threads:
        if form != "zip":
            files = sorted(folder.rglob(f"*.{form}"))
            return sum(threads.map(lambda path: rows_of(path.read_bytes()), files))
        [path] = folder.rglob("*.zip")
        archive = stack.enter_context(ZipFile(path))
        return sum(threads.map(lambda name: rows_of(archive.read(name)), archive.namelist()))


def ours(folder: Path, form: str, way: str) -> int:
    from spotlib.select.archive.counts import read_counts
    from spotlib.select.cov import score_targets, variation

    cache = os.environ["SPOTLIB_BENCHMARK_CACHE"]
    if way == "cached":
        reading = read_counts(folder, cache=cache)
        if not reading.days["from_cache"].all():
            return ours(folder, form, way)
    else:
        executor = ThreadPoolExecutor(1) if way == "one" else None
        reading = read_counts(folder, cache=None, executor=executor)
    score_targets(variation(reading.counts))
    return int(reading.days["rows"].sum())


def _opened(folder: Path, form: str) -> Iterator[object]:
    if form != "zip":
        yield from sorted(folder.rglob(f"*.{form}"))
        return
    for path in sorted(folder.rglob("*.zip")):
        with ZipFile(path) as archive:
            yield from (
                BytesIO(gzip.decompress(archive.read(name))) for name in sorted(archive.namelist())
            )


def ratio(some: list[dict[str, float]], others: list[dict[str, float]], key: str) -> float:
    """Median ratio of runs adjacent in time."""
    return statistics.median(one[key] / other[key] for one, other in zip(some, others, strict=True))


def show(
    way: str, what: str, runs: list[dict[str, float]], others: dict[str, list[dict[str, float]]]
) -> None:
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    line = (
        f"{what:12} {way:7} {middle['seconds']:7.2f} s  {middle['cpu']:7.2f} s cpu"
        f"  {middle['rows'] / middle['seconds'] / 1e6:7.2f} M rows/s"
        f"  {middle['peak_mb']:6.0f} + {middle['child_mb']:3.0f} MB"
    )
    if "study" in others:
        faster = ratio(others["study"], runs, "seconds")
        smaller = ratio(others["study"], runs, "peak_mb")
        line += f"  {faster:6.2f} x faster  {smaller:5.2f} x smaller"
    over = [ratio(runs, others["limit"], key) for key in ("cpu", "seconds")]
    line += f"  {over[0]:5.2f} x limit cpu  {over[1]:5.2f} x limit s"
    print(line, flush=True)


if __name__ == "__main__":
    main()
