"""The page on which a person looks for what still shows who a patient is."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radscale.datasets.dataset import Dataset
from radscale.datasets.pictures import jpeg_uri

TILE_PX = 300
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; --mark: #c2410c; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1280px; padding: 0 1rem; }}
h1 {{ font-size: 1.35rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
p {{ max-width: 46rem; }}
#bar {{ position: sticky; top: 0; background: Canvas; padding: .6rem 0; border-bottom: 1px solid var(--line); z-index: 1;
  display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center; }}
button {{ font: inherit; padding: .25rem .8rem; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({tile}px, 1fr)); gap: .8rem; margin-top: .8rem; }}
figure {{ margin: 0; border: 4px solid transparent; }} figure.out {{ border-color: var(--mark); }}
img {{ width: 100%; display: block; background: #000; cursor: pointer; }}
figure.large {{ grid-column: 1 / -1; }} figure.large img {{ width: auto; max-width: 100%; image-rendering: pixelated; }}
figcaption {{ font-size: .78rem; display: flex; justify-content: space-between; gap: .6rem; flex-wrap: wrap; }}
label {{ cursor: pointer; }}
</style></head><body>
<h1>{title}</h1>
<p>Mark each image that still shows who the patient is: a name, a number, a date, a face. A side marker (L, R) or a
projection (AP) shows nobody. A click on an image shows it in full size. When you have looked at all of them, save your
decisions and give them to <code>radscale review {name} --decisions decisions.csv --reviewer YOU</code>:
marked images are set aside.</p>
<div id="bar"><span id="said" role="status"></span>
<label><input type="checkbox" id="all"> I have looked at all {count} images</label>
<button id="save" disabled>Save decisions.csv</button></div>
{sections}
<script>
const figures = [...document.querySelectorAll("figure")], said = document.getElementById("said");
const all = document.getElementById("all"), save = document.getElementById("save");
const rejected = figure => figure.querySelector("input").checked;
function show() {{
  for (const figure of figures) figure.classList.toggle("out", rejected(figure));
  said.textContent = `${{figures.filter(rejected).length}} of ${{figures.length}} marked`;
  save.disabled = !all.checked;
}}
document.addEventListener("change", show);
for (const image of document.querySelectorAll("img"))
  image.addEventListener("click", () => image.parentElement.classList.toggle("large"));
save.addEventListener("click", () => {{
  const rows = figures.map(figure => [figure.dataset.sample, figure.dataset.section, rejected(figure) ? "reject" : "pass"]);
  const text = [{columns}, ...rows].map(row => row.join(",")).join("\\n") + "\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {{type: "text/csv"}}));
  link.download = "decisions.csv";
  link.click();
}});
show();
</script></body></html>
"""


def write_review_page(dataset: Dataset, shown: Sequence[Any], sections: Mapping[str, str], out: Path) -> None:
    """Write one HTML file with images and pseudonyms.

    Args:
        dataset: that is reviewed.
        shown: see `review.Shown`.
        sections: their names and titles.
        out: of the page.
    """
    rows = [item.row for item in shown]
    names = [name for name in ("sample_id", "view", "manufacturer", "white_boxes") if name in dataset.column_names]
    facts = dict(zip(rows, dataset.columns(*names, rows=rows).to_pylist(), strict=True))
    parts = []
    for section, title in sections.items():
        tiles = [_tile(dataset, item.row, section, facts[item.row]) for item in shown if item.section == section]
        if tiles:
            parts.append(f'<h2>{title} ({len(tiles):,})</h2>\n<div class="tiles">\n' + "\n".join(tiles) + "\n</div>")
    out.write_text(
        PAGE.format(
            title=html.escape(f"Review of {dataset.path.name}"),
            name=html.escape(dataset.path.name),
            tile=TILE_PX,
            count=f"{len(rows):,}",
            sections="\n".join(parts),
            columns=json.dumps(["sample_id", "section", "decision"]),
        ),
        encoding="utf-8",
    )


def _tile(dataset: Dataset, row: int, section: str, facts: Mapping[str, Any]) -> str:
    sample = html.escape(facts["sample_id"])
    kinds = [box["kind"] for box in facts.get("white_boxes") or ()]
    painted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "nothing"
    about = html.escape(" · ".join(filter(None, (facts["view"], facts.get("manufacturer"), f"painted over: {painted}"))))
    return (
        f'<figure data-sample="{sample}" data-section="{section}">'
        f'<img loading="lazy" alt="X-ray {sample}" src="{jpeg_uri(dataset.read_image(row), 90)}">'
        f'<figcaption><span>{about}</span><label><input type="checkbox"> shows who it is</label></figcaption></figure>'
    )
