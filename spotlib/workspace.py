"""Where the workspace is, and the folder for results.

Only ``results_folder`` creates something: ``launches/``, the folder of logs.
"""

import os
from pathlib import Path

import spotlib
from spotlib.errors import ParameterError

LAUNCHES = "launches"  # the folder of logs in a results folder


def workspace() -> Path:
    """Return the folder of ``notebooks/`` and ``results/``: the one that holds the package."""
    return Path(spotlib.__file__).parents[1]


def results_path(results: str | Path = "") -> Path:
    """Return where the results are: ``results/``, or the one given, relative to the workspace."""
    return workspace() / (results or "results")


def logs_folder(results: str | Path = "") -> Path:
    """Return the folder of logs in a results folder, or that folder itself if it holds the logs.

    Raises
    ------
    FileNotFoundError
        If there is none: a mistyped name must not look like a folder in which all is well.
    """
    folder = results_path(results)
    if (folder / LAUNCHES).is_dir():
        return folder / LAUNCHES
    if folder.is_dir() and any(folder.glob("*.jsonl")):
        return folder
    raise FileNotFoundError(f"there are no logs here: {str(folder / LAUNCHES)!r} does not exist")


def results_folder(results: str | Path = "") -> Path:
    """Return the results folder, as ``results_path``, with a folder of logs in it.

    Raises
    ------
    ValueError
        If nothing can be written there: a measurement that cannot be kept must not be paid for.
    """
    folder = results_path(results)
    try:
        (folder / LAUNCHES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"results {str(folder)!r} cannot be made: {error.strerror}; choose another folder"
        ) from error
    if not os.access(folder / LAUNCHES, os.W_OK):
        raise ParameterError(f"results {str(folder)!r} cannot be written to: choose another folder")
    return folder
