"""A sheet of the most unlike images and of near duplicates, for the person who decides what is set aside."""

import html
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from radscale.datasets.dataset import Dataset
from radscale.datasets.pictures import jpeg_uri

TILE_PX = 160
NUM_CURVE = 200
GROUP_TILES = 12
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; --mark: #c2410c; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1180px; padding: 0 1rem; }}
h1 {{ font-size: 1.35rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
p {{ max-width: 46rem; }}
#bar {{ position: sticky; top: 0; background: Canvas; padding: .6rem 0; border-bottom: 1px solid var(--line); }}
input[type=range] {{ width: min(34rem, 100%); accent-color: var(--mark); }}
#said, code {{ font-variant-numeric: tabular-nums; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({tile}px, 1fr)); gap: .6rem; margin-top: .8rem; }}
figure {{ margin: 0; border: 3px solid transparent; }} figure.out {{ border-color: var(--mark); }}
img {{ width: 100%; display: block; background: #000; }}
figcaption {{ font-size: .78rem; overflow-wrap: anywhere; }}
.group {{ border-top: 1px solid var(--line); padding: .6rem 0; }}
@media print {{ #bar input {{ display: none; }} figure {{ break-inside: avoid; }} }}
</style></head><body>
<h1>{title}</h1>
<p>{count} images. The score of an image is its distance to its nearest neighbours of the same view: what looks like nothing
else comes first. Below are the {shown} highest, framed where they lie above the threshold. A high score is a reason to look,
and not a verdict: rare devices, small children and unusual positions score high too.</p>
<div id="bar"><label>Threshold <input id="cut" type="range" min="0" max="{last}" value="{start}"></label>
<div id="said" role="status"></div></div>
<div class="tiles" id="tiles">
{tiles}
</div>
<h2>Near duplicates: {num_groups} groups, {num_across} of them across patients</h2>
<p>{duplicates}</p>
{groups}
<script>
const shares = {shares}, scores = {scores}, count = {number};
const cut = document.getElementById("cut"), said = document.getElementById("said");
function show() {{
  const score = scores[cut.value], above = Math.round(shares[cut.value] * count);
  said.innerHTML = `score above <b>${{score.toFixed(4)}}</b>: ${{above.toLocaleString("en")}} images, ` +
    `${{(100 * above / count).toFixed(1)}} % &nbsp; <code>--set-aside-above ${{score.toFixed(4)}}</code>`;
  for (const tile of document.querySelectorAll("#tiles figure")) tile.classList.toggle("out", +tile.dataset.score > score);
}}
cut.addEventListener("input", show); show();
</script></body></html>
"""


def write_quality_page(
    dataset: Dataset, table: pa.Table, out: Path, *, num_shown: int = 300, share: float = 0.06, num_groups: int = 60
) -> None:
    """Write one HTML file with images and pseudonyms; it shows patients and belongs where the dataset belongs.

    Args:
        dataset: that was assessed.
        table: see `quality.assess`.
        out: of the page.
        num_shown: images with the highest scores that are shown.
        share: where the threshold begins (paper, section 4: about 6 % were outliers).
        num_groups: of near duplicates that are shown, those across patients first.
    """
    scores = table["outlier_score"].to_numpy()
    order = np.argsort(-scores, kind="stable")
    # Shares that a person moves between: fine where few images are cut, coarse where many are.
    shares = np.unique(np.concatenate([[0.0], np.geomspace(1 / len(scores), 0.5, NUM_CURVE)]))
    cuts = scores[order[np.minimum(np.round(shares * len(scores)).astype(int), len(scores) - 1)]]
    groups, across = _groups(table)
    highest, shown_groups = order[:num_shown].tolist(), [rows[:GROUP_TILES] for rows in groups[:num_groups]]
    shown = sorted({*highest, *chain.from_iterable(shown_groups)})
    # Once for all tiles: a column of the manifest is read as a whole.
    facts = dict(zip(shown, dataset.columns("sample_id", "patient_id", "view", "split", rows=shown).to_pylist(), strict=True))

    def tile(row: int, whose: str) -> str:
        return _tile(dataset.read_image(row), facts[row], float(scores[row]), whose)

    tiles = [tile(row, facts[row]["view"]) for row in highest]
    parts = []
    for rows in shown_groups:
        figures = "\n".join(tile(row, f"patient {facts[row]['patient_id']}") for row in rows)
        parts.append(f'<div class="group"><div class="tiles">\n{figures}\n</div></div>')
    found = "No two images are alike."
    if groups:
        found = (
            "Images that differ in little more than brightness, size or a mark. Within a patient they are usually copies; "
            "across patients one name is wrong, and the same patient may stand in training and in test."
        )
    out.write_text(
        PAGE.format(
            title=html.escape(f"Outliers and near duplicates of {dataset.path.name}"),
            tile=TILE_PX,
            count=f"{len(scores):,}",
            number=len(scores),
            shown=len(tiles),
            last=len(shares) - 1,
            start=int(np.searchsorted(shares, share)),
            tiles="\n".join(tiles),
            num_groups=len(groups),
            num_across=across,
            duplicates=found,
            groups="\n".join(parts),
            shares=json.dumps([round(float(value), 6) for value in shares]),
            scores=json.dumps([round(float(value), 6) for value in cuts]),
        ),
        encoding="utf-8",
    )


def _groups(table: pa.Table) -> tuple[list[list[int]], int]:
    """Rows of each group of near duplicates, those across patients first, and how many of those there are."""
    numbers = table["near_duplicate_group"].fill_null(-1).to_numpy()
    across = np.asarray(table["across_patients"])
    inside = np.flatnonzero(numbers >= 0)
    inside = inside[np.argsort(numbers[inside], kind="stable")]
    starts = np.flatnonzero(np.diff(numbers[inside])) + 1
    groups: Sequence[np.ndarray] = np.split(inside, starts) if len(inside) else []
    ordered = sorted(groups, key=lambda rows: not across[rows[0]])
    return [rows.tolist() for rows in ordered], sum(bool(across[rows[0]]) for rows in groups)


def _tile(image: np.ndarray, facts: Mapping[str, str], score: float, whose: str) -> str:
    scale = TILE_PX / max(image.shape)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    sample = html.escape(facts["sample_id"])
    return (
        f'<figure data-score="{score:.6f}"><img alt="X-ray {sample}" src="{jpeg_uri(small)}">'
        f"<figcaption>{score:.4f} {sample}<br>{html.escape(whose)}, {facts['split']}</figcaption></figure>"
    )
