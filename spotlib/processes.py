"""Many pieces of work at once: in a process per core of this machine, or on any executor.

Owns the fallback for systems on which no process can be started.  The processes are joblib's: they
start without a fork and without running the caller's script again, so they work in a notebook and
in a script that has no ``if __name__ == "__main__"``.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import closing
from typing import Any, TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")
_IDLE_S = 10  # processes that have nothing more to do end after so long


def each_of(
    work: Callable[[Job], Done],
    jobs: Sequence[Job],
    *,
    executor: Executor | None = None,
    worth_processes: bool = False,
) -> Iterator[Done]:
    """Yield what comes of each job, in their order.

    Without an ``executor`` they are done here, one after another, unless there is so much to do
    that it is ``worth_processes``: processes take half a second to start.

    Raises
    ------
    ValueError
        If the executor forks its processes.
    """
    if executor is not None:
        _refuse_forked(executor)
        return executor.map(work, jobs)
    if worth_processes and len(jobs) > 1:
        return _in_processes(work, jobs)
    return map(work, jobs)


def _in_processes(work: Callable[[Job], Done], jobs: Sequence[Job]) -> Iterator[Done]:
    """Work in as many processes as there are cores to use; here, where that fails."""
    import joblib  # type: ignore[import-untyped]  # noqa: PLC0415 - a small folder does not need it

    # joblib knows the limits of containers, and works here where there is only one core.
    parallel = joblib.Parallel(
        n_jobs=min(joblib.cpu_count(), len(jobs)),
        backend="loky",
        return_as="generator",
        batch_size=1,
        idle_worker_timeout=_IDLE_S,
    )
    finished = 0
    try:
        with closing(parallel(joblib.delayed(work)(job) for job in jobs)) as results:
            for result in results:
                finished += 1
                yield result
    except (OSError, BrokenExecutor):  # no process can start, or one was killed
        yield from map(work, jobs[finished:])


def _refuse_forked(executor: Executor) -> None:
    """Refuse forked processes: they may wait forever for locks that their parent's threads held."""
    context: Any = getattr(executor, "_mp_context", None)  # only a pool of processes has one
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "nothing can be done in forked processes, which may never end; use"
            " ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
        )


def release_memory() -> None:
    """Return free memory of this process to the system: a year of launches leaves 200 MB.

    Only the system's allocator does so.  pyarrow, which makes the texts of tables, has a function
    for it, of the pool in use.
    """
    import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - large, and seldom needed

    pa.set_memory_pool(pa.system_memory_pool())
    pa.default_memory_pool().release_unused()
