"""Polls in compact form: values that all rows of a run, or of a poll, share are kept once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UNSET

from spotlib.model import Stage
from spotlib.record.columns import (
    COUNTS,
    EACH_POLL,
    PLACE,
    PLAN,
    POLL_COLUMNS,
    STAGES,
    concatenated,
    typed,
    whole,
)
from spotlib.record.replay import RecordedBatch
from spotlib.record.rows import place_of, plan_of


@dataclass(frozen=True)
class Polled:
    """Polls as they are kept until somebody wants the rows of some runs: they are many.

    ``runs`` has one row per run, ``polls`` one per poll, and ``counts`` one per poll and run, with
    the places of both; a count is -1 where the poll failed, or where it is not recorded.
    """

    runs: pd.DataFrame
    polls: pd.DataFrame
    counts: pd.DataFrame

    @classmethod
    def joined(cls, parts: Sequence["Polled"]) -> "Polled":
        """The polls of all parts."""
        counts, polls, runs = [], 0, 0
        for part in parts:
            places = {
                "of_poll": part.counts["of_poll"] + polls,
                "of_run": part.counts["of_run"] + runs,
            }
            counts.append(part.counts.assign(**places))
            polls, runs = polls + len(part.polls), runs + len(part.runs)
        return cls(
            concatenated([part.runs for part in parts]),
            concatenated([part.polls for part in parts]),
            pd.concat(counts, ignore_index=True),
        )

    def of(self, kept: "pd.Series[bool]") -> "Polled":
        """The polls of the runs for which ``kept`` is true, one value per row of ``runs``."""
        return replace(self, counts=self.counts[kept.to_numpy()[self.counts["of_run"]]])

    def made(self) -> pd.DataFrame:
        """One row per poll: ``batch_id``, ``round``, ``region``, ``poll``, ``error``, ``skipped``.

        So many polls in a row were ``skipped`` before it while one of its runs was watched.
        """
        since = self.polls["poll"].take(self.counts["of_poll"].to_numpy()).reset_index(drop=True)
        since = since.astype("float64").groupby(self.counts["of_run"].to_numpy()).diff() - 1
        skipped = since.groupby(self.counts["of_poll"].to_numpy()).min().fillna(0.0)
        first = self.counts.drop_duplicates("of_poll")
        run = self.runs[["batch_id", "round", "region"]].astype(
            {"batch_id": "category", "region": "category"}
        )
        run = run.take(first["of_run"].to_numpy())
        poll = self.polls[["poll", "error"]].take(first["of_poll"].to_numpy())
        table = pd.concat([run.reset_index(drop=True), poll.reset_index(drop=True)], axis=1)
        return table.assign(skipped=skipped.loc[first["of_poll"]].to_numpy())

    def table(self) -> pd.DataFrame:
        """One row per poll and run, as from ``load_polls``."""
        rows = self.runs.take(self.counts["of_run"].to_numpy()).reset_index(drop=True)
        polled = self.polls.take(self.counts["of_poll"].to_numpy()).reset_index(drop=True)
        sent_s = rows.pop("sent_s")
        polled[["asked_s", "answered_s"]] = polled[["asked_s", "answered_s"]].sub(sent_s, axis=0)
        counts = {name: whole(self.counts[name].to_numpy()) for name in STAGES}
        return pd.concat([rows, polled.assign(**counts)], axis=1)[list(POLL_COLUMNS)]


class Polls:
    """The polls of some logs, collected log by log."""

    _seen = attrgetter(*STAGES)
    _granted, _usable = (
        STAGES.index(stage.label) - len(STAGES) for stage in (Stage.GRANTED, Stage.USABLE)
    )

    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []
        self._polls: list[tuple[Any, ...]] = []
        self._counts: list[int] = []  # flat: one object less per poll and run

    def add(self, record: RecordedBatch) -> None:
        place = place_of(record.batch)
        places = {key: len(self._runs) + number for number, key in enumerate(record.runs)}
        for run in record.runs.values():
            sent_s = run.requested.asked_s if run.requested else None
            self._runs.append({**place, **plan_of(run), "sent_s": sent_s})
        for poll in record.polls:
            for plan, seen in poll.plans.items():
                self._counts += (len(self._polls), places[poll.round, plan])
                self._counts += (-1,) * len(STAGES) if seen is None else Polls._seen(seen)
                if seen is not None and seen.granted is UNSET:  # it is no probe
                    self._counts[Polls._granted] = -1
                if seen is not None and seen.usable is UNSET:
                    self._counts[Polls._usable] = -1
            self._polls.append((poll.number, poll.asked_s, poll.answered_s, poll.at, poll.error))

    def table(self) -> Polled:
        counts = np.array(self._counts, dtype=np.int32).reshape(-1, len(COUNTS))
        return Polled(
            runs=typed(self._runs, (*PLACE, *PLAN, "sent_s")),
            polls=typed(self._polls, EACH_POLL),
            counts=pd.DataFrame(counts, columns=list(COUNTS)),
        )
