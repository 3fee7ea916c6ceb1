"""How figures look and how they are saved: one palette, one font, equal bytes for equal numbers."""

import base64
import colorsys
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from radscale.errors import InputError

# Okabe and Ito without the two pale colours, which are hard to see on white; shapes tell arms apart without colour too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B35C92", "#7A5195", "#8C6D1F", "#4D4D4D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OPEN_DASHES: Sequence[Any] = ((0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
OPEN_MARKERS = ("|", "x", "+")
GREY = "#5b6472"
INK = "#1f2937"
FAINT = "#9ca3af"
FONT = "DejaVu Sans"
STYLE: Any = {
    "font.family": FONT,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.hashsalt": "radscale",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: text stays text, and journals accept it
    "pdf.use14corefonts": False,
}
SUFFIXES = (".svg", ".pdf", ".png")


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn, the same in all figures."""

    colour: str
    marker: str
    dashes: Any = "-"
    """Only open weights are dashed throughout; a trained arm's dashed line means extrapolation."""
    open_weights: bool = False

    @property
    def text(self) -> str:
        """The colour, darkened until text in it can be read on white."""
        return readable(self.colour)


def arm_styles(trained: Sequence[str], open_weights: Sequence[str] = ()) -> dict[str, ArmStyle]:
    """Styles by label: trained arms in the palette's order, open weights in ink."""
    styles = {
        label: ArmStyle(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]) for index, label in enumerate(trained)
    }
    for index, label in enumerate(open_weights):
        dashes, marker = OPEN_DASHES[index % len(OPEN_DASHES)], OPEN_MARKERS[index % len(OPEN_MARKERS)]
        # Nearly black: to who sees no green, green is grey.
        styles[label] = ArmStyle(INK, marker, dashes, open_weights=True)
    return styles


def contrast_with_white(colour: str) -> float:
    """Contrast ratio of WCAG 2.1, from 1 to 21."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def readable(colour: str, ratio: float = 5.0) -> str:
    """The same hue, as dark as text needs it."""
    hue, light, saturation = colorsys.rgb_to_hls(*(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)))
    while contrast_with_white(colour) < ratio:
        light -= 0.01
        colour = "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(hue, light, saturation))
    return colour


def check_figure_path(path: Path) -> None:
    """Refuse a name that `save_figure` would refuse, before the work that the figure is for.

    Raises:
        InputError: a suffix that `save_figure` does not know.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name}: figures are written as .svg, .pdf or .png; choose one of these endings")


def save_figure(figure: Figure, path: Path, *, dpi: int = 200) -> Path:
    """Write a figure as SVG, PDF or PNG, by the suffix of `path`, and close it.

    Text stays text and its font travels with the file; SVG and PDF are transparent, PNG is white. The file holds no date and
    no name of a machine: the same figure gives the same bytes.

    Args:
        figure: of `radscale.html_report.figures` or any other matplotlib figure.
        path: ends in .svg, .pdf or .png; its folder is made if it is missing.
        dpi: of PNG, and of pictures inside SVG and PDF.

    Raises:
        InputError: another suffix.
    """
    check_figure_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        text = svg_text(figure, dpi=dpi)
        text = text.replace(">", f">\n<style>{font_faces(text)}</style>", 1)
        path.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + text, encoding="utf-8")
    else:
        metadata = {"Software": None}
        if path.suffix.lower() == ".pdf":
            metadata = {"CreationDate": None, "Creator": None, "Producer": None}
        with mpl.rc_context({**STYLE, "savefig.facecolor": "white" if path.suffix.lower() == ".png" else "none"}):
            figure.savefig(path, bbox_inches="tight", pad_inches=0.06, dpi=dpi, metadata=metadata)
    plt.close(figure)
    return path


def svg_text(figure: Figure, *, dpi: int = 200) -> str:
    """The `<svg>` element of a figure, without font, date or generator; for a page that brings the font itself."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):  # its hash salt decides the ids in the file
        nothing = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.06, dpi=dpi, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    start, end = text.index("<metadata>"), text.index("</metadata>") + len("</metadata>")
    text = text[:start] + text[end:]
    # Points to a hundredth are finer than any printer; what a reader reads, between the tags, stays.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
    # matplotlib names every substitute that it knows of; the font itself is embedded.
    return re.sub(rf"'{FONT}'[^;\"]*", f"'{FONT}', sans-serif", text)


def font_faces(text: str) -> str:
    """CSS that embeds the figures' font, regular and bold, with the characters of `text` only."""
    characters = "".join(sorted({c for part in re.findall(r">([^<]+)<", text) for c in part if c.isprintable()} | set("&<>")))
    return "".join(
        f"@font-face{{font-family:'{FONT}';font-weight:{weight};src:url(data:font/woff;base64,{_subset(weight, characters)})}}"
        for weight in ("normal", "bold")
        if weight == "normal" or "bold" in text or re.search(r"font: ?(7|8)00", text)
    )


@lru_cache(maxsize=64)
def _subset(weight: str, characters: str) -> str:
    from fontTools import subset

    options = subset.Options(
        flavor="woff",
        layout_features=["kern"],
        notdef_outline=True,
        recalc_timestamp=False,
        drop_tables=[*subset.Options().drop_tables, "FFTM"],
    )
    path = font_manager.findfont(font_manager.FontProperties(family=FONT, weight=weight))
    font = subset.load_font(path, options)
    worker = subset.Subsetter(options)
    worker.populate(text=characters)
    worker.subset(font)
    buffer = io.BytesIO()
    subset.save_font(font, buffer, options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def as_row(row: Any) -> Mapping[str, Any]:
    """A mapping or a dataclass, as a mapping."""
    return row if isinstance(row, Mapping) else {name: getattr(row, name) for name in row.__dataclass_fields__}
