"""Print style of the figures: page sizes, fonts, colours; and writing figures to files."""

import math
import textwrap
from functools import partial
from pathlib import Path
from typing import Any, Literal

from matplotlib import style
from matplotlib.figure import Figure

from repe.files import write_whole

# Inches: the text area of a printed page, and the width of one of its two columns.
PAGE_WIDTH, PAGE_HEIGHT, COLUMN_WIDTH = 6.9, 9.2, 3.35
TEXT, SMALL = 7.0, 6.0  # points: names and titles; tick labels and numbers in cells
LETTER, LINE = 0.062, 0.15  # inches: width of a letter and height of a line of names

# On top of Matplotlib's defaults, ignoring the user's settings, so that files are the same everywhere.
in_print_style = style.context(
    [
        "default",
        {
            "font.family": "DejaVu Sans",  # comes with Matplotlib, so it is available everywhere
            "font.size": TEXT,
            "axes.titlesize": TEXT,
            "axes.titlepad": 3,
            "axes.linewidth": 0.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "xtick.major.width": 0.5,
            "ytick.major.width": 0.5,
            "xtick.major.size": 2,
            "ytick.major.size": 2,
            "xtick.major.pad": 1.5,
            "ytick.major.pad": 1.5,
            "legend.fontsize": TEXT,
            "legend.frameon": False,
            "hatch.linewidth": 0.4,
            "pdf.fonttype": 42,  # TrueType: searchable text, which publishers accept
        },
    ]
)

# The hues of Okabe and Ito, safe for colour-blind readers, without yellow, which is too pale for a line.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
DASHES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))
MISSING: dict[str, Any] = {"facecolor": "0.95", "edgecolor": "0.6", "hatch": "//////"}


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    return Figure(figsize=(width, height), layout=layout)


def wrapped(name: str, width: float) -> str:
    """`name` wrapped to `width` inches, after hyphens and underscores if it has any."""
    return textwrap.fill(name.replace("_", "_ "), max(8, int(width / LETTER))).replace("_ ", "_")


def near_square(count: int) -> int:
    """Number of columns of a grid of `count` panels: near square with few holes; three in one row; at most four."""
    square = min(4, math.ceil(math.sqrt(count)))
    return min(range(square, 5), key=lambda columns: -count % columns)


@in_print_style
def save(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """Write `figure` to `<out_dir>/<name>.png` (300 dots per inch) and `.pdf`, clear it, and return the two paths.

    The same figure always gives the same bytes: no date is written. A crash leaves either the old or the new file.

    Raises:
        UserError: the folder or a file cannot be written.
    """
    paths = []
    for kind, metadata in {"png": {}, "pdf": {"CreationDate": None}}.items():
        write = partial(figure.savefig, format=kind, dpi=300, metadata=metadata)
        paths.append(write_whole(out_dir / f"{name}.{kind}", write))
        figure.set_layout_engine("none")  # the second file keeps the places of the first
    figure.clear()
    return paths
