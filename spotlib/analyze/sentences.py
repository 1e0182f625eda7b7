"""The banner, the sentences and the formatted tables that ``03_analyze`` shows.

Wording only: every estimate comes from elsewhere, and what is unknown is said to be unknown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from spotlib.analyze.comparable import arm_names, runs_by_arm, stopped
from spotlib.analyze.compare import SIGNIFICANT
from spotlib.analyze.intervals import FEWEST_RUNS, Estimate
from spotlib.analyze.launch_times import WATCHED, LaunchTimes, recorded
from spotlib.analyze.load import Comparable
from spotlib.analyze.summaries import common_horizon_s, common_n, planned_s
from spotlib.model import Stage
from spotlib.words import counted, listed, percent, rounded, which, within_words

_MEANING = {
    Stage.GRANTED: "EC2 has decided for the request, or it has an instance",
    Stage.FULFILLED: "the request has an instance",
    Stage.RUNNING: 'EC2 says that the instance is "running"',
    Stage.USABLE: "the guest says so on its console: it has reached multi-user",
    Stage.READY: "the instance has passed EC2's status checks",
}
_MOMENT_S = 180  # beside the end, the moment of the table that the answer names
_WHOLE_FROM_S = 100  # from here on times are said in whole seconds
_MOST_NAMES = 8  # of a list in a sentence


def data_sentence(data: Comparable, stage: Stage | None = None) -> str:
    """Whether the data are of AWS, how many there are, and what could not be read.

    Counted are runs that recorded the stage, by default the one that was waited for.
    """
    origin = "Measured on AWS"
    if data.simulated:
        origin = "SIMULATED DATA: they say nothing about AWS"
    elif data.mark:
        endpoint = data.launches["endpoint"].iloc[0]
        origin = f"{data.mark} but {endpoint}: these data say nothing about AWS"
    arms = set(arm_names(data.launches))
    counting = recorded(data.launches, stage or data.wanted)
    words = f"{origin}. {counted(counting['target'].nunique(), 'target')}"
    words += f", {size_words(counting)}, asked for by {listed(sorted(arms))}."
    if data.wanted is Stage.GRANTED:
        words += " These are probes: EC2 granted an instance or not, and it was ended at once."
    if early := stopped(data.launches)["run"].nunique():
        words += (
            f" Watching stopped early in {counted(early, 'run')}, which "
            f"{'counts as far as it was' if early == 1 else 'count as far as they were'} watched."
        )
    if not data.not_read:
        return words
    return f"{words} {counted(data.not_read, 'file')} could not be read: see what was left out."


def choice_sentences(data: Comparable) -> Iterator[str]:
    """Which way to ask this page is about, which others have runs, and how to see those.

    Nothing is said where there was no choice.
    """
    here = arm_names(data.launches).iloc[0]
    if data.passed_over:
        rows = data.left_out[data.left_out["batch_id"] == data.passed_over]
        why = listed(list(dict.fromkeys(rows["why"])))
        part = "part of it" if data.passed_over in set(data.launches["batch_id"]) else "it"
        yield (
            f"The newest batch, {data.passed_over}, was stopped or is still running, so it does "
            f"not decide what this page is about; {part} is left out here ({why}). To see it "
            "alone, set launches to its log."
        )
    if len(others := data.ways.drop(index=here, errors="ignore")):
        own = _runs_words(runs_by_arm(data.launches).to_dict("index")[here])
        each = [f"{arm} ({_runs_words(row)})" for arm, row in others.to_dict("index").items()]
        yield (
            f"This page is about launches by {here} ({own}). Not mixed with them: {listed(each)}. "
            f"To see those, set arm, for example -p arm {others.index[0]}."
        )


def _runs_words(row: Mapping[Any, int]) -> str:
    runs, stopped_early = row["runs"], row["runs"] - row["complete"]
    return counted(runs, "run") + f", {stopped_early} not watched to the end" * bool(stopped_early)


def left_out_sentence(data: Comparable) -> str:
    """How many requests are analyzed, how many are not, and how many of these are other arms."""
    gone = data.left_out["requests"].sum()
    used = len(data.launches)
    words = f"Requests read: {used + gone:.0f}. Analyzed: {used}. Left out: {gone:.0f}"
    others = data.arms["run"].isin(set(data.launches["run"])).eq(False).sum()
    if not others:
        return f"{words}."
    alone = ": they" if others == gone else f", of which {others}"
    return (
        f"{words}{alone} were asked for in other ways, which are never pooled, but compared above."
    )


def size_words(launches: pd.DataFrame) -> str:
    """How many runs a target has and how many instances a run requested, for every figure."""
    runs = launches.drop_duplicates("run").groupby("target").size()
    n = launches["n"].astype(int)
    return f"{_counted_range(runs, 'run')} per target, {_counted_range(n, 'instance')} per run"


def _counted_range(numbers: "pd.Series[int]", noun: str) -> str:
    least, most = numbers.min(), numbers.max()
    return f"{least} to {counted(most, noun)}" if least < most else counted(most, noun)


def answer_sentences(
    of_n: pd.DataFrame, pairs: pd.DataFrame, launches: pd.DataFrame, stage: Stage
) -> Iterator[str]:
    """The fastest target, how many of n are ready and when, what to avoid, what is not known.

    ``of_n`` is as from ``ready_of_n``: the sentences say the numbers of its table.  ``pairs`` is as
    from ``compare_targets``, and ``launches`` are those of both.
    """
    answer = _Answer(of_n, pairs, stage)
    yield answer.fastest()
    yield answer.ready()
    yield from answer.worst()
    yield f"Not known: {'; '.join(answer.unknown(launches))}."


@dataclass(frozen=True)
class _Answer:
    of_n: pd.DataFrame
    pairs: pd.DataFrame
    stage: Stage

    def fastest(self) -> str:
        best = self.of_n.iloc[0]
        if len(self.of_n) == 1:
            return f"The only target is {self._how_fast(best)}."
        also = self._also(best["target"])
        return f"Fastest{' seen' * bool(also)} is {self._how_fast(best)}{also}."

    def ready(self) -> str:
        """How many of n at one moment of the table, and at its end."""
        moment = f"ready_{_MOMENT_S}s"
        words = f"at the end ({_time(self._end)}): {self._counts(self._end)}."
        if moment in self.of_n and moment != self._end:
            words = f"after {_time(moment)}: {self._counts(moment)}; {words}"
        return f"Average number {self.stage.label} {words}"

    def worst(self) -> Iterator[str]:
        """What to avoid because of its intervals; else what is slowest, if that can be said."""
        table, end = self.of_n.iloc[::-1], self._end
        poor = table.loc[table[f"{end}_high"] < table["n"] / 2, "target"].tolist()
        slowest = table.iloc[0]
        if poor:
            whose = "its" if len(poor) == 1 else "each"
            yield (
                f"Avoid {self._named(poor)}: even at the upper end of {whose} interval, fewer than "
                f"half were {self.stage.label} after {_time(end)}."
            )
        elif len(table) > 1 and (self.pairs["p_holm"] < SIGNIFICANT).any():
            yield f"Slowest is {self._how_fast(slowest)}{self._also(slowest['target'])}."
        elif len(table) > 1:
            yield "No target is shown to be slower than another."

    def unknown(self, launches: pd.DataFrame) -> Iterator[str]:
        targets = counted(len(self.of_n), "target")
        if few := int((self.of_n["watched"] < FEWEST_RUNS).sum()):
            yield f"how sure this is for {few} of {targets} (an interval needs {FEWEST_RUNS} runs)"
        if alike := int((~(self.pairs["p_holm"] < SIGNIFICANT)).sum()):
            several = f"which is faster in {alike} of {len(self.pairs)} pairs of targets"
            yield several if len(self.pairs) > 1 else "which of the two targets is faster"
        halves = _estimates(self.of_n, "half_s")
        if late := sum(not half.is_reached for half in halves):
            yield f"when half are {self.stage.label} at {late} of {targets}"
        if wide := sum(half.has_limits_only for half in halves):
            yield (
                f"exactly when half are {self.stage.label} at {wide} of {targets} (polls are too "
                "far apart for these times)"
            )
        sent = launches["sent_at"]
        span_s = (sent.max() - sent.min()).total_seconds()
        yield f"what happens at other times (all were requested {within_words(span_s)})"

    @property
    def _end(self) -> str:
        return _moments(self.of_n)[-1]

    def _how_fast(self, row: "pd.Series[Any]") -> str:
        half = _estimate(row, "half_s")
        if np.isfinite(half.value):
            digits = _second_digits(half.value)
            words = _with_interval(f"{rounded(half.value, digits)} s", half, digits=digits)
            return f"{row['target']}: half of its instances were {self.stage.label} after {words}"
        if half.has_limits_only:
            words = half.limits(_second_digits(half.at_most), "s")
            return f"{row['target']}: half of its instances were {self.stage.label} after {words}"
        end, digits = _estimate(row, self._end), _digits(row["n"])
        if np.isnan(end.value):
            return f"{row['target']}, which was not watched until {_time(self._end)}"
        amount = _with_interval(f"{rounded(end.value, digits)} of {row['n']}", end, digits=digits)
        return f"{row['target']}: {amount} were {self.stage.label} after {_time(self._end)}"

    def _also(self, target: str) -> str:
        """Which targets cannot be told apart from this one."""
        alike = not_told_apart(self.pairs, target)
        if len(alike) == len(self.of_n) - 1:
            return "; no other target can be told apart from it"
        return f"; {self._named(alike)} cannot be told apart from it" if alike else ""

    def _counts(self, moment: str) -> str:
        """The highest count and where it is, the highest of the others, where none is known."""
        known = self.of_n.dropna(subset=moment)
        if known.empty:
            return "not known"
        share = known[moment] / known["n"]
        known = known.loc[share.sort_values(ascending=False, kind="stable").index]
        n = common_n(self.of_n)
        said = share.loc[known.index].map(percent)  # counts of different n cannot be compared
        if n is not None:
            said = known[moment].map(partial(rounded, digits=_digits(n)))
        most, alike = f"{said.iloc[0]} of {n or 'n'}", said == said.iloc[0]
        lacking = self.of_n.loc[self.of_n[moment].isna(), "target"].tolist()
        unknown = f", not known at {self._named(lacking)}" if lacking else ""
        if alike.all() and not lacking:
            return most + " at every target" * (len(known) > 1)
        best, others = self._named(known.loc[alike, "target"].tolist()), said[~alike]
        if others.empty:
            return f"{most} at {best}{unknown}"
        bound = "at most " * (others.nunique() > 1)
        where = "all others" if len(others) > 1 else "the other"
        if lacking:
            where = self._named(known.loc[~alike, "target"].tolist())
        return f"{most} at {best}, {bound}{others.iloc[0]} at {where}{unknown}"

    def _named(self, targets: Sequence[str]) -> str:
        if len(targets) > _MOST_NAMES:
            return f"{len(targets)} of {counted(len(self.of_n), 'target')}"
        return named(targets)


def named(targets: Sequence[str]) -> str:
    """The names of targets, those in one place together."""
    by_place: dict[str, list[str]] = {}
    for name in targets:
        kind, _, place = name.partition(" in ")
        by_place.setdefault(place, []).append(kind)
    groups = [listed(kinds) + f" in {place}" * bool(place) for place, kinds in by_place.items()]
    return listed(groups) if len(groups) == len(targets) else ", and ".join(groups)


def not_told_apart(pairs: pd.DataFrame, target: str) -> list[str]:
    """The targets that are not shown to differ from this one."""
    alike = pairs[~(pairs["p_holm"] < SIGNIFICANT)]
    first, second = alike["first"], alike["second"]
    return [*second[first == target], *first[second == target]]


def _moments(of_n: pd.DataFrame) -> list[str]:
    """The columns of counts, the last of which is the end."""
    return [name for name in map(str, of_n) if name.startswith("ready_") and f"{name}_low" in of_n]


def _time(moment: str) -> str:
    return moment.removeprefix("ready_").replace("s", " s")


def _digits(n: int) -> int:
    """The average of a single instance is a share, which one decimal would hide."""
    return 1 if n > 1 else 2


def _second_digits(time_s: float) -> int:
    """Short times differ by less than a second."""
    return 1 if time_s < _WHOLE_FROM_S else 0


def _estimate(row: "pd.Series[Any] | Mapping[Any, Any]", name: str) -> Estimate:
    seen_by = row.get(f"{name}_by", np.nan)
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], seen_by=seen_by)


def _estimates(table: pd.DataFrame, name: str) -> list[Estimate]:
    return [_estimate(row, name) for row in table.to_dict("records")]


def _with_interval(words: str, estimate: Estimate, *, digits: int) -> str:
    if np.isnan(estimate.low):
        return f"{words} (no interval)"
    return f"{words} (95 % interval {estimate.ends(digits)})"


def runs_sentence(
    distributions: Mapping[str, LaunchTimes], of_n: pd.DataFrame, *, horizon_s: float
) -> str:
    """Which target's runs differ most at the end, of those that were watched so long."""
    shares = {name: each.run_shares(horizon_s) for name, each in distributions.items()}
    watched = {name: each[~np.isnan(each)] for name, each in shares.items()}
    several = {name: each for name, each in watched.items() if len(each) > 1}
    left = sum(map(len, shares.values())) - sum(map(len, watched.values()))
    words = f" Not counted here: {counted(left, 'run')} not watched so long." if left else ""
    if not several:
        return "No target has two runs that could differ." + words
    ranges = {name: round(float(np.ptp(each)), 9) for name, each in several.items()}
    most, *others = [name for name in several if ranges[name] == max(ranges.values())]
    least, highest = several[most].min(), several[most].max()
    if highest == least:
        return f"Within a target all runs ended alike, after {horizon_s:.0f} s.{words}"
    n = common_n(of_n[of_n["target"] == most])
    few, many = (
        f"{share * n:.0f} of {n}" if n else f"{percent(share)} of n" for share in (least, highest)
    )
    whose = which([most, *others], of=len(several))
    return (
        f"The runs of {whose} differ most: after {horizon_s:.0f} s, {few} were "
        f"{distributions[most].stage.label} in one run{f' of {most}' * bool(others)} and {many} in "
        f"another.{words}"
    )


