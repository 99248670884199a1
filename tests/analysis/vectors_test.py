"""Geometry of vectors against closed forms."""

from __future__ import annotations

import math

import numpy
import pytest

from bipo_analysis import convergence, cosine, cosine_matrix, norms


def test_norms():
    numpy.testing.assert_array_equal(norms(numpy.array([[3, 4, 0], [0, 0, 0], [1, 2, 2]])), [5, 0, 3])


def test_cosines_of_known_angles():
    angles = numpy.radians([0, 30, 90, 180])
    vectors = numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=1) * numpy.array([[1], [7], [0.01], [100]])
    expected = numpy.cos(angles[:, None] - angles[None, :])
    numpy.testing.assert_allclose(cosine_matrix(vectors), expected, atol=1e-15)


def test_cosine_of_two():
    assert cosine(numpy.array([1.0, 1.0]), numpy.array([0.0, 2.0])) == pytest.approx(math.sqrt(0.5), rel=1e-15)


def test_float32_vectors_are_computed_in_float64():
    vector = numpy.full(4096, 1e-30, numpy.float32)  # whose squares vanish in float32
    assert cosine(vector, vector) == pytest.approx(1.0, rel=1e-12)


def test_zero_has_no_direction():
    cosines = cosine_matrix(numpy.array([[0.0, 0.0], [1.0, 0.0]]))
    assert numpy.isnan(cosines[0]).all() and numpy.isnan(cosines[:, 0]).all() and cosines[1, 1] == 1


def test_convergence_of_a_geometric_sequence():
    """v_i = (1 - 2^-i) v: the direction never changes, the distance to v_5 is (2^-i - 2^-5) / (1 - 2^-5)."""
    powers = 0.5 ** numpy.arange(1, 6)
    course = convergence(numpy.outer(1 - powers, [3.0, 4.0]))
    numpy.testing.assert_allclose(course["cosine"], 1, rtol=1e-15)
    numpy.testing.assert_allclose(course["relative_distance"], (powers - powers[-1]) / (1 - powers[-1]), atol=1e-15)


def test_convergence_of_a_turning_vector():
    """On the unit circle the distance of two vectors is the chord, 2 sin(angle / 2)."""
    angles = numpy.radians([90, 60, 0])
    course = convergence(numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=1))
    numpy.testing.assert_allclose(course["cosine"], numpy.cos(angles), atol=1e-15)
    numpy.testing.assert_allclose(course["relative_distance"], 2 * numpy.sin(angles / 2), atol=1e-15)


def test_convergence_of_none_of_one_and_to_zero():
    assert len(convergence(numpy.zeros((0, 4)))) == 0
    assert convergence(numpy.ones((1, 4))).to_dict("list") == {"cosine": [pytest.approx(1)], "relative_distance": [0]}
    assert convergence(numpy.array([[1.0], [0.0]])).isna().all(axis=None)
