"""How long until a stage, and how many ever come: estimates from brackets, by target.

Owns the law of a launch time: which interval each request's time lies in, the curve through all
of them, and how sure it is.  No file is read here and no random number drawn but from the
generator that is handed in.

Definitions used throughout:

- **The time of a request** is when the API first showed the stage.  A look only brackets it, so
  it is interval-censored; still waiting when last looked at, it is right-censored there.
- **A request that ended otherwise never comes.**  Interrupted, failed inside EC2 or refused for
  capacity or price before the stage, it stays in the count with the time infinity: the curve is
  the cumulative incidence, the share of what was *requested* (Gray, Annals of Statistics 1988;
  with brackets: Hudgens, Satten, Longini, Biometrics 2001).  Dropping or censoring it would
  answer another question: how fast, if nothing ever ended.  An end that is ours (its ``ValidUntil``
  passed, we stopped looking, a user cancelled it) says nothing of what EC2 would have done, so it
  is right-censored.
- **The run is the sample** and each run weighs the same, whatever its n.  Intervals resample
  whole runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats

from spotlib.model import Stage

Floats = NDArray[np.float64]

FEWEST_RUNS = 6  # the range of 6 draws covers their median in 97 % of cases, of 5 in 94 %
_USER_CODES = frozenset(
    {
        *("canceled-before-fulfillment", "request-canceled-and-instance-running"),
        *("instance-terminated-by-user", "instance-stopped-by-user"),
        "spot-instance-terminated-by-user",
    }
)
_COMPETING = frozenset({"refused", "failed", "interrupted"})


@dataclass(frozen=True)
class Observed:
    """One row a request: its time lies in ``(after_s, by_s]``; both are (requests,) arrays.

    Not shown while watched: ``by_s`` is infinity.  Ended otherwise: both are.  ``run`` numbers
    the run of each from 0.
    """

    after_s: Floats
    by_s: Floats
    run: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse brackets that no look can have made."""
        never = np.isposinf(self.after_s) & np.isposinf(self.by_s)
        if not np.all((self.after_s < self.by_s) | never) or np.any(self.after_s < 0):
            raise ValueError("brackets need 0 <= after_s < by_s, without NaN")
        if len(self.after_s) == 0:
            raise ValueError("there is no request to estimate from")

    @property
    def runs(self) -> int:
        """How many runs: the size of the sample."""
        return int(self.run.max()) + 1

    @property
    def events(self) -> int:
        """How many requests were shown at the stage."""
        return int(np.isfinite(self.by_s).sum())


def observe(launches: pd.DataFrame, stage: Stage, *, since: Stage | None = None) -> Observed:
    """The times of these requests to a stage, as brackets.

    Parameters
    ----------
    since
        Count from this stage instead of from the request, over the requests that were shown at
        it.  Then both ends are brackets and the wait lies between the difference of their inner
        and that of their outer ends: never too narrow (doubly censored; De Gruttola, Lagakos,
        Biometrics 1989).

    Raises
    ------
    ValueError
        If no request is left.
    """
    rows = launches if since is None else launches[launches[f"{since.label}_by_s"].notna()]
    watched_s = rows["watched_s"].to_numpy(dtype=np.float64)
    by_s = rows[f"{stage.label}_by_s"].fillna(np.inf).to_numpy(dtype=np.float64)
    after_s = rows[f"{stage.label}_after_s"].to_numpy(dtype=np.float64)
    ended = np.isposinf(by_s) & rows["outcome"].isin(_COMPETING).to_numpy()
    ended &= ~rows["status_code"].isin(_USER_CODES).to_numpy()
    after_s = np.where(np.isfinite(by_s), after_s, np.where(ended, np.inf, watched_s))
    if since is not None:
        first, last = (rows[f"{since.label}_{end}_s"].to_numpy() for end in ("after", "by"))
        after_s, by_s = np.maximum(after_s - last, 0.0), by_s - first
    return Observed(after_s, by_s, pd.factorize(rows["run"])[0].astype(np.int64))


