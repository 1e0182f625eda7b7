"""TODO."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import pandas as pd

from spotlib.money import held_usd
from spotlib.select.cov import (
    PAIR,
    SMALL_SIZES,
    Form,
    Missing,
    is_of_size,
    score_targets,
    variation,
)
from spotlib.select.evidence import FLAGGED_SHARE, evidence
from spotlib.select.parameters import SelectParameters


def choose_targets(
    scored: pd.DataFrame,
    *,
    top: int,
    max_per_region: int | None = None,
    max_per_family: int | None = None,
) -> pd.DataFrame:
    """Take the best ``top`` of a ranking, passing over those whose region or family is full.

    A family is the part of the type before its first dot.  The chosen ones are ranked anew and
    get the role ``ranked`` and an inclusion probability of 1.
    """
    family = scored["instance_type"].str.split(".").str[0]
    taken: list[int] = []
    regions: dict[str, int] = {}
    families: dict[str, int] = {}
    for row, region, name in zip(scored.index, scored["region"], family, strict=True):
        full = regions.get(region, 0) == max_per_region or families.get(name, 0) == max_per_family
        if not full and len(taken) < top:
            taken.append(row)
            regions[region] = regions.get(region, 0) + 1
            families[name] = families.get(name, 0) + 1
    chosen = scored.loc[taken].assign(role="ranked", inclusion_probability=1.0)
    return chosen.assign(rank=np.arange(1, len(chosen) + 1)).reset_index(drop=True)


def add_controls(
    chosen: pd.DataFrame,
    variation: pd.DataFrame,
    *,
    controls: int,
    seed: int,
    sizes: Iterable[str] | None = SMALL_SIZES,
) -> pd.DataFrame:
    """Append random targets, for a predictor that never saw a stable target cannot predict one.

    Of the pairs of the right sizes that were not chosen, ``controls`` are drawn from those whose
    SPS never varied (role ``constant``) and ``controls`` from all others (role ``random``), each
    stratum without replacement; a smaller one is taken whole.  ``inclusion_probability`` is the
    share drawn of the stratum, the weight for any later statement about all pairs.
    """
    rest = variation[is_of_size(variation, sizes)].sort_values(PAIR)
    known = set(zip(chosen["instance_type"], chosen["region"], strict=True))
    rest = rest[[pair not in known for pair in zip(*(rest[name] for name in PAIR), strict=True)]]
    random = np.random.default_rng(seed)
    parts = [chosen]
    constant = rest["sps_cov"] == 0
    for role, stratum in (("constant", rest[constant]), ("random", rest[~constant])):
        drawn = min(controls, len(stratum))
        rows = np.sort(random.choice(len(stratum), drawn, replace=False))
        probability = drawn / len(stratum) if len(stratum) else float("nan")
        parts.append(stratum.iloc[rows].assign(role=role, inclusion_probability=probability))
    table = pd.concat([part for part in parts if len(part)] or [chosen], ignore_index=True)
    return table.assign(score=table["sps_cov"] * table["if_cov"], rank=np.arange(1, len(table) + 1))


def write_selection(
    selection: pd.DataFrame,
    folder: str | Path,
    *,
    source: Literal["spotlake", "sandbox"],
    created: datetime,
    parameters: Mapping[str, Any],
) -> Path:
    """Write ``selection`` as ``folder/<created>.csv``, best first, and return that path.

    Each row also carries the source, the time of creation and the parameters, so that a file
    explains itself.  Never overwrites.
    """
    if source not in ("spotlake", "sandbox"):
        raise ValueError(f"source must be spotlake or sandbox, got {source!r}")
    if created.tzinfo is None:
        raise ValueError(f"created must be aware of its time zone, got {created}")
    created = created.astimezone(UTC)
    stamp = f"{created:%Y-%m-%dT%H:%M:%SZ}"
    facts: dict[str, Any] = {"source": source, "created": stamp, **parameters}
    clash = sorted(set(facts) & set(selection.columns))
    if clash:
        raise ValueError(f"parameters are named like columns of the selection: {clash}")
    path = Path(folder, f"{created:%Y%m%dT%H%M%SZ}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    selection.assign(**facts).to_csv(path, index=False, mode="x")
    return path


WAYS: Final = {
    "zones pooled,\nmissing dropped": ("pooled", "drop"),
    "zones pooled,\nmissing as -1\n(the study)": ("pooled", "as_value"),
    "within zones,\nmissing dropped": ("within", "drop"),
    "within zones,\nmissing as -1": ("within", "as_value"),
}


@dataclass(frozen=True)
class Selection:
    """All pairs, the ranked ones, and the chosen ones with what their scores rest on."""

    pairs: pd.DataFrame
    ranked: pd.DataFrame
    chosen: pd.DataFrame


def select_targets(counts: pd.DataFrame, parameters: SelectParameters) -> Selection:
    """Score, choose, add controls and say what each choice rests on and costs.

    Raises
    ------
    ValueError
        If no pair varies in both, so that there is nothing to rank.
    """
    form, missing = cast("Form", parameters.form), cast("Missing", parameters.missing)
    pairs = variation(counts, form=form, missing=missing)
    ranked = score_targets(pairs, sizes=parameters.size_tokens)
    if ranked.empty:
        raise ValueError(
            f"no target of the sizes {', '.join(parameters.size_tokens)} varies in both SPS and IF"
            f" in these {counts['day'].nunique()} days: read more days, or name more sizes"
        )
    chosen = choose_targets(
        ranked,
        top=parameters.top,
        max_per_region=parameters.max_per_region or None,
        max_per_family=parameters.max_per_family or None,
    )
    if parameters.controls:
        chosen = add_controls(
            chosen,
            pairs,
            controls=parameters.controls,
            seed=parameters.seed,
            sizes=parameters.size_tokens,
        )
    known = evidence(counts, form=form, missing=missing, pairs=chosen)
    chosen = chosen.merge(known, on=PAIR, how="left")
    chosen = chosen.merge(_other_form(counts, form, missing), on=PAIR, how="left")
    cost = held_usd(chosen["price_usd_per_hour"].to_numpy("float64"), parameters.held_s)
    flagged = chosen["resting_share"].gt(0) & chosen["resting_share"].lt(FLAGGED_SHARE)
    return Selection(pairs, ranked, chosen.assign(expected_cost_usd=cost, flagged=flagged))


def _other_form(counts: pd.DataFrame, form: Form, missing: Missing) -> pd.DataFrame:
    """The CoVs in the form that did not choose, so that 03 can ask which would have been better."""
    other: Form = "within" if form == "pooled" else "pooled"
    table = variation(counts, form=other, missing=missing)[[*PAIR, "sps_cov", "if_cov"]]
    return table.rename(columns={name: f"{name}_{other}" for name in ("sps_cov", "if_cov")})


def compare_ways(
    counts: pd.DataFrame, *, sizes: tuple[str, ...], top: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rank each target that is in the top of any way of scoring, under every way.

    Returns the table of ranks (NaN where a way does not rank the target at all) and how many
    targets each way ranks.
    """
    ranks = {}
    for name, (form, missing) in WAYS.items():
        table = variation(counts, form=cast("Form", form), missing=cast("Missing", missing))
        ranked = score_targets(table, sizes=sizes)
        names = ranked["instance_type"] + " in " + ranked["region"]
        ranks[name] = pd.Series(ranked["rank"].to_numpy(), index=names, dtype="float64")
    table = pd.DataFrame(ranks)
    best = table.min(axis=1)
    table = table[best <= top].sort_values(list(WAYS), kind="stable")
    return table, {name: len(rank) for name, rank in ranks.items()}
