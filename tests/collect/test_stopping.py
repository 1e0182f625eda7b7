"""A signal asks for an orderly end: it is answered at once, and further ones change nothing."""

import os
import signal
import threading

import pytest

from spotlib.collect.stopping import Stopping, rewrite_line, write_line

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_says_what_the_stop_does_and_the_next_that_it_is_under_way(number, capfd):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Stopping() as stopping:
        stopping.words = lambda: "stopping: cancelling 2 requests"
        assert (stopping.by, stopping.twice) == (None, False)
        signal.raise_signal(number)
        assert (stopping.by, stopping.twice) == (number.name, False)
        signal.raise_signal(signal.SIGTERM)

    assert (stopping.by, stopping.twice) == ("SIGTERM", True)
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert capfd.readouterr().err.splitlines() == [
        f"stopping: cancelling 2 requests ({number.name})",
        "still cleaning up; please wait (SIGTERM)",
    ]


def test_a_stop_that_cannot_say_what_it_does_is_a_stop(capfd):
    with Stopping() as stopping:
        stopping.words = lambda: 1 // 0
        signal.raise_signal(signal.SIGINT)

    assert stopping.by == "SIGINT"
    assert capfd.readouterr().err == "stopping (SIGINT)\n"


def test_in_another_thread_signals_are_left_to_the_main_one():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter():
        with Stopping():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()

    assert seen == [before]


def test_in_a_terminal_a_line_is_written_over_the_last_one_and_cut_to_fit(monkeypatch, capfd):
    rewrite_line("not in a terminal")
    write_line("not in a terminal")
    plain = capfd.readouterr().err
    monkeypatch.setattr(os, "isatty", lambda file: file == 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((10, 24)))
    rewrite_line("0123456789abc")
    write_line("0123456789abc")

    assert plain == "not in a terminal\n"
    assert capfd.readouterr().err == "\r\x1b[K012345678\r\x1b[K0123456789abc\n"