def end_sentence(
    distributions: Mapping[str, LaunchTimes], launches: pd.DataFrame, *, horizon_s: float
) -> str:
    """Which moment the end is, and how many runs were not watched so long."""
    until_s = planned_s(launches)
    why = f"the last polls before the timeout of {until_s:g} s"
    if horizon_s < common_horizon_s(distributions, launches):
        why = "as asked (horizon_s)"
    elif horizon_s < WATCHED * until_s:
        why = "until then at least half of the runs of each target were watched"
    each = distributions.values()
    early = sum(times.observed.runs - int(times.runs_watched(horizon_s)) for times in each)
    words = f"End: {horizon_s:.0f} s, {why}."
    if not early:
        return words
    one = early == 1
    return (
        f"{words} {counted(early, 'run')} that {'was' if one else 'were'} watched for less "
        f"{'counts as far as it was' if one else 'count as far as they were'} watched."
    )


def ready_caption(table: pd.DataFrame, stage: Stage, ranked: Sequence[str]) -> str:
    """What the numbers of ``formatted_ready`` are, and which targets are not among its rows."""
    n, runs, watched = common_n(table), sorted(set(table["runs"])), table["watched"]
    of_n = counted(n, "requested instance") if n else "n requested instances"
    words = f"Average number {stage.label} of {of_n}, after so many seconds, over "
    words += counted(runs[0], "run") if len(runs) == 1 else "the runs"
    if watched.max() >= FEWEST_RUNS:
        words += "; in brackets its 95 % interval"
    if watched.min() < FEWEST_RUNS:
        words += f" (none where fewer than {FEWEST_RUNS} runs were watched so long)"
    words += f". {stage.label.capitalize()}: {_MEANING[stage]}."
    if (table["least_n"] < table["most_n"]).any():
        words += " n is that of a target's last run; its runs of another n count by their share."
    if len(table) < len(ranked):
        words += f" Shown are the fastest and the slowest {len(table)} of {len(ranked)} targets."
    words += _alike_words(table, stage)
    return f"{words} With all digits: tables/ready-of-n.csv"


