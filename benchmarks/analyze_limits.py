"""What an interval of a share can do, and what none can, near a share of 0 or 1.

``python benchmarks/analyze_limits.py [--studies 400 --runs 8 12 20 40]``: first, exactly, how often
the best known intervals cover the share of independent requests, and what every interval must
cover.  Then how often the same rules cover at the effective sizes of runs of 10 requests that are
alike in two ways: by normal scores, where the first and the last of a run are less alike than the
rest, and by copying a time of their run, where they are as alike as the rest.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from analyze_study import alike_ranks
from scipy import special, stats

from spotlib.analyze.curve import Floats
from spotlib.analyze.intervals import _effective_sizes

Rule = Callable[[Floats, Floats], Floats]  # the lower limits of shares of samples of these sizes
TAIL = 0.025
SHARES = np.array([0.003, 0.01, 0.03, 0.05, 0.08, 0.15, 0.3, 0.5, 0.7, 0.85, 0.92, 0.97, 0.99])


def prior(count: float) -> Rule:
    """The lower limit of a posterior: of Jeffreys' prior with 1/2, of an even one with 1."""
    return lambda share, size: np.minimum(
        stats.beta.ppf(TAIL, share * size + count, (1 - share) * size + count), share
    )


def exact(share: Floats, size: Floats) -> Floats:
    """Clopper and Pearson's lower limit; in samples of runs, that of Korn and Graubard."""
    return np.fmin(stats.beta.ppf(TAIL, share * size, (1 - share) * size + 1), share)


def half_exact(share: Floats, size: Floats) -> Floats:
    """The lower limit at which half of the chance of the seen count itself is counted (mid-p)."""
    count, low, high = share * size, np.zeros_like(share), share.copy()
    for _ in range(40):
        middle = (low + high) / 2
        chances = [
            special.betainc(*np.maximum([count + more, size - count + 1 - more], 1e-9), middle)
            for more in (0, 1)
        ]
        below = np.mean(chances, axis=0) < TAIL
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(count > 0, low, 0.0)


def wilson(share: Floats, size: Floats) -> Floats:
    """Wilson's lower limit: the score test."""
    square = stats.norm.isf(TAIL) ** 2 / size
    half = np.sqrt(square * (share * (1 - share) + square / 4))
    return np.minimum((share + square / 2 - half) / (1 + square), share)


RULES = {
    "Jeffreys (ours)": prior(0.5),
    "Wilson": wilson,
    "Clopper-Pearson": exact,
    "mid-p": half_exact,
    "even prior": prior(1.0),
}


def limits(rule: Rule, share: Floats, size: Floats) -> tuple[Floats, Floats]:
    """Both limits: the upper one is the lower one of what is not ready."""
    return rule(share, size), 1 - rule(1 - share, size)


def of_independent(rule: Rule, size: int, true: Floats) -> Floats:
    """How often a rule covers each share of independent requests, exactly."""
    counts = np.arange(size + 1.0)
    low, high = limits(rule, counts / size, np.full(size + 1, float(size)))
    covers = (low[:, None] <= true) & (true <= high[:, None])
    return np.asarray((stats.binom.pmf(counts[:, None], size, true) * covers).sum(axis=0))


def print_independent(size: int) -> None:
    """The coverage of each rule near 0 and elsewhere, and what no rule can avoid.

    Near 0 nothing is seen in more than 8 % of samples, so a rule that covers every share in 92 %
    never misses one there from above.  It misses all counts from some count on: they have at most
    8 % just below the lower limit of that count, and just above it only those beyond are missed.
    """
    true = np.linspace(0.0002, 0.5, 5000)
    near = (1 - true) ** size > 0.08
    print(f"{size} independent requests: least, mean and most coverage; of shares, in 92 to 97 %")
    for name, rule in RULES.items():
        found = of_independent(rule, size, true)
        words = [
            f"{where} {part.min():6.1%} {part.mean():6.1%} {part.max():6.1%}, "
            f"{((part >= 0.92) & (part <= 0.97)).mean():4.0%}"
            for where, part in (("near 0", found[near]), ("elsewhere", found[~near]))
        ]
        print(f"  {name:16} {';  '.join(words)}")
    counts = np.arange(1, 5)
    steps = stats.beta.ppf(0.08, counts, size - counts + 1)
    after = [f"{each:.1%}" for each in stats.binom.cdf(counts, size, steps)]
    print(f"  any rule that covers at least 92 % covers somewhere at least {', '.join(after)}")


def ranks(*, alike: float, copied: bool, runs: int, rng: np.random.Generator) -> Floats:
    """When each request is ready, as the share of all that are by then; (runs, 10)."""
    if not copied:
        return alike_ranks(alike, runs, 10, rng)
    chance = np.sqrt(2 / np.pi * np.arcsin(alike))  # as alike at a share of one half
    own, shared = rng.random((runs, 10)), rng.random((runs, 1))
    return np.where(rng.random((runs, 10)) < chance, shared, own)


def effective(ready: Floats) -> tuple[Floats, Floats]:
    """The shares of ``SHARES`` that were seen, and their effective sizes with Student's t.

    The curve is known exactly, and instead of resamples two curves vary as much.
    """
    runs = len(ready)
    knots = np.sort(np.append(ready, SHARES))
    by_run = (ready[:, :, None] <= knots).mean(axis=1)
    shares, off = by_run.mean(axis=0), by_run.std(axis=0) / np.sqrt(runs)
    two = np.array([shares - off, shares + off])
    sizes = _effective_sizes(shares, two, runs=runs, requests=ready.size)
    places = np.searchsorted(knots, SHARES)
    return shares[places], sizes[places] * student(runs)


def student(runs: int) -> float:
    """What Student's t leaves of an effective size."""
    return float((stats.norm.ppf(1 - TAIL) / stats.t.ppf(1 - TAIL, 2 * (runs - 1))) ** 2)


def print_alike(*, studies: int, runs: int) -> None:
    """How often each rule covers, in both kinds of likeness, and how wide it is beside ours."""
    found = []
    for copied in (False, True):
        for alike in (0.3, 0.7):
            rng = np.random.default_rng([runs, copied, int(10 * alike)])
            drawn = [ranks(alike=alike, copied=copied, runs=runs, rng=rng) for _ in range(studies)]
            share, size = (np.array(each) for each in zip(*map(effective, drawn), strict=True))
            for name, rule in RULES.items():
                low, high = limits(rule, share, size)
                most = rule(np.array([1.0]), np.array([runs * student(runs)]))
                low, high = np.minimum(low, most), np.maximum(high, 1 - most)
                covers = ((low <= SHARES) & (high >= SHARES)).mean(axis=0)
                row = {"alike": "copied" if copied else "normal scores", "rule": name}
                row |= {f"{each:.1%}": part for each, part in zip(SHARES, covers, strict=True)}
                width = (high - low).mean(axis=0)[SHARES == 0.03]
                found.append(row | {"least": covers.min(), "width at 3.0%": width[0]})
    table = pd.DataFrame(found).groupby(["alike", "rule"], sort=False)
    shown = table.mean().assign(least=table["least"].min())
    print(f"{runs} runs of 10, {studies} studies of each of 2 correlations")
    print(shown.round(3).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--runs", type=int, nargs="*", default=[8, 12, 20, 40])
    options = parser.parse_args()
    for runs in options.runs:
        print_independent(runs)
    for runs in options.runs:
        print_alike(studies=options.studies, runs=runs)


if __name__ == "__main__":
    main()
