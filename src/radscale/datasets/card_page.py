"""The card of a dataset as one HTML file and as Markdown."""

import html
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from radscale.datasets.card import Card, Counted
from radscale.datasets.patient_groups import SMALLEST_CELL
from radscale.datasets.pictures import jpeg_uri

TILE_PX = 150
STYLE = """
:root { color-scheme: light dark; --line: #8885; --bar: #0b5d8f; --soft: color-mix(in srgb, CanvasText 65%, Canvas); }
@media (prefers-color-scheme: dark) { :root { --bar: #7cc4f0; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1080px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: .7rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { max-width: 70ch; } .soft { color: var(--soft); font-size: .9rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr)); gap: 1.6rem 2.2rem; }
.grid > section, table { break-inside: avoid; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 400; padding: .16rem .8rem .16rem 0; vertical-align: top; overflow-wrap: anywhere; }
td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; padding: .16rem 0 .16rem .6rem; }
.bars td { width: 4.6rem; }
td.text { text-align: left; white-space: normal; }
.bars tr { --fill: color-mix(in srgb, var(--bar) 22%, transparent); }
.bars tr { background: linear-gradient(to right, var(--fill) var(--share), transparent var(--share)); }
.facts th { width: 40%; color: var(--soft); }
.flow { display: grid; grid-template-columns: minmax(0, 1fr); gap: .35rem; max-width: 44rem; }
.flow div { display: flex; align-items: center; gap: .7rem; }
.flow .box { border: 1px solid var(--line); border-radius: 6px; padding: .45rem .8rem; font-weight: 600; }
.flow .out { margin-left: 2.2rem; } .flow .out::before { content: "\\2198"; color: var(--soft); margin-right: .5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: .4rem; }
.tiles img { width: 100%; aspect-ratio: 1; object-fit: cover; background: #000; display: block; }
code { font-size: .8rem; overflow-wrap: anywhere; }
"""


def card_html(card: Card, pictures: Mapping[str, Sequence[np.ndarray]]) -> str:
    """One self-contained page.

    Args:
        card: see `describe_dataset`.
        pictures: (H, W) uint8 images by view for contact sheets; they are patients' images.
    """
    title = html.escape(f"Dataset card: {card.name}")
    parts = [
        f"<h1>{title}</h1>",
        f"<p class=soft>Licence: {html.escape(card.licence) or 'not stated'}. Groups of fewer than {SMALLEST_CELL}, and what "
        "they would follow from, are not told.</p>",
        _facts(card.totals),
        "<h2>From inputs to images</h2>",
        _flow(card),
        "<h2>Who and what is in it</h2>",
        '<div class="grid">',
        *(_counted(table) for table in card.counted),
        "</div>",
        "<h2>De-identification</h2>",
        _facts(card.deidentification),
    ]
    for view, images in pictures.items():
        if len(images):
            parts += [f"<h2>{len(images)} {html.escape(view)} images, drawn at random</h2>", _sheet(images, view)]
    parts += ["<h2>Files</h2>", _facts([(name, f"sha256 {value}") for name, value in sorted(card.tables.items())], code=True)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{title}</title><style>{STYLE}</style></head><body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _facts(rows: Sequence[tuple[str, str]], *, code: bool = False) -> str:
    cells = (
        f'<tr><th scope="row">{html.escape(name)}</th><td class="text">'
        + (f"<code>{html.escape(value)}</code>" if code else html.escape(value))
        + "</td></tr>"
        for name, value in rows
    )
    return '<table class="facts"><tbody>\n' + "\n".join(cells) + "\n</tbody></table>"


def _flow(card: Card) -> str:
    left = card.inputs - sum(number for _, number in card.flow)
    rows = [f'<div><span class="box">{card.inputs:,} inputs</span></div>']
    rows += [f'<div class="out">{number:,} left out: {html.escape(reason)}</div>' for reason, number in card.flow if number]
    rows.append(f'<div><span class="box">{left:,} images</span></div>')
    return '<div class="flow">\n' + "\n".join(rows) + "\n</div>"


def _counted(table: Counted) -> str:
    rows = "\n".join(
        f'<tr style="--share:{_share(count, table.total):.1f}%"><th scope="row">{html.escape(name)}</th>'
        f"<td>{_number(count)}</td><td>{_percent(count, table.total)}</td></tr>"
        for name, count in table.rows
    )
    note = f'<p class="soft">{html.escape(table.note)}</p>' if table.note else ""
    return f'<section><h3>{html.escape(table.title)}</h3><table class="bars"><tbody>\n{rows}\n</tbody></table>{note}</section>'


def _number(count: int | None) -> str:
    return "not told" if count is None else f"{count:,}"


def _share(count: int | None, total: int) -> float:
    return 100 * (count or 0) / max(total, 1)


def _percent(count: int | None, total: int) -> str:
    return "" if count is None or not total else f"{_share(count, total):.1f} %"


def _sheet(images: Sequence[np.ndarray], view: str) -> str:
    tiles = []
    for image in images:
        scale = TILE_PX / min(image.shape)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        tiles.append(f'<img alt="{html.escape(view)} chest X-ray" src="{jpeg_uri(small)}">')
    return '<div class="tiles">\n' + "\n".join(tiles) + "\n</div>"


def card_markdown(card: Card) -> str:
    """The same without pictures, for a repository."""
    lines = [f"# Dataset card: {_cell(card.name)}", "", f"Licence: {_cell(card.licence) or 'not stated'}.", ""]
    lines += [f"Groups of fewer than {SMALLEST_CELL}, and what they would follow from, are not told.", ""]
    lines += _markdown_table(("", ""), card.totals)
    lines += ["## From inputs to images", "", f"{card.inputs:,} inputs", ""]
    lines += [f"- {number:,} left out: {_cell(reason)}" for reason, number in card.flow if number]
    lines += ["", f"{card.inputs - sum(number for _, number in card.flow):,} images", "", "## Who and what is in it", ""]
    for table in card.counted:
        rows = [(name, _number(count), _percent(count, table.total)) for name, count in table.rows]
        lines += [f"### {_cell(table.title)}", "", *_markdown_table(("", "number", "share"), rows)]
        lines += [table.note, ""] if table.note else []
    lines += ["## De-identification", "", *_markdown_table(("", ""), card.deidentification)]
    lines += ["## Files", "", *_markdown_table(("file", "sha256"), sorted(card.tables.items()))]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [" | ".join(_cell(value) for value in row) for row in (head, ["---"] * len(head), *rows)]
    return [*(f"| {row} |" for row in cells), ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
