"""A conceptor, the matrix that `bipo-dist extract --method conceptor` writes in place of a vector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy

from .checksums import checked_values, require_checked_attributes
from .errors import AnalysisError
from .stored import plain_value, read_stored, require_schema

CONCEPTOR_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Conceptor:
    """A symmetric matrix C, float64 [hidden size, hidden size], of the output of block `layer`, from 0.

    It acts as h + m (beta C h - h) on the row h of a token, at the multiplier m.  `aperture` is in residual units,
    `absolute_aperture` in those of the activations; both are None where C was made of other conceptors.
    """

    layer: int
    matrix: numpy.ndarray
    name: str
    beta: float = 1.0
    aperture: float | None = None
    absolute_aperture: float | None = None
    attributes: dict[str, object] | None = None
    settings: dict[str, object] | None = None

    @property
    def quota(self) -> float:
        """The mean of the eigenvalues, the share of the dimensions that C lets pass."""
        return float(numpy.trace(self.matrix)) / len(self.matrix)

    @property
    def eigenvalues(self) -> numpy.ndarray:
        """Ascending."""
        return numpy.linalg.eigvalsh(self.matrix)


def load_conceptor(path: str | Path, beta: float = 1.0) -> Conceptor:
    """Reads a conceptor file.  Raises AnalysisError for one that is missing, damaged, or newer than this package."""
    def read(file: h5py.File, name: str) -> Conceptor:
        stored = dict(file.attrs.items())
        attributes = {key: plain_value(value) for key, value in stored.items()}
        if attributes.get("kind") != "conceptor":
            raise AnalysisError("it holds no conceptor; name a file of `bipo-dist extract --method conceptor`")
        require_schema(attributes.get("schema_version"), CONCEPTOR_SCHEMA)
        require_checked_attributes(file, stored)
        matrix = checked_values(file["conceptor"])
        if matrix.ndim != 2 or not numpy.array_equal(matrix, matrix.T) or not numpy.isfinite(matrix).all():
            raise ValueError("its matrix is not symmetric and finite")
        return Conceptor(int(str(attributes["layer"])), matrix, name, beta, _number(attributes.get("aperture")),
                         _number(attributes.get("absolute_aperture")), attributes,
                         json.loads(str(attributes["config"])))
    return read_stored(path, "a conceptor file", "`bipo-dist extract --method conceptor`", read)


def is_conceptor_file(path: str | Path) -> bool:
    """Whether the file says so; False for one that is missing or no HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("kind") == "conceptor")
    except OSError:
        return False


def _number(text: object) -> float | None:
    return None if text is None else float(str(text))
