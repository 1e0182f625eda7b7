"""A wrong argument of a command is one sentence: what, the value seen, what is allowed."""

import argparse

import pytest

from spotlib.__main__ import main
from spotlib.arguments import Parser, number, one_of, whole_number
from spotlib.errors import ParameterError, did_you_mean

WRONG = [
    ("check -n five", "-n/--count must be a whole number, such as 5, got 'five'"),
    ("check -n 2.5", "-n/--count must be a whole number, such as 5, got '2.5'"),
    ("check -n 0", "n must be a whole number from 1 to 3000 (instances per target), got 0"),
    ("check --timeout-s 10m", "--timeout-s must be a number, such as 2.5, got '10m'"),
    ("check --timeout-s -3", "timeout_s must be above 0 and at most 31622400 (a year), got -3.0"),
    ("check --wait-for runing", "got 'runing'; did you mean running?"),
    ("check --wait-for fulfilled", "must be one of granted, running, usable, ready, got 'fulfil"),
    ("check --methods run_instance", "got 'run_instance'; did you mean run_instances?"),
    ("check --methods run_instances:ondemand", "; did you mean run_instances:on-demand?"),
    ("check --regoin us-east-1", "there is no option --regoin; did you mean --region?"),
    ("check --regoin=us-east-1", "there is no option --regoin; did you mean --region?"),
    ("check --zzz", "there is no option --zzz (spotlib check --help shows what there is)"),
    ("check -r us-east-1", "there is no option -r (spotlib check --help"),
    ("check --reg us-east-1", "there is no option --reg"),
    ("check --region", "--region needs a value: write it after --region (spotlib check --help"),
    ("check --usable=yes", "--usable takes no value, got 'yes': leave it out"),
    ("check t3.nano -n 2 t3.micro", "'t3.micro' stands behind an option: write all words with"),
    ("check t3.nano us-east-1", "instance_type 'us-east-1' is not a name EC2 could know"),
    ("check us-east-1", "that is a region; write a target as t3.nano@us-east-1"),
    ("check t3.nano@us-east-1a", "that is a zone of the region us-east-1; write a target as"),
    ("check t3.nano,t3.micro", "; several are written with spaces between"),
    ("check --endpoint asw", "endpoint 'asw' is unknown: use 'sandbox' (free), 'aws' (costs mon"),
    ("check --endpoint Sandbox", "; did you mean sandbox?"),
    ("chek t3.nano", "there is no command 'chek'; did you mean check? (the commands are check,"),
    ("t3.nano", "there is no command 't3.nano' (the commands are check, sweep, status, policy, pr"),
    ("--endpoint aws check", "there is no option --endpoint"),
    ("probe", "TYPE is missing: write it after the command (spotlib probe --help"),
    ("probe t3.nano --rounds two", "--rounds must be a whole number, such as 5, got 'two'"),
    ("probe t3.nano --every-s soon", "--every-s must be a number, such as 2.5, got 'soon'"),
    ("sweep --dry", "there is no option --dry; did you mean --dry-run?"),
    ("sweep b1", "'b1' is no option, and this command takes nothing else"),
    ("sweep --region mars", "--region must be regions, such as us-east-1, got 'mars'"),
    ("status here", "'here' is no option, and this command takes nothing else"),
    ("export --stage redy", "got 'redy'; did you mean ready?"),
    ("policy run_instance", "; did you mean run_instances?"),
    ("policy --usabel", "there is no option --usabel; did you mean --usable?"),
    ("sandbox archve", "got 'archve'; did you mean archive?"),
    ("sandbox --market calmm", "got 'calmm'; did you mean calm?"),
    ("sandbox --seed x", "--seed must be a whole number, such as 5, got 'x'"),
    ("sandbox --speed fast", "--speed must be a number, such as 2.5, got 'fast'"),
    ("sandbox --date 2025-13-01", "--date must be a date, or a date and a time, such as 2025-05-"),
    ("sandbox --date 1999-01-01", "--date must be in a year from 2007 to 2099, got '1999-01-01'"),
    ("sandbox --fault trottled", "got 'trottled'; did you mean throttled?"),
    ("sandbox --fault throttled:rat=1", "got rat; did you mean rate?"),
    ("sandbox --fault throttled:rate=x", "--fault is wrong: rate must be a number, got 'x'"),
    ("sandbox --fault throttled:nth=1.5", "--fault is wrong: nth must be a whole number, got '1."),
    ("sandbox --events lost_shar=0.1", "got 'lost_shar'; did you mean lost_share?"),
    ("sandbox archive --days 40", "2024-08 has the days 1 to 31, got 40"),
    ("sandbox archive --days first", "--days must be a whole number, such as 5, got 'first'"),
    ("sandbox archive --form xml", "--form must be one of csv.gz, csv, got 'xml'"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_argument_is_one_sentence_that_says_what_is_allowed(words, said, capsys):
    assert main(words.split()) == 2

    shown = capsys.readouterr()
    [line] = shown.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert shown.out == ""


@pytest.mark.parametrize(
    "command",
    ["check", "sweep", "status", "policy", "probe", "export", "sandbox", "sandbox archive"],
)
def test_each_command_explains_itself_under_its_own_name(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: spotlib {command} [-h]")


def test_what_is_right_is_read():
    parser = Parser(prog="try")
    parser.add_argument("names", nargs="*")
    parser.add_argument("-n", "--count", type=whole_number)
    parser.add_argument("--every-s", type=number)
    parser.add_argument("--stage", type=one_of("ready", "running"))

    given = parser.read(["a", "b", "-n", "-5", "--every-s", "1e3", "--stage", "running"])

    assert vars(given) == {"names": ["a", "b"], "count": -5, "every_s": 1000.0, "stage": "running"}


def test_an_option_that_is_needed_and_missing_is_named():
    parser = Parser(prog="try")
    parser.add_argument("--folder", required=True)

    with pytest.raises(ParameterError, match=r"^--folder is missing: .* \(try --help shows"):
        parser.read([])


def test_of_a_sentence_of_argparse_that_is_not_known_nothing_is_lost():
    parser = Parser(prog="try")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--one", action="store_true")
    group.add_argument("--two", action="store_true")

    with pytest.raises(ParameterError, match=r"^--two not allowed with argument --one \(try --h"):
        parser.read(["--one", "--two"])
    with pytest.raises(ParameterError, match=r"^anything else \(try --help"):
        parser.error("anything else")


def test_a_word_is_compared_without_regard_to_capitals_and_only_a_close_one_is_offered():
    assert did_you_mean("RUN-instances", ["run_instances", "walk"]) == (
        "; did you mean run_instances?"
    )
    assert did_you_mean("budget", ["Budget_usd"]) == "; did you mean Budget_usd?"
    assert did_you_mean("n", ["seed"]) == did_you_mean("", ["seed"]) == ""
    assert did_you_mean(7, ["17"]) == "; did you mean 17?"


def test_a_value_of_another_word_list_is_refused_for_argparse_to_name():
    with pytest.raises(argparse.ArgumentTypeError, match="must be one of a, b, got 'c'"):
        one_of("a", "b")("c")
