"""Curves through brackets: the mathematics of interval-censored times.

Owns the Turnbull estimator (NPMLE), its resamples and its influence values.  It knows nothing of
EC2, reads no table and no file, and draws no random number.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, optimize, sparse

from spotlib.analyze.curve import Curve, Floats, Observed

Ints = NDArray[np.int64]

_MOST_STEPS = 500  # a dozen or two are enough
_LEAST_OF_WEIGHT = 1e-6  # of a bracket's weight, the mass that a step must leave in it


@dataclass(frozen=True)
class _Brackets:
    """The different brackets, as ranges of the pieces that can hold mass.

    Bracket ``k`` contains the pieces ``first[k]`` to ``last[k]``.  ``weight`` (runs, brackets) is
    the weight that each run gives each bracket; those of a run add up to 1.
    """

    after_s: Floats
    by_s: Floats
    first: Ints
    last: Ints
    weight: Any

    @classmethod
    def of(cls, observed: Observed) -> "_Brackets":
        """Number the pieces and count equal brackets once."""
        after_s, by_s, ends_s = _innermost(observed)
        first = np.searchsorted(after_s, ends_s[0], side="left")
        last = np.searchsorted(by_s, ends_s[1], side="right") - 1
        numbers, place = np.unique(first * len(by_s) + last, return_inverse=True)
        each = 1.0 / np.bincount(observed.run)[observed.run]
        weight = sparse.csr_array(
            (each, (observed.run, place)), shape=(observed.runs, len(numbers))
        )
        return cls(after_s, by_s, *np.divmod(numbers, len(by_s)), weight)

    def chance(self, mass: Floats) -> Floats:
        """The mass within each bracket."""
        below = np.append(0.0, np.cumsum(mass))
        chance: Floats = below[self.last + 1] - below[self.first]
        return chance

    def score(self, weight: Floats, chance: Floats) -> Floats:
        """The gain in log-likelihood for each unit of mass added to each piece."""
        size = len(self.by_s) + 1
        each = weight / chance
        change = np.bincount(self.first, each, size) - np.bincount(self.last + 1, each, size)
        score: Floats = np.cumsum(change)[:-1]
        return score

    def information(self, pieces: Ints, weight: Floats, chance: Floats) -> Floats:
        """Minus the second derivative of the log-likelihood for the mass of these pieces."""
        size = len(pieces)
        first = np.searchsorted(pieces, self.first)
        last = np.searchsorted(pieces, self.last, side="right") - 1
        ends = np.zeros((size, size))
        np.add.at(ends, (first, last), weight / chance**2)
        # A bracket holds both of two pieces if it begins before the lower and ends after the upper.
        half = np.cumsum(np.cumsum(ends, axis=0)[:, ::-1], axis=1)[:, ::-1]
        both: Floats = np.triu(half) + np.triu(half, 1).T
        return both


def turnbull(observed: Observed) -> Curve:
    """The nonparametric maximum-likelihood estimate (NPMLE) of the curve through brackets.

    Turnbull, JRSS B 1976: all mass lies in the innermost brackets.  With right-censoring only it
    is the Kaplan-Meier curve.  Each run has the same weight, and equal brackets count once, with
    the sum of their weights.
    """
    brackets = _Brackets.of(observed)
    mass = _most_likely(brackets, brackets.weight.sum(axis=0) / observed.runs)
    return Curve(brackets.after_s, brackets.by_s, mass, _known_until_s(observed, brackets))


def refitted(observed: Observed, draws: ArrayLike, *, near: Curve) -> Curve:
    """The curves of resamples, each estimated anew by EM (Turnbull, JRSS B 1976).

    Parameters
    ----------
    observed : Observed
        The bracket and the run of each request.
    draws : array_like, shape (resamples, runs)
        How often each run is counted.
    near : Curve
        The curve of the same requests, from which all of them start.

    Returns
    -------
    Curve
        ``mass`` has shape (resamples, pieces).
    """
    brackets = _Brackets.of(observed)
    spread = _spread(brackets.first, brackets.last, len(brackets.by_s))
    weights = np.asarray(draws, dtype=np.float64) @ brackets.weight
    start = 0.9 * near.mass + 0.1 / len(near.mass)
    return replace(near, mass=_self_consistent(spread, weights, start))


def influence(observed: Observed, curve: Curve) -> Curve:
    """By how much the mass changes per unit of weight added to each run; mass (runs, pieces).

    The derivative of the estimate at equal weights (the infinitesimal jackknife; Jaeckel 1972;
    Efron, JASA 1981), on the pieces that have mass.  With ``draws`` runs counted differently the
    mass is about ``mass + (draws - 1) @ influence``, without estimating anew.
    """
    brackets = _Brackets.of(observed)
    pieces = np.flatnonzero(curve.mass)
    mass, runs = curve.mass[pieces], observed.runs
    weight, chance = brackets.weight.sum(axis=0) / runs, brackets.chance(curve.mass)
    first = np.searchsorted(pieces, brackets.first)
    last = np.searchsorted(pieces, brackets.last, side="right") - 1
    within = sparse.diags_array(1.0 / chance) @ _spread(first, last, len(pieces))
    scores = np.cumsum((brackets.weight @ within).toarray(), axis=1)[:, :-1] / runs
    information = brackets.information(pieces, weight, chance)
    moved = linalg.cho_solve(linalg.cho_factor(_regular(information)), scores.T).T - mass / runs
    return replace(curve, after_s=curve.after_s[pieces], by_s=curve.by_s[pieces], mass=moved)


def _known_until_s(observed: Observed, brackets: _Brackets) -> float:
    """The last time at which anything was watched; infinity if all of the curve is known.

    It is where no request was left waiting, and where each was left before the last that came: what
    came of those that were watched for longer says when it would have come, if ever.
    """
    waiting = np.isfinite(observed.after_s) & np.isposinf(observed.by_s)
    last_s = brackets.after_s[np.isfinite(brackets.by_s)].max(initial=-np.inf)
    if np.all(observed.after_s[waiting] <= last_s):
        return np.inf
    seen = np.concatenate([observed.after_s[waiting], observed.by_s[np.isfinite(observed.by_s)]])
    return float(seen.max())


def _innermost(observed: Observed) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
    """The pieces that can hold mass, and the brackets, with "never" after all other times."""
    finite = np.concatenate([observed.after_s, observed.by_s])
    beyond = finite[np.isfinite(finite)].max(initial=0.0) + 1.0
    after_s = np.where(np.isinf(observed.after_s), beyond, observed.after_s)
    left, right = np.unique(after_s), np.unique(observed.by_s)
    # A piece reaches from a left end to the next right end, if no other left end lies between.
    end = right[np.searchsorted(right, left, side="right")]  # each bracket ends after its left end
    following = np.append(left[1:], np.inf)
    inner = end <= following
    return left[inner], end[inner], (after_s, observed.by_s)


def _most_likely(brackets: _Brackets, weight: Floats, *, tolerance: float = 1e-7) -> Floats:
    """Newton's method on the pieces that have mass, with the best piece of each gap added.

    Wang, JRSS B 2007 and Dumbgen, Freitag, Jongbloed 2006: EM needs thousands of steps where this
    needs a dozen.  It ends when no piece can raise the log-likelihood of a request by more than
    ``tolerance``.
    """
    mass = _one_in_each(brackets)
    chance = brackets.chance(mass)
    for _ in range(_MOST_STEPS):
        score = brackets.score(weight, chance)
        if score.max() < 1 + tolerance:
            break
        pieces = np.flatnonzero((mass > 0) | _best_of_gaps(score, mass > 0))
        aim = np.zeros_like(mass)
        information = _regular(brackets.information(pieces, weight, chance))
        aim[pieces] = _nonnegative(information, information @ mass[pieces] + score[pieces] - 1)
        mass = _uphill(brackets, weight, mass, aim, score)
        chance = brackets.chance(mass)
    else:
        raise ArithmeticError(f"no curve was found through these brackets in {_MOST_STEPS} steps")
    return mass


def _one_in_each(brackets: _Brackets) -> Floats:
    """Even mass on as few pieces as serve for every bracket to contain one."""
    chosen, newest = np.zeros(len(brackets.by_s), dtype=bool), -1
    for place in np.argsort(brackets.last, kind="stable"):
        if brackets.first[place] > newest:
            newest = brackets.last[place]
            chosen[newest] = True
    even: Floats = chosen / chosen.sum()
    return even


def _best_of_gaps(score: Floats, has_mass: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The piece with the highest score above 1 in each gap between pieces that have mass."""
    gap = np.cumsum(has_mass) - has_mass[0]
    _, starts = np.unique(gap, return_index=True)
    open_to = np.where(has_mass, -np.inf, score)
    best: NDArray[np.bool_] = (open_to == np.maximum.reduceat(open_to, starts)[gap]) & (open_to > 1)
    return best


