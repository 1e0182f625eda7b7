"""Where the workspace is, and the folder for results.

Only ``results_folder`` creates something: ``launches/``, the folder of logs.
"""

import os
from pathlib import Path

import spotlib
from spotlib.errors import ParameterError

LAUNCHES = "launches"  # the folder of logs in a results folder
_NOTEBOOK = "notebooks/02_collect.ipynb"  # shows that a folder is a workspace

_PARTS = (LAUNCHES, "selection", "counts", "figures", "tables")  # the folders in it


def workspace() -> Path:
    """Return the folder of ``notebooks/`` and ``results/``.

    It is the folder that holds the package.  If the package is installed elsewhere (plain ``pip
    install .``), it is the nearest folder with the notebooks, searched from the current folder
    upwards; if there is none, it is the current folder.
    """
    here = Path.cwd()
    for folder in (Path(spotlib.__file__).parents[1], here, *here.parents):
        if (folder / _NOTEBOOK).is_file():
            return folder
    return here


def results_path(results: str | Path = "") -> Path:
    """Return where the results are: ``results/``, or the one given, relative to the workspace."""
    return workspace() / (results or "results")


def logs_folder(results: str | Path = "") -> Path:
    """Return the folder of logs in a results folder, or that folder itself if it holds the logs.

    Raises
    ------
    FileNotFoundError
        If there is no log: a mistyped name must not look like a folder in which all is well.
    """
    folder = results_path(results)
    launches = folder / LAUNCHES
    for each in (launches, folder):
        if each.is_dir() and any(_is_log(path) for path in each.iterdir()):
            return each
    raise FileNotFoundError(
        f"there are no logs here: {str(launches)!r} "
        f"{'holds none' if launches.is_dir() else 'does not exist'}; "
        "run 02_collect first, or name another results folder"
    )


def _is_log(path: Path) -> bool:
    return path.suffix == ".jsonl" and not path.name.startswith(".")  # hidden: of an editor


def results_folder(results: str | Path = "") -> Path:
    """Return the results folder, as ``results_path``, with a folder of logs in it.

    Raises
    ------
    ValueError
        If nothing can be written there, or a file has the name of one of its folders: a measurement
        that cannot be kept must not be paid for.  Or if its parent folder does not exist: a
        mistyped path must not create folders elsewhere.
    """
    folder = results_path(results)
    if not folder.parent.exists():
        raise ParameterError(
            f"results {str(folder)!r} cannot be made: there is no folder {str(folder.parent)!r}; "
            "correct the name, or make that folder first"
        )
    for part in (folder / name for name in _PARTS):
        if os.path.lexists(part) and not part.is_dir():
            raise ValueError(f"results needs {str(part)!r} as a folder: move what is there")
    try:
        (folder / LAUNCHES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"results {str(folder)!r} cannot be made: {error.strerror}; choose another folder"
        ) from error
    if not os.access(folder / LAUNCHES, os.W_OK):
        raise ParameterError(f"results {str(folder)!r} cannot be written to: choose another folder")
    return folder
