"""How often the interval of a median covers it where times differ by less than a bracket is wide.

``python benchmarks/analyze_narrow.py [--studies 60 --seed 1]``: studies of 10 runs of 5 requests,
in brackets of 1.2 s as EC2's own events make them.  The runs of a study meet EC2's whole seconds
at any part of a second, or all at about the same one, as rounds do that are whole seconds apart.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd

from spotlib.analyze.curve import Floats
from spotlib.analyze.launch_times import LaunchTimes, launch_times
from spotlib.model import Stage

RUNS, COUNT = 10, 5
Draw = Callable[[np.random.Generator, int], Floats]
# How times are drawn, and their median.
LAWS: dict[str, tuple[Draw, float]] = {
    "one time": (lambda _, size: np.full(size, 1.87), 1.87),
    "normal, 0.1 s": (lambda rng, size: rng.normal(1.87, 0.1, size), 1.87),
    "normal, 0.3 s": (lambda rng, size: np.abs(rng.normal(1.87, 0.3, size)), 1.87),
    "exponential": (lambda rng, size: 1.5 + rng.exponential(0.4, size), 1.5 + 0.4 * np.log(2)),
    "two times": (lambda rng, size: np.where(rng.random(size) < 0.65, 1.5, 2.5), 1.5),
}


def study(draw: Draw, rng: np.random.Generator, *, alike: bool, resamples: int) -> LaunchTimes:
    """The launch times of one study; ``alike`` is whether its runs begin alike in a second."""
    phase_s = np.full(RUNS, rng.random()) + 0.1 * rng.random(RUNS) if alike else rng.random(RUNS)
    phase_s, time_s = np.repeat(phase_s, COUNT), draw(rng, RUNS * COUNT)
    after_s = np.maximum(np.floor(time_s + phase_s) - phase_s - 0.1, 0.0)
    launches = pd.DataFrame({"ready_after_s": after_s, "ready_by_s": after_s + 1.2}).assign(
        target="t", outcome="ready", kind=None, watched_s=after_s
    )
    launches["run"] = [f"batch/{number}/0" for number in np.repeat(range(RUNS), COUNT)]
    [times] = launch_times(launches, Stage.READY, resamples=resamples).values()
    return times


def main() -> None:
    """Print how often the interval covers, and its width; then the same of the band alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for alike in (False, True):
        for name, (draw, median_s) in LAWS.items():
            rng, rows = np.random.default_rng(options.seed), []
            for _ in range(options.studies):
                times = study(draw, rng, alike=alike, resamples=199)
                alone = [float(times.curve.quantile(each)) for each in times._limits.reaching(0.5)]
                for low, high in ((times.quantile().low, times.quantile().high), alone):
                    rows.append((low <= median_s <= high, high - low))
            covers, widths = np.array(rows).reshape(-1, 2, 2).transpose(2, 1, 0)
            words = [
                f"{each}: {cover.mean():.0%}, {np.median(width):.2f} s"
                for each, cover, width in zip(("interval", "band"), covers, widths, strict=True)
            ]
            print(f"{'alike' if alike else 'any'} {name}: {'; '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
