"""Texts in the colours of a unit, as a PNG."""

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overnight.errors import UserError
from overnight.report.texts import visible

_BELOW, _ABOVE = (0.79, 0.31, 0.04), (0.04, 0.39, 0.71)  # the report's orange and blue: told apart by the colour-blind
_LINE, _CHARACTER, _POINTS = 0.26, 0.105, 12.5  # inches of a line's height and a character's width; the font's size


def write_heat_png(
    path: str | Path,
    texts: Sequence[tuple[str, Sequence[float]]],
    *,
    centre: float = 0.0,
    scale: float | None = None,
    title: str = "",
    columns: int = 90,
) -> None:
    """Write one picture of texts, each character on a background that tells its value: orange below, blue above.

    Args:
        path: where to; replaced if it is there.
        texts: (characters, one value for each); a line feed is shown as ↵.
        centre: the value without colour.
        scale: the distance from it that has the full colour; None is the largest there is.
        title: above the texts.
        columns: characters a line.

    Raises:
        ValueError: a text has not one value for each character.
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    for text, values in texts:
        if len(text) != len(values):
            raise ValueError(f"{len(values)} values for {len(text)} characters")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise UserError(
            "A heat map as PNG needs matplotlib.", "Install it with: pip install 'overnight[report]'."
        ) from (error)
    full = scale or max((abs(value - centre) for _, values in texts for value in values), default=0.0) or 1.0
    cells: list[tuple[int, int, str, float]] = []
    line = 2 if title else 0
    for text, values in texts:
        line, column = line + 1, 0
        for character, value in zip(visible(text.replace("\n", "↵")), values, strict=True):
            width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if column + width > columns:
                line, column = line + 1, 0
            cells.append((line, column, character, (value - centre) / full))
            column += width
        line += 1
    figure = Figure(figsize=((columns + 4) * _CHARACTER, (line + 2) * _LINE), dpi=144, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-2, columns + 2), ylim=(line + 1, -1))
    axes.axis("off")
    axes.text(0, 0.2, title, fontsize=_POINTS, fontweight="bold", va="center", family="DejaVu Sans", parse_math=False)
    for row, column, character, share in cells:
        strength = 0.75 * min(1.0, abs(share))
        colour = tuple(1 - strength * (1 - part) for part in (_ABOVE if share > 0 else _BELOW))
        width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        axes.add_patch(Rectangle((column, row - 0.45), width, 0.9, facecolor=colour, linewidth=0))
        if not character.isspace():
            axes.text(
                column + width / 2, row, character, ha="center", va="center", fontsize=_POINTS,
                family="DejaVu Sans Mono", parse_math=False,
            )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # it draws a box for what its font has not
            canvas.print_png(str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.", "Choose another place.") from error
