"""How numbers, names and times are said."""

import pytest

from spotlib.words import counted, listed, one_line, percent, span_words, which, within_words


def test_a_share_is_said_in_one_form():
    assert percent(0.456) == "46 %"
    assert percent(0.0004, digits=2) == "0.04 %"


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