@dataclass(frozen=True)
class Curve:
    """The share that has come by a time, or many such curves on the same pieces.

    ``mass[..., j]`` came in ``(after_s[j], by_s[j]]``; the data do not say when within, so it is
    spread evenly.  The last piece reaches to infinity: later than watched, or never.  Beyond
    ``known_until_s`` nobody looked, and the answer is NaN.
    """

    after_s: Floats
    by_s: Floats
    mass: Floats
    known_until_s: float

    def share_by(self, time_s: ArrayLike) -> Floats:
        """The share come by each time; shape ``mass.shape[:-1] + time_s.shape``."""
        time_s = np.asarray(time_s, dtype=np.float64)
        width = np.where(np.isfinite(self.by_s), self.by_s - self.after_s, np.inf)
        part = np.clip((time_s[..., None] - self.after_s) / width, 0.0, 1.0)
        share = np.tensordot(self.mass, part, axes=(-1, -1))
        return np.where(time_s > self.known_until_s, np.nan, share)

    def quantile(self, share: float) -> Floats:
        """The first time by which ``share`` of the requested have come; infinity if not reached.

        Infinity means later than watched, or never.
        """
        total = np.cumsum(self.mass, axis=-1)
        # A sum of many small parts may miss a half by rounding.
        reached = total >= share - 1e-6
        piece = reached.argmax(axis=-1)
        at = np.take_along_axis(total, piece[..., None], -1)[..., 0]
        own = np.take_along_axis(self.mass, piece[..., None], -1)[..., 0]
        after_s, by_s = self.after_s[piece], self.by_s[piece]
        left = np.clip((at - share) / np.where(own > 0, own, 1.0), 0.0, 1.0)
        finite = np.isfinite(by_s) & reached.any(axis=-1)
        width = np.where(finite, by_s - after_s, 0.0)
        return np.where(finite, after_s + width * (1.0 - left), np.inf)

    def restricted_mean_s(self, horizon_s: float) -> Floats:
        """The mean of min(time, horizon): the area above the curve up to the horizon.

        Irwin, Journal of Hygiene 1949; it needs no law and counts those that never come.
        """
        by_s = np.where(np.isfinite(self.by_s), self.by_s, self.after_s + 1.0)
        low, high = np.minimum(self.after_s, horizon_s), np.minimum(by_s, horizon_s)
        inside = (high**2 - low**2) / 2.0 + horizon_s * (by_s - high - (self.after_s - low))
        each = np.where(np.isfinite(self.by_s), inside / (by_s - self.after_s), horizon_s)
        mean: Floats = self.mass @ each
        return mean if horizon_s <= self.known_until_s else np.full_like(mean, np.nan)


def turnbull(observed: Observed, *, draws: ArrayLike | None = None) -> Curve:
    """The nonparametric maximum-likelihood curve through brackets.

    Turnbull, JRSS B 1976: all mass lies in the innermost brackets, and self-consistency finds it.
    Where nothing but right-censoring occurs this is Kaplan and Meier's curve.

    Parameters
    ----------
    draws : array_like, shape (resamples, runs), optional
        How often each run is counted; one curve for each row.  Without, each run counts once.
    """
    after_s, by_s, ends_s = _innermost(observed)
    first = np.searchsorted(after_s, ends_s[0], side="left")
    last = np.searchsorted(by_s, ends_s[1], side="right") - 1
    spread = _spread(first, last, len(by_s))
    weight = 1.0 / np.bincount(observed.run)[observed.run]
    counted = np.ones((1, observed.runs)) if draws is None else np.asarray(draws, np.float64)
    mass = _self_consistent(
        spread,
        counted[:, observed.run] * weight,
        tolerance=1e-9 if draws is None else 1e-5,
    )
    return Curve(after_s, by_s, mass if draws is not None else mass[0], _known_until_s(observed))