def _regular(information: Floats) -> Floats:
    """The same with a little on its diagonal: two pieces may be told apart by no bracket."""
    size = len(information)
    regular: Floats = information + np.eye(size) * 1e-10 * np.trace(information) / size
    return regular


def _nonnegative(matrix: Floats, right: Floats) -> Floats:
    """The x >= 0 with the least x @ matrix @ x / 2 - right @ x.

    What is below 0 is left out, and what would gain is taken back, until neither is left: a few
    times for hundreds of numbers (block pivoting; Portugal, Judice, Vicente, Math. Comp. 1994).
    That may go round in circles, and scipy's way, several times slower, never does.
    """
    kept = np.ones(len(right), dtype=bool)
    for _ in range(10):
        x = np.zeros_like(right)
        factor = linalg.cho_factor(matrix[np.ix_(kept, kept)], check_finite=False)
        x[kept] = linalg.cho_solve(factor, right[kept], check_finite=False)
        wrong = np.where(kept, x < 0, matrix @ x < right - 1e-9)
        if not wrong.any():
            return x
        kept ^= wrong
    upper = linalg.cholesky(matrix, check_finite=False)
    return np.asarray(optimize.nnls(upper, linalg.solve_triangular(upper, right, trans="T"))[0])


def _uphill(
    brackets: _Brackets, weight: Floats, mass: Floats, aim: Floats, score: Floats
) -> Floats:
    """The first of the steps 1, 1/2, 1/4, ... towards the aim that gains enough; else one of EM."""

    def gain(here: Floats) -> float:
        chance = brackets.chance(here)
        # At the maximum no bracket has less mass than its weight.  A rare one must not be emptied
        # on the way: the rest may gain more at once, and there is no step back from zero.
        if (chance < _LEAST_OF_WEIGHT * weight).any():
            return -np.inf
        return float(weight @ np.log(chance) - here.sum())

    now, slope = gain(mass), float(aim @ (score - 1))  # at the mass itself it is 0
    for part in 0.5 ** np.arange(20):
        there = mass + part * (aim - mass)
        if gain(there) >= now + part * slope / 3:
            break
    else:
        there = mass * score
    there = np.where(there < 1e-13, 0.0, there)
    moved: Floats = there / there.sum()
    return moved


