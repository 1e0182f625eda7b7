"""How long do EC2 spot instances take from request to ready?

The notebooks call this package.  What they use most can be imported from here; everything else is
imported from its subpackage, for example ``from spotlib.analyze import checks``.  Importing
``spotlib`` loads no other library: a name is loaded when it is first used.

Read the core in ten minutes, about 300 lines:

1. ``track``: ``Track``, ``advance`` and ``conclude``, the rule from polls to brackets and outcomes.
2. ``collect.watch``: ``watch``, ``_polled`` and ``_end_due``, the loop that polls EC2.
3. ``cleanup.close``: ``release`` and ``settle``, which leave nothing behind.
4. ``select.cov``: ``variation``, ``_moments`` and ``score_targets``, the CoV math.

The subpackages, in the order of the data: ``select`` chooses targets, ``collect`` measures them
with ``ec2`` and ``cleanup``, ``record`` keeps what was seen, ``analyze`` and ``forecast`` read it.
``sandbox`` is a simulated spot market.  ``spotlib --help`` lists what runs without a notebook.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spotlib.analyze.launch_times import launch_times as launch_times
    from spotlib.cleanup.sweep import sweep as sweep
    from spotlib.collect.preflight import preflight as preflight
    from spotlib.collect.rounds import collect_batch as collect_batch
    from spotlib.ec2.endpoints import connect as connect
    from spotlib.forecast.forecast import forecast_ready as forecast_ready
    from spotlib.model import Plan as Plan
    from spotlib.model import Stage as Stage
    from spotlib.model import Target as Target
    from spotlib.model import plan_launches as plan_launches
    from spotlib.record.tables import load_batches as load_batches
    from spotlib.record.tables import load_launches as load_launches
    from spotlib.record.tables import load_polls as load_polls
    from spotlib.select.archive.counts import read_counts as read_counts
    from spotlib.select.choose import choose_targets as choose_targets
    from spotlib.select.cov import score_targets as score_targets
    from spotlib.select.cov import variation as variation

__version__ = "0.1.0"

_HOMES = {
    "Plan": "model",
    "Stage": "model",
    "Target": "model",
    "choose_targets": "select.choose",
    "collect_batch": "collect.rounds",
    "connect": "ec2.endpoints",
    "forecast_ready": "forecast.forecast",
    "launch_times": "analyze.launch_times",
    "load_batches": "record.tables",
    "load_launches": "record.tables",
    "load_polls": "record.tables",
    "plan_launches": "model",
    "preflight": "collect.preflight",
    "read_counts": "select.archive.counts",
    "score_targets": "select.cov",
    "sweep": "cleanup.sweep",
    "variation": "select.cov",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spotlib' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"spotlib.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
