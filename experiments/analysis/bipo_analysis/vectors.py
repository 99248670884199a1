"""Geometry of steering vectors: cosines, norms, and how training converged.

Vectors come as rows, n of them with D elements.  All results are float64.
"""

from __future__ import annotations

import numpy
import pandas


def norms(vectors: numpy.ndarray) -> numpy.ndarray:
    """Euclidean norm of each row: (n,)."""
    return numpy.linalg.norm(numpy.asarray(vectors, dtype=numpy.float64), axis=1)


def cosine_matrix(vectors: numpy.ndarray) -> numpy.ndarray:
    """Cosine between each two rows: (n, n), within [-1, 1].

    Rows may be the final vectors of layers or seeds, or the vectors of one run's epochs.  A vector of norm 0 has
    no direction: its row and column are NaN.
    """
    values = numpy.asarray(vectors, dtype=numpy.float64)
    lengths = norms(values)
    lengths[lengths == 0] = numpy.nan
    units = values / lengths[:, None]
    return numpy.clip(units @ units.T, -1.0, 1.0)


def cosine(left: numpy.ndarray, right: numpy.ndarray) -> float:
    """Cosine between two vectors; NaN where one of them has norm 0."""
    return float(cosine_matrix(numpy.stack([left, right]))[0, 1])


def convergence(vectors: numpy.ndarray) -> pandas.DataFrame:
    """How far each row is from the last: columns `cosine` and `relative_distance`, one row per vector.

    relative_distance is |v_i - v_last| / |v_last|: it also sees a vector that only grows.  A last vector of norm 0
    gives NaN.
    """
    values = numpy.asarray(vectors, dtype=numpy.float64)
    if len(values) == 0:
        return pandas.DataFrame({"cosine": [], "relative_distance": []}, dtype=numpy.float64)
    return pandas.DataFrame({"cosine": cosine_matrix(values)[:, -1], "relative_distance": relative_distances(values)})


def relative_distances(vectors: numpy.ndarray) -> numpy.ndarray:
    """The column relative_distance of `convergence`, without the cosines."""
    values = numpy.asarray(vectors, dtype=numpy.float64)
    if len(values) == 0:
        return numpy.empty(0)
    last_norm = norms(values[-1:])[0]
    return norms(values - values[-1]) / (last_norm if last_norm > 0 else numpy.nan)
