"""The choice: the best of a ranking, random controls, and the selection file.

Owns which targets are measured and what is recorded about each of them.  Random draws take a
seed; ``write_selection`` alone touches the disk.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from spotlib.errors import ParameterError
from spotlib.money import held_usd
from spotlib.select.cov import PAIR, SMALL_SIZES, Form, Missing, is_of_size, variation
from spotlib.select.evidence import FLAGGED_SHARE, evidence
from spotlib.select.parameters import SelectParameters


def choose_targets(
    scored: pd.DataFrame,
    *,
    top: int,
    max_per_region: int | None = None,
    max_per_family: int | None = None,
) -> pd.DataFrame:
    """Take the best ``top`` of a ranking; skip those whose region or family is full.

    Parameters
    ----------
    scored : DataFrame
        As ``score_targets`` returns it: best first, with instance_type and region.
    top : int
        How many to take; fewer are taken if the ranking is exhausted.
    max_per_region, max_per_family : int, optional
        The most to take of one region, and of one family (the part of the type before its first
        dot).  No limit by default.

    Returns
    -------
    DataFrame, one row per chosen target
        Those rows of ``scored``, with a new rank from 1, role ``ranked`` and inclusion_probability
        1.

    Examples
    --------
    At most one target per region:

    >>> import pandas as pd
    >>> from spotlib import choose_targets
    >>> scored = pd.DataFrame(
    ...     {
    ...         "instance_type": ["t3.nano", "t3.micro", "t3.nano"],
    ...         "region": ["sa-east-1", "sa-east-1", "eu-west-1"],
    ...         "score": [0.3, 0.2, 0.1],
    ...     }
    ... )
    >>> chosen = choose_targets(scored, top=2, max_per_region=1)
    >>> print(chosen[["rank", "instance_type", "region", "score"]].to_string(index=False))
     rank instance_type    region  score
        1       t3.nano sa-east-1    0.3
        2       t3.nano eu-west-1    0.1
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


def complete_selection(
    chosen: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    counts: pd.DataFrame,
    parameters: SelectParameters,
) -> pd.DataFrame:
    """Add the controls, and for each target what its score rests on and what it costs to measure.

    Parameters
    ----------
    chosen, pairs, counts : DataFrame
        As returned by ``choose_targets``, ``variation`` and ``read_counts``.  Controls are drawn
        from ``pairs``.
    parameters : SelectParameters
        Of these: form, missing, sizes, controls, seed and held_s.

    Returns
    -------
    DataFrame, one row per target
        With the columns of ``evidence``, both CoVs in the form that was not used,
        expected_cost_usd (of one instance), flagged (rests on under 1 % of the snapshots) and
        scale_changed (shows SPS both above 3 and up to 3, which are two scales).

    Raises
    ------
    ValueError
        If nothing was chosen because no pair varies in both.
    """
    sizes, form = parameters.size_tokens, cast("Form", parameters.form)
    missing = cast("Missing", parameters.missing)
    if chosen.empty:
        raise ParameterError(
            f"no target of the sizes {', '.join(sizes)} varies in both SPS and IF"
            f" in these days ({counts['day'].nunique()}): read more days, or name more sizes"
        )
    table = add_controls(
        chosen, pairs, controls=parameters.controls, seed=parameters.seed, sizes=sizes
    )
    known = evidence(counts, form=form, missing=missing, pairs=table)
    table = table.merge(known, on=PAIR, how="left")
    table = table.merge(_other_form(counts, form, missing), on=PAIR, how="left")
    cost = held_usd(table["price_usd_per_hour"].to_numpy("float64"), parameters.held_s)
    flagged = table["resting_share"].gt(0) & table["resting_share"].lt(FLAGGED_SHARE)
    changed = table["sps_above_3"].gt(0) & table["sps_above_3"].lt(1)
    return table.assign(expected_cost_usd=cost, flagged=flagged, scale_changed=changed)


def add_controls(
    chosen: pd.DataFrame,
    variation: pd.DataFrame,
    *,
    controls: int,
    seed: int,
    sizes: Iterable[str] | None = SMALL_SIZES,
) -> pd.DataFrame:
    """Append random controls: a model that has never seen a stable target cannot predict one.

    Of the pairs of these sizes that were not chosen, ``controls`` are drawn from those whose SPS
    never varied (role ``constant``) and ``controls`` from all others (role ``random``), each
    stratum without replacement; a smaller stratum is taken completely.  ``inclusion_probability``
    is the share of the stratum that was drawn; its inverse is the weight of the target in any later
    statement about all pairs.
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


def file_stamp(created: datetime) -> str:
    """Return a time as the names of the files of one execution have it; they sort by it."""
    return f"{created:%Y%m%dT%H%M%S.%fZ}"


def write_selection(
    selection: pd.DataFrame,
    folder: str | Path,
    *,
    source: Literal["spotlake", "sandbox"],
    created: datetime,
    parameters: Mapping[str, Any],
) -> Path:
    """Write ``selection`` as ``folder/<created>.csv``, best first, and return that path.

    Each row also carries the source, the time of creation and the parameters, so a file explains
    itself.  Never overwrites; the name has microseconds, because two notebooks may start in the
    same second.
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
    path = Path(folder, f"{file_stamp(created)}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    selection.assign(**facts).to_csv(path, index=False, mode="x")
    return path


def _other_form(counts: pd.DataFrame, form: Form, missing: Missing) -> pd.DataFrame:
    """Return the CoVs in the unused form: ``03_analyze`` compares them as selectors."""
    other: Form = "within" if form == "pooled" else "pooled"
    table = variation(counts, form=other, missing=missing)[[*PAIR, "sps_cov", "if_cov"]]
    return table.rename(columns={name: f"{name}_{other}" for name in ("sps_cov", "if_cov")})
