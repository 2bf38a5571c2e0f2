"""What the pictures share: colours, reading of tables, rendering."""

import csv
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933"]
"""Of Okabe & Ito, which colour-blind readers tell apart."""


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read a CSV file of numbers, by the names in its first line; ``True`` is 1. Nothing where there are no rows."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    truth = {"True": 1.0, "False": 0.0}
    return {name: np.array([float(truth.get(row[name], row[name])) for row in rows]) for name in (rows or [{}])[0]}


def png(figure: Figure) -> bytes:
    """Render a figure."""
    image = io.BytesIO()
    figure.savefig(image, dpi=110, format="png")
    return image.getvalue()
