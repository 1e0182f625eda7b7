"""Work is done at once where that pays, and here where it cannot be."""

import os
import platform
import resource
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import joblib
import pytest

from spotlib.processes import each_of, release_memory


def work(number, *, kills=None):
    """Which process did it; ``kills`` is the one that may not be killed."""
    if kills is not None and os.getpid() != kills and number == 1:
        os._exit(9)
    return number, os.getpid()


def test_a_little_is_done_here_one_after_another():
    assert list(each_of(work, range(3))) == [(number, os.getpid()) for number in range(3)]


def test_what_is_worth_it_is_done_in_other_processes_and_comes_in_order():
    found = list(each_of(work, range(6), worth_processes=True))

    assert [number for number, _ in found] == list(range(6))
    assert (os.getpid() in {pid for _, pid in found}) == (joblib.cpu_count() == 1)


def test_an_executor_does_it_in_order():
    with ThreadPoolExecutor(2) as executor:
        found = list(each_of(work, range(6), executor=executor, worth_processes=True))

    assert found == [(number, os.getpid()) for number in range(6)]


def test_if_a_process_is_killed_the_rest_is_done_here():
    survives = partial(work, kills=os.getpid())

    found = list(each_of(survives, range(4), worth_processes=True))

    assert [number for number, _ in found] == list(range(4))
    assert os.getpid() in {pid for _, pid in found}


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others give back of themselves")
def test_memory_that_is_free_between_what_is_kept_goes_back_to_the_system():
    many = [bytes(1000) for _ in range(200_000)]
    kept = many[::1000]
    del many
    before = _resident_bytes()

    release_memory()

    assert before - _resident_bytes() > 100_000_000
    assert len(kept) == 200
