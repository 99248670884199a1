"""What is wrong with a page as a browser shows it: errors, network, overflow, empty plots."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
from browser import Browser
from PIL import Image

# Elements that reach out of the window, unless they lie in a box that scrolls by itself.
OVERFLOWING = """
(() => {
  const width = document.documentElement.clientWidth;
  const isOut = box => box.width > 0 && (box.right > width + 1 || box.left < -1);
  const outside = [...document.body.querySelectorAll('*')].filter(
    element => !element.parentElement.closest('.scroll') && isOut(element.getBoundingClientRect()));
  const names = outside.map(element => element.tagName + '.' + element.className + ' ' +
    element.textContent.slice(0, 40));
  if (document.documentElement.scrollWidth > width) names.push('the page itself scrolls sideways');
  return names;
})()
"""
PLOT_BOXES = """
[...document.querySelectorAll('figure img')].map(image => {
  const box = image.getBoundingClientRect();
  const isDrawn = image.complete && image.naturalWidth > 0;
  return {name: image.alt, isDrawn, x: box.left + scrollX, y: box.top + scrollY, width: box.width, height: box.height};
})
"""
# A plot has text, axes and at least one coloured line; shades from smoothing alone give many more.
FEWEST_COLOURS = 24
LEAST_SATURATION = 60  # of the strongest colour, of 255
LEAST_INK = 0.005  # share of pixels that are not background


def problems(browser: Browser, page: Path, width: int) -> list[str]:
    """All that is wrong at this width of the window, each in words; none for a good page."""
    observed = browser.open(page, width)
    found = [f"console: {message}" for message in observed.messages]
    found += [f"request: {address}" for address in observed.requests if address != page.resolve().as_uri()]
    overflowing = browser.evaluate(OVERFLOWING)
    assert isinstance(overflowing, list)
    found += [f"overflow: {name}" for name in overflowing]
    return found + _empty_plots(browser)


def plot_names(browser: Browser) -> list[str]:
    """The descriptions of the plots of the page that is open."""
    boxes = browser.evaluate(PLOT_BOXES)
    assert isinstance(boxes, list)
    return [box["name"] for box in boxes]


def _empty_plots(browser: Browser) -> list[str]:
    boxes = browser.evaluate(PLOT_BOXES)
    assert isinstance(boxes, list)
    picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    found = []
    for box in boxes:
        left, top = round(box["x"]), round(box["y"])
        part = picture.crop((left, top, left + round(box["width"]), top + round(box["height"])))
        problem = _emptiness(numpy.asarray(part).reshape(-1, 3)) if box["isDrawn"] else "cannot be drawn"
        if problem:
            found.append(f"plot {box['name']}: {problem}")
    return found


def _emptiness(pixels: numpy.ndarray) -> str:
    """Why a plot's pixels look empty, or nothing."""
    if len(pixels) < 100 * 100:
        return f"only {len(pixels)} pixels"
    red, green, blue = pixels.astype(int).T
    colours, counts = numpy.unique(red << 16 | green << 8 | blue, return_counts=True)
    ink = 1 - counts.max() / len(pixels)
    if len(colours) < FEWEST_COLOURS or ink < LEAST_INK:
        return f"{len(colours)} colours, {100 * ink:.2f} % ink"
    saturation = numpy.ptp(numpy.stack([colours >> 16, colours >> 8 & 255, colours & 255]), axis=0)
    return "" if (saturation > LEAST_SATURATION).any() else "no colour"
