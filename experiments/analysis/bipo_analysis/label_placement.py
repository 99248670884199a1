"""Texts beside the points of a plot, where they hide neither each other nor a point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# Where a text may lie: degrees around its point, and points from it to the text's nearest edge.
ANGLES = tuple(range(0, 360, 30))
DISTANCES = (6, 14, 24, 36, 52, 70)
# A text further away than this has a line to its point.
LEADER_FROM = 12
# What a text may hide, in weights of hidden areas; leaving the plot is as bad as hiding another text.
TEXT, POINT, BAR = 100.0, 40.0, 1.0
POINT_SIZE = 12.0  # points
# Free room around a text, in points.
PADDING = 2.0


def place_labels(axes: Axes, positions: Sequence[tuple[float, float]], texts: Sequence[str], colours: Sequence[str],
                 bars: Sequence[tuple[float, float, float, float]] = (), size: float = 7.5) -> list[Annotation]:
    """Writes each text beside its position (in data units), the most crowded first; returns the annotations.

    `bars` are boxes in data units, (x0, y0, x1, y1), that are better left free.  Scales, limits and margins of the axes
    must be final.
    """
    # Limits follow from the data when they are first asked for; the transformation does not ask.
    axes.get_xlim(), axes.get_ylim()
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale = axes.figure.dpi / 72  # type: ignore[union-attr]
    pixels = axes.transData.transform(numpy.asarray(positions, dtype=float).reshape(-1, 2))
    half = POINT_SIZE * scale / 2
    points = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in pixels]
    ends = axes.transData.transform(numpy.asarray(bars, dtype=float).reshape(-1, 2)).reshape(-1, 4)
    boxes = [Bbox.from_extents(x0 - 1, y0 - 1, x1 + 1, y1 + 1) for x0, y0, x1, y1 in ends]
    taken: list[Bbox] = []
    annotations = []
    for index in _crowded_first(pixels):
        note = axes.annotate(texts[index], positions[index], xytext=(0, 0), textcoords="offset points", fontsize=size,
                             color=colours[index], va="center", ha="center", linespacing=0.95, zorder=5,
                             bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8})
        extent = note.get_window_extent(renderer).padded(PADDING * scale)
        obstacles = [(TEXT, taken), (POINT, points), (BAR, boxes)]
        x, y, box = _best_place(pixels[index], extent.width, extent.height, axes.get_window_extent(), obstacles, scale)
        note.set_position((x / scale, y / scale))
        if _gap(pixels[index], box) > LEADER_FROM * scale:
            axes.annotate("", positions[index], xytext=(x / scale, y / scale), textcoords="offset points",
                          arrowprops={"arrowstyle": "-", "color": colours[index], "linewidth": 0.5, "shrinkA": 0,
                                      "shrinkB": 3, "alpha": 0.6}, zorder=2)
        taken.append(box)
        annotations.append(note)
    return annotations


def _crowded_first(pixels: numpy.ndarray) -> list[int]:
    """The points in the order of the distance to their nearest neighbour."""
    if len(pixels) < 2:
        return list(range(len(pixels)))
    gaps = numpy.hypot(*(pixels[:, None] - pixels[None]).transpose(2, 0, 1)) + numpy.diag([math.inf] * len(pixels))
    return [int(index) for index in numpy.argsort(gaps.min(axis=1), kind="stable")]


def _best_place(point: numpy.ndarray, width: float, height: float, frame: Bbox,
                obstacles: Sequence[tuple[float, Sequence[Bbox]]], scale: float) -> tuple[float, float, Bbox]:
    """The offset of a text's middle in pixels and its box, at the place that hides least, then the nearest one."""
    best, least = (0.0, 0.0, Bbox.null()), math.inf
    for distance in DISTANCES:
        for angle in ANGLES:
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            x = across * (distance * scale + width / 2)
            y = up * (distance * scale + height / 2)
            box = Bbox.from_bounds(point[0] + x - width / 2, point[1] + y - height / 2, width, height)
            cost = TEXT * (width * height - _shared(box, frame)) + 0.05 * distance * scale * height
            cost += sum(weight * _shared(box, other) for weight, others in obstacles for other in others)
            if cost < least:
                best, least = (x, y, box), cost
    return best


def _shared(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _gap(point: numpy.ndarray, box: Bbox) -> float:
    """How far a point lies from a box."""
    across = max(box.x0 - point[0], 0.0, point[0] - box.x1)
    up = max(box.y0 - point[1], 0.0, point[1] - box.y1)
    return math.hypot(across, up)
