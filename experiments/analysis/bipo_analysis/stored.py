"""What HDF5 files hold, as plain values of Python and tables of pandas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import h5py
import numpy
import pandas

from .checksums import checked_values, require_sealed
from .errors import AnalysisError

Content = TypeVar("Content")


def read_stored(path: str | Path, kind: str, wrote: str, read: Callable[[h5py.File, str], Content]) -> Content:
    """What `read` makes of a file and its name; `kind` and `wrote` say in errors what it is and who writes it.

    Raises AnalysisError, which names the file, for one that is missing or damaged, and where `read` does.
    """
    path = Path(path)
    if not path.is_file():
        raise AnalysisError(f"{path}: no such file; name {kind} that {wrote} wrote")
    try:
        require_sealed(path)
        with h5py.File(path, "r") as file:
            return read(file, path.stem if path.suffix == ".h5" else path.name)
    except AnalysisError as error:
        raise AnalysisError(f"{path}: {error}") from error
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise AnalysisError(f"{path}: damaged, or not {kind} of bipo-dist: {error}") from error


def require_schema(found: object, known: int) -> None:
    """Raises AnalysisError unless `found` is a schema_version from 1 to `known`."""
    if not isinstance(found, int) or found < 1:
        raise AnalysisError("it has no schema_version, so bipo-dist did not write it; name one of its files")
    if found > known:
        raise AnalysisError(f"its schema_version is {found}, and this package reads up to {known}; "
                            "use the bipo_analysis of the version that wrote it")


def plain_value(value: object) -> object:
    """A scalar of h5py as the Python type that it stands for."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, numpy.generic) else value


def read_table(dataset: h5py.Dataset) -> pandas.DataFrame:
    """A 1-D compound dataset, its UTF-8 texts as str.  Raises ValueError for another kind of dataset."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.names is None or dataset.ndim != 1:
        raise ValueError(f"{dataset.name} is not a table")
    rows = checked_values(dataset)
    return pandas.DataFrame({name: _column(rows[name]) for name in rows.dtype.names})


def _column(values: numpy.ndarray) -> numpy.ndarray:
    if values.dtype.kind not in "SO":
        return values
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values.tolist()]
    return numpy.array(texts, dtype=object)