def _known_until_s(observed: Observed) -> float:
    """The longest that a request still waiting was looked at; infinity if none was left waiting."""
    waiting = np.isfinite(observed.after_s) & np.isposinf(observed.by_s)
    seen = np.concatenate([observed.after_s[waiting], observed.by_s[np.isfinite(observed.by_s)]])
    return float(seen.max()) if waiting.any() else np.inf


def _innermost(observed: Observed) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
    """The pieces that can hold mass, and the brackets with "never" put after all other times."""
    finite = np.concatenate([observed.after_s, observed.by_s])
    beyond = finite[np.isfinite(finite)].max(initial=0.0) + 1.0
    after_s = np.where(np.isinf(observed.after_s), beyond, observed.after_s)
    left, right = np.unique(after_s), np.unique(observed.by_s)
    # A piece: from a beginning up to the next end, if no other beginning lies between.
    end = right[np.searchsorted(right, left, side="right").clip(max=len(right) - 1)]
    following = np.append(left[1:], np.inf)
    inner = (end > left) & (end <= following)
    return left[inner], end[inner], (after_s, observed.by_s)


def _spread(first: NDArray[np.int64], last: NDArray[np.int64], pieces: int) -> sparse.csr_array:
    """Which pieces each bracket holds, first to last, as differences: +1 at first, -1 after last."""
    rows = np.arange(len(first))
    ends = (np.concatenate([rows, rows]), np.concatenate([first, last + 1]))
    signs = np.concatenate([np.ones(len(rows)), -np.ones(len(rows))])
    return sparse.csr_array((signs, ends), shape=(len(rows), pieces + 1))


def _self_consistent(
    spread: sparse.csr_array, weight: Floats, *, tolerance: float, most: int = 5000
) -> Floats:
    """EM for all rows of ``weight`` (resamples, requests) at once; mass (resamples, pieces)."""
    pieces = spread.shape[1] - 1
    mass = np.full((len(weight), pieces), 1.0 / pieces)
    total = weight.sum(axis=1, keepdims=True)
    back = spread.T.tocsr()
    for _ in range(most):
        below = np.pad(np.cumsum(mass, axis=1), ((0, 0), (1, 0)))
        chance = np.maximum(-(below @ back), 1e-300)
        share = np.cumsum((weight / chance) @ spread, axis=1)[:, :-1]
        renewed = mass * np.maximum(share, 0.0) / total
        moved = np.abs(renewed - mass).max()
        mass = renewed
        if moved < tolerance:
            break
    return mass / mass.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over runs.

    ``value`` is NaN where it is unknown or was not reached while watched; ``high`` is infinity
    where the interval has no end within that time.  Without an interval ``why`` says why.
    """

    value: float
    low: float
    high: float
    why: str = ""

    def words(self, unit: str = "s", *, digits: int = 1) -> str:
        """``21.3 s (19.8 to 23.1)``, or what is not known."""
        if np.isnan(self.value):
            return "not reached while watched"
        here = f"{self.value:.{digits}f}{unit and ' '}{unit}"
        if np.isnan(self.low):
            return f"{here} (no interval: {self.why})"
        high = f"to {self.high:.{digits}f}" if np.isfinite(self.high) else "upwards"
        return f"{here} ({self.low:.{digits}f} {high})"


def run_level_interval(
    value: float, resampled: Floats, *, runs: int, level: float = 0.95
) -> Estimate:
    """The expanded percentile interval of an estimate that was resampled over whole runs.

    Hesterberg, The American Statistician 2015: the percentiles are moved out as Student's t and
    the divisor n - 1 would, for the plain ones are too narrow in small samples.  Infinite
    replicates (a median that was not reached) count as such.
    """
    why = few_runs(runs)
    point = value if np.isfinite(value) else np.nan
    known = resampled[~np.isnan(resampled)]
    if why or len(known) < len(resampled) or len(known) == 0:
        return Estimate(point, np.nan, np.nan, why or "it is not known in every resample")
    spread = stats.t.ppf(0.5 + level / 2, runs - 1) * np.sqrt(runs / (runs - 1))
    tails = stats.norm.cdf([-spread, spread])
    low, high = np.quantile(known, tails, method="inverted_cdf")
    return Estimate(point, float(low) if np.isfinite(low) else np.nan, float(high))


def few_runs(runs: int) -> str:
    """Why there is no interval, or nothing."""
    if runs >= FEWEST_RUNS:
        return ""
    return f"{runs} run{'s' * (runs != 1)}, and fewer than {FEWEST_RUNS} cannot bound a median"


@dataclass(frozen=True)
class LaunchTimes:
    """The law of one target's times to a stage, and its resamples over runs."""

    target: str
    stage: Stage
    observed: Observed
    curve: Curve
    resampled: Curve

    def share_ready(self, time_s: float) -> Estimate:
        """The share of the requested that has come by a time."""
        return self._estimate(float(self.curve.share_by(time_s)), self.resampled.share_by(time_s))

    def quantile(self, share: float = 0.5) -> Estimate:
        """The time by which a share of the requested have come; 0.5 is the median."""
        return self._estimate(float(self.curve.quantile(share)), self.resampled.quantile(share))

    def restricted_mean(self, horizon_s: float) -> Estimate:
        """The mean of min(time, horizon)."""
        return self._estimate(
            float(self.curve.restricted_mean_s(horizon_s)),
            self.resampled.restricted_mean_s(horizon_s),
        )

    def band(self, time_s: Floats) -> pd.DataFrame:
        """``time_s``, ``share``, ``low``, ``high``: the curve with a pointwise 95 % band."""
        shares, resampled = self.curve.share_by(time_s), self.resampled.share_by(time_s)
        each = [self._estimate(float(v), r) for v, r in zip(shares, resampled.T, strict=True)]
        ends = {name: [getattr(one, name) for one in each] for name in ("low", "high")}
        return pd.DataFrame({"time_s": time_s, "share": shares, **ends})

    def _estimate(self, value: float, resampled: Floats) -> Estimate:
        return run_level_interval(value, resampled, runs=self.observed.runs)


