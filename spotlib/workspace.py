"""TODO."""

import os
from pathlib import Path

import spotlib


def workspace() -> Path:
    """The folder that holds ``notebooks/`` and ``results/``: where the package is installed."""
    return Path(spotlib.__file__).parents[1]


def results_folder(results: str | Path = "") -> Path:
    """The results folder: the workspace's own, or the one given (relative to the workspace).

    Raises
    ------
    ValueError
        If it cannot be written to, before anything is spent on what could not be kept.
    """
    folder = workspace() / (results or "results")
    try:
        (folder / "launches").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"results {str(folder)!r} cannot be made: {error.strerror}") from error
    if not os.access(folder / "launches", os.W_OK):
        raise ValueError(f"results {str(folder)!r} cannot be written to: choose another folder")
    return folder