def _alike_words(table: pd.DataFrame, stage: Stage) -> str:
    """Why an interval is wide although all runs had the same result; of the fewest runs."""
    rows = table.sort_values("runs", kind="stable").to_dict("records")
    for row, name in product(rows, _moments(table)):
        count, n = _estimate(row, name), row["n"]
        if np.isnan(count.low) or count.value not in (0, n):
            continue
        digits = _digits(n)
        seen = f"none were {stage.label} in any run"
        far = f"as high as {rounded(count.high, digits)}"
        if count.value == n:
            seen = f"all were {stage.label} in every run"
            far = f"as low as {rounded(count.low, digits)}"
        return (
            f" {_cell(count, missing='', digits=digits)} means that {seen} by then; but instances "
            f"of one run share their luck, so {counted(row['runs'], 'run')} cannot exclude a true "
            f"average {far}."
        )
    return ""


def formatted_ready(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``ready_of_n``, each number in one cell with its interval.

    ``runs`` and ``n`` are columns if they differ; else the caption says them.
    """
    shown = table[["target"]]
    if table["runs"].nunique() > 1 or (table["watched"] < table["runs"]).any():
        shown = shown.assign(runs=run_cells(table, _time(_moments(table)[-1])))
    if common_n(table) is None:
        shown = shown.assign(n=[_n_words(row) for row in table.to_dict("records")])
    moments = _moments(table)
    digits = max(map(_digits, table["n"]))
    for name in moments:
        cells = table_cells(table, name, missing="not watched", digits=digits)
        shown = shown.assign(**{_time(name) + " (end)" * (name == moments[-1]): cells})
    never = f"not by {_time(moments[-1])}"
    digits = max(_second_digits(half.at_most) for half in _estimates(table, "half_s"))
    return shown.assign(
        **{"seconds until half": table_cells(table, "half_s", missing=never, digits=digits)}
    )


def run_cells(table: pd.DataFrame, until: str) -> list[str]:
    """``8``, or ``8 (7 until 360 s)`` where one was not watched so long."""
    return [
        str(runs) + f" ({watched} until {until})" * (watched < runs)
        for runs, watched in zip(table["runs"], table["watched"], strict=True)
    ]


def _n_words(row: Mapping[Any, Any]) -> str:
    """``5``, or ``3 (runs of 3 to 5)``."""
    if row["least_n"] == row["most_n"]:
        return str(row["n"])
    return f"{row['n']} (runs of {row['least_n']} to {row['most_n']})"


def formatted_checks(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``self_check``, with a word for whether a check warns."""
    results = found["warns"].map({True: "warning", False: "fine"})
    return found.assign(warns=results).rename(columns={"warns": "result"})


def formatted_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``summarize``, each number in one cell with its interval."""
    names = ("time", "target", "runs", "watched", "requests")
    shown = summary[[name for name in names if name in summary]]
    for name in ("share", "median_s", "p90_s", "restricted_mean_s"):
        missing = "not seen" if name in ("median_s", "p90_s") else "not watched"
        cells = table_cells(summary, name, missing=missing, digits=2 if name == "share" else 1)
        shown = shown.assign(**{name: cells})
    return shown


def table_cells(table: pd.DataFrame, name: str, *, missing: str, digits: int) -> list[str]:
    """``3.4 (2.9 to 3.9)``; a number alone has no interval, as too few runs have.

    Without a number the interval may still bound it from below, or be all that is known:
    ``at most 1.5``.
    """
    return [_cell(each, missing=missing, digits=digits) for each in _estimates(table, name)]


def _cell(estimate: Estimate, *, missing: str, digits: int) -> str:
    if estimate.has_limits_only:
        return estimate.limits(digits)
    words = missing if np.isnan(estimate.value) else rounded(estimate.value, digits)
    return words + ("" if np.isnan(estimate.low) else f" ({estimate.ends(digits)})")


def phase_sentence(phases: pd.DataFrame) -> str:
    """Which phase is the longest, and its shortest and longest median.

    A phase that fewer than half of the requests completed is longer than any that more completed.
    """
    unfinished = ~phases["reached"]
    bounded = phases["median_s"].isna() & phases["reached"]
    middle = phases["median_s"].mask(unfinished, np.inf).groupby(phases["phase"]).median().dropna()
    if middle.empty and bounded.any():
        return "No phase has a known median: polls are too far apart and tell only limits."
    if middle.empty:
        return "No phase was completed by half of the requests that began it."
    here = phases[phases["phase"] == middle.idxmax()]
    said_so = [f"The longest phase is from {middle.idxmax()}: {_phase_words(here, unfinished)}."]
    if np.isinf(middle.max()) and np.isfinite(middle).any():
        name = middle[np.isfinite(middle)].idxmax()
        words = _phase_words(phases[phases["phase"] == name], unfinished)
        said_so.append(f"Of those completed by half or more, it is from {name}: {words}.")
    if bounded.any():
        limits = listed(sorted(set(phases.loc[bounded, "phase"])))
        said_so.append(f"Of {limits} only limits are known, at some targets or all.")
    return " ".join(said_so)


def _phase_words(phase: pd.DataFrame, unfinished: "pd.Series[bool]") -> str:
    """Where fewer than half completed a phase, and the least and the most of its medians."""
    words = []
    lacking = phase.loc[unfinished[phase.index], "target"].tolist()
    if lacking:
        where = which(lacking, of=len(phase))
        words.append(f"fewer than half of the requests completed it at {where}")
    known = phase.dropna(subset="median_s").sort_values("median_s", kind="stable")
    said = known["median_s"].map("{:.0f} s".format)
    ends = [
        f"{each} at {which(known.loc[said.index[said == each], 'target'].tolist(), of=len(phase))}"
        for each in dict.fromkeys((*said.head(1), *said.tail(1)))
    ]
    return "; ".join([*words, *([f"its median is {' to '.join(ends)}"] if ends else [])])
