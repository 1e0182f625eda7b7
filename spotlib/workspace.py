"""Where the workspace is, and the folder for results.  It creates ``launches/``, nothing else."""

import os
from pathlib import Path

import spotlib


def workspace() -> Path:
    """Return the folder of ``notebooks/`` and ``results/``: the one that holds the package."""
    return Path(spotlib.__file__).parents[1]


def results_folder(results: str | Path = "") -> Path:
    """Return the results folder: ``results/``, or the one given, relative to the workspace.

    Raises
    ------
    ValueError
        If nothing can be written there: a measurement that cannot be kept must not be paid for.
    """
    folder = workspace() / (results or "results")
    try:
        (folder / "launches").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"results {str(folder)!r} cannot be made: {error.strerror}; choose another folder"
        ) from error
    if not os.access(folder / "launches", os.W_OK):
        raise ValueError(f"results {str(folder)!r} cannot be written to: choose another folder")
    return folder
