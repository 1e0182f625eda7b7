"""How numbers, names and times are said."""

import pytest

from spotlib.words import (
    counted,
    listed,
    one_line,
    percent,
    rounded,
    span_words,
    which,
    within_words,
)


def test_a_share_is_said_in_one_form():
    assert percent(0.456) == "46 %"
    assert percent(0.0004, digits=2) == "0.04 %"


@pytest.mark.parametrize("noise", [-1e-12, 0.0, 1e-12])
def test_a_half_is_rounded_up_whatever_arithmetic_left_of_it(noise):
    assert [rounded(each + noise, 2) for each in (0.375, 0.125, 0.625)] == ["0.38", "0.13", "0.63"]
    assert rounded(-0.125 + noise, 2) == "-0.13"
    assert percent(0.125 + noise) == "13 %"
    assert percent(0.0625 + noise, digits=1) == "6.3 %"
    assert rounded(0.0 + noise, 2) == "0.00"
    assert [rounded(each, 1) for each in (float("inf"), float("nan"))] == ["inf", "nan"]


def test_what_a_file_says_is_one_printable_line_of_bounded_length():
    assert one_line("a\tb\nc\0d\udcffe") == r"a b c\x00d\udcffe"
    assert one_line("ab" * 6, longest=9) == "ababab ... bab"
    assert one_line("ab" * 6, longest=12) == "ab" * 6


def test_one_is_singular():
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert counted(2, "batch") == "2 batches"


def test_names_are_listed_as_in_speech():
    assert [listed("abc"[:number]) for number in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_of_several_that_are_equal_none_is_singled_out():
    assert [which(list("abcd")[:number], of=4) for number in (1, 2, 3, 4)] == [
        *("a", "a and b", "3 of 4 (such as a)", "all 4")
    ]
    assert [which(list("ab")[:number], of=number) for number in (1, 2)] == ["a", "both"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 minutes"),
        (70, "1 minute"),
        (3600, "1 hour"),
        (68_400, "19 hours"),
        (216_000, "2.5 days"),
    ],
)
def test_a_span_has_the_largest_unit_of_which_there_is_one(seconds, words):
    assert span_words(seconds) == words


def test_a_span_of_less_than_half_a_minute_is_one_moment():
    assert [within_words(each) for each in (0, 29, 70)] == [
        *("at one moment", "at one moment", "within 1 minute")
    ]