def launch_time_distribution(
    launches: pd.DataFrame,
    stage: Stage,
    *,
    rng: np.random.Generator,
    since: Stage | None = None,
    resamples: int = 999,
) -> dict[str, LaunchTimes]:
    """The law of the time to a stage, for each target that has any request to tell of it.

    Turnbull's curve (see ``turnbull``), resampled over whole runs.  ``since`` counts from another
    stage than the request, over the requests that reached that one.
    """
    laws = {}
    for target, rows in launches.groupby("target"):
        if since is not None and rows[f"{since.label}_by_s"].isna().all():
            continue
        observed = observe(rows, stage, since=since)
        draws = resample_runs(observed.runs, resamples, rng=rng)
        laws[str(target)] = LaunchTimes(
            str(target), stage, observed, turnbull(observed), turnbull(observed, draws=draws)
        )
    return laws


def resample_runs(runs: int, resamples: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each run is drawn in each resample: shape (resamples, runs)."""
    drawn: NDArray[np.int64] = rng.multinomial(runs, np.full(runs, 1.0 / runs), size=resamples)
    return drawn


def common_horizon_s(laws: Sequence[LaunchTimes], *, timeout_s: float) -> float:
    """The longest time that every target was watched for, in whole seconds."""
    known = [law.curve.known_until_s for law in laws]
    return float(np.floor(min([*known, timeout_s])))


def summarize(laws: Sequence[LaunchTimes], *, horizon_s: float) -> pd.DataFrame:
    """One row a target: the numbers of its law, each with its interval over runs."""
    rows = []
    for law in laws:
        estimates = {
            "share": law.share_ready(horizon_s),
            "median_s": law.quantile(0.5),
            "p90_s": law.quantile(0.9),
            "restricted_mean_s": law.restricted_mean(horizon_s),
        }
        row = {"target": law.target, "stage": law.stage.label, "runs": law.observed.runs}
        row |= {"requests": len(law.observed.run), "shown": law.observed.events}
        for name, estimate in estimates.items():
            ends = {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row |= {name: estimate.value, **ends}
        rows.append(row | {"why_no_interval": estimates["share"].why})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class LognormalFit:
    """A lognormal law of those that came, and the share that did."""

    median_s: float
    sigma: float
    events: int

    def quantile_s(self, share: float) -> float:
        """The time by which this share of those that came have come."""
        return float(stats.lognorm.ppf(share, self.sigma, scale=self.median_s))


def fit_lognormal(observed: Observed) -> LognormalFit:
    """Maximum likelihood of a lognormal over the brackets of the requests that came.

    The probability of each bracket is its likelihood (scipy's ``CensoredData``), the location is
    fixed at 0.  It is the law *of those that came*: one lognormal over all, with those that never
    come as right-censored, would stretch to reach them.  So it says nothing of the share that
    comes, and is short if many were still to come when the watch ended.

    Raises
    ------
    ValueError
        Below 5 requests that came, or 3 different brackets: a fit would return a number all the
        same.
    """
    came = np.isfinite(observed.by_s)
    brackets = np.column_stack([observed.after_s, observed.by_s])[came]
    distinct = len(np.unique(brackets, axis=0))
    if len(brackets) < 5 or distinct < 3:
        raise ValueError(
            f"a fit needs at least 5 requests that came and 3 different brackets, "
            f"got {len(brackets)} and {distinct}"
        )
    data = stats.CensoredData(interval=brackets)
    start = np.log(brackets.mean(axis=1))
    with np.errstate(all="ignore"):  # of trial values on the way
        sigma, _, scale = stats.lognorm.fit(
            data, max(start.std(), 0.05), floc=0, scale=np.exp(np.median(start))
        )
    return LognormalFit(float(scale), float(sigma), int(came.sum()))


def ready_counts(polls: pd.DataFrame, stage: Stage = Stage.READY) -> pd.DataFrame:
    """How many of the n requested each run has been shown to have, look by look.

    One row a look that succeeded, and one at 0 s: ``target``, ``run``, ``time_s`` (the look was
    answered, so the count was reached by then), ``asked_s``, ``count``, ``n``, ``share``.
    """
    seen = polls[polls[stage.label].notna()].sort_values(["target", "run", "tick"])
    names = ["target", "run", "answered_s", "asked_s", stage.label, "n"]
    table = seen[names].rename(columns={"answered_s": "time_s", stage.label: "count"})
    starts = table.drop_duplicates("run").assign(time_s=0.0, asked_s=0.0, count=0)
    table = pd.concat([starts, table]).sort_values(["target", "run", "time_s"], kind="stable")
    table = table.astype({"count": "float64", "n": "float64"})
    return table.assign(share=table["count"] / table["n"]).reset_index(drop=True)


def server_times(launches: pd.DataFrame) -> pd.DataFrame:
    """EC2's own timestamps beside the brackets, one row a target.

    ``created_to_fulfilled_s`` and ``created_to_launched_s`` are means of differences of EC2's
    whole-second stamps: the rounding cancels in the mean, no clock of ours is in it, and the time
    before EC2 created the request is not.  ``request_to_fulfilled_s`` is the mean of the middles
    of our brackets over the same requests.
    """
    rows = []
    for target, here in launches.groupby("target"):
        came = here[here["fulfilled_at"].notna() & here["created_at"].notna()]
        stamped = came["fulfilled_at"] - came["created_at"]
        launched = came["launched_at"] - came["created_at"]
        middle = (came["fulfilled_after_s"] + came["fulfilled_by_s"]) / 2
        rows.append(
            {
                "target": target,
                "requests": len(came),
                "created_to_fulfilled_s": stamped.dt.total_seconds().mean(),
                "created_to_launched_s": launched.dt.total_seconds().mean(),
                "request_to_fulfilled_s": middle.mean(),
            }
        )
    return pd.DataFrame(rows)


def stale(observed: Observed, seconds: float) -> Observed:
    """The same brackets if each look had shown what was true up to ``seconds`` before."""
    return replace(observed, after_s=np.maximum(observed.after_s - seconds, 0.0))