def _spread(first: Ints, last: Ints, pieces: int) -> Any:
    """Which pieces each bracket contains, as differences: +1 at its first, -1 after its last.

    One sparse product then sums over the pieces of every bracket, and its transpose goes back.
    """
    rows = np.arange(len(first))
    ends = (np.concatenate([rows, rows]), np.concatenate([first, last + 1]))
    signs = np.concatenate([np.ones(len(rows)), -np.ones(len(rows))])
    return sparse.csr_array((signs, ends), shape=(len(rows), pieces + 1))


def _self_consistent(spread: Any, weight: Floats, start: Floats) -> Floats:
    """EM for all rows of ``weight`` (resamples, brackets) at once; mass (resamples, pieces).

    After two steps of EM a row jumps as far as these suggest (SQUAREM; Varadhan and Roland, Scand.
    J. Stat. 2008), and one more step makes it sure: a third of the time of EM alone.
    """
    back, total = spread.T.copy(), weight.sum(axis=1, keepdims=True)

    def renewed(mass: Floats) -> Floats:
        below = np.pad(np.cumsum(mass, axis=1), ((0, 0), (1, 0)))
        chance = np.maximum(-(below @ back), 1e-300)
        share = np.cumsum((weight[rows] / chance) @ spread, axis=1)[:, :-1]
        return np.asarray(mass * np.maximum(share, 0.0) / total[rows])

    mass, rows = np.tile(start, (len(weight), 1)), np.arange(len(weight))
    for _ in range(2000):  # each step of EM makes the mass of a row add up to 1
        here = mass[rows]
        first = renewed(here)
        second = renewed(first)
        change, bend = first - here, second - 2 * first + here
        far = linalg.norm(change, axis=1) / np.maximum(linalg.norm(bend, axis=1), 1e-300)
        far = far.clip(1.0, 100.0)[:, None]
        jump = np.maximum(here + 2 * far * change + far**2 * bend, second / 10)
        mass[rows] = renewed(jump)
        rows = rows[np.abs(mass[rows] - second).max(axis=1) >= 1e-4]
        if not rows.size:
            break
    return mass
