"""Days counted at once: in a process per core of this machine, or on any executor.

Owns how many processes there are, and what happens where none can be started.  The processes are
joblib's: they start without a fork and without running the caller's script again, so they work in
a notebook and in a script that has no ``if __name__ == "__main__"``.  Knows no file format.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import closing
from functools import partial
from typing import Any, Final

from spotlib.select.archive.day import Day, count_day
from spotlib.select.archive.files import File

# Processes take half a second to start, so there must be about a second of work: so many bytes,
# or so many small files.
_WORTH_BYTES: Final = 1 << 25
_WORTH_FILES: Final = 500
_IDLE_S: Final = 10  # processes that have nothing more to do end after so long

_Job = Sequence[File]
_Count = Callable[[_Job], Day]


def count_days(
    jobs: Sequence[_Job], executor: Executor | None, *, skip_bad_files: bool
) -> Iterator[Day]:
    """Count one day per job, and yield each as it is finished."""
    count = partial(count_day, skip_bad_files=skip_bad_files)
    if executor is not None:
        return _on_executor(executor, count, jobs)
    if _is_worth_processes(jobs):
        return _in_processes(count, jobs)
    return map(count, jobs)


def _is_worth_processes(jobs: Sequence[_Job]) -> bool:
    files = [file for job in jobs for file in job]
    is_much = len(files) >= _WORTH_FILES or sum(file.size for file in files) >= _WORTH_BYTES
    return len(jobs) > 1 and is_much


def _in_processes(count: _Count, jobs: Sequence[_Job]) -> Iterator[Day]:
    """Count in as many processes as there are cores to use; here, what they could not count."""
    import joblib  # type: ignore[import-untyped]  # noqa: PLC0415 - one day does not need it

    left = {job[0].day: job for job in jobs}
    # joblib knows the limits of containers, and counts here where there is only one core.
    parallel = joblib.Parallel(
        n_jobs=min(joblib.cpu_count(), len(jobs)),
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,
        idle_worker_timeout=_IDLE_S,
    )
    try:
        with closing(parallel(joblib.delayed(count)(job) for job in jobs)) as days:
            for day in days:
                del left[day.day]
                yield day
    except (OSError, BrokenExecutor):  # no process can start, or one was killed
        yield from map(count, left.values())


def _on_executor(executor: Executor, count: _Count, jobs: Sequence[_Job]) -> Iterator[Day]:
    _refuse_forked(executor)
    futures = {executor.submit(count, job) for job in jobs}
    try:
        for future in as_completed(futures):
            futures.discard(future)  # a kept future would hold its day in memory
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _refuse_forked(executor: Executor) -> None:
    """Refuse forked processes: they may wait forever for locks that their parent's threads held."""
    context: Any = getattr(executor, "_mp_context", None)  # only a pool of processes has one
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "days cannot be counted in forked processes; use"
            " ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
        )
