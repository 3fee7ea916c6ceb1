"""A person looks at a sample of a dataset's images, and says which still show who the patient is.

What was looked at bounds what was not: of n images drawn at random with none that shows it, at most 3 / n of all do (95 %).
"""

import csv
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from scipy.stats import beta

from radscale.datasets.dataset import REVIEW, Dataset
from radscale.datasets.review_page import write_review_page
from radscale.datasets.set_aside import set_aside
from radscale.errors import InputError

SECTIONS = {
    "random": "Drawn at random",
    "painted": "The largest share painted over: is anatomy lost?",
    "face": "A head painted over",
}
COLUMNS = ("sample_id", "section", "decision")
DECISIONS = ("pass", "reject")
CONFIDENCE = 0.95


class Shown(NamedTuple):
    """An image that the reviewer is shown."""

    row: int
    section: str


def write_review(dataset: Path, out: Path, *, num_images: int = 300, seed: int = 0) -> dict[str, Any]:
    """Write review.html into the folder `out`, made if needed. It shows patients and belongs where the dataset belongs.

    Args:
        dataset: folder.
        out: folder.
        num_images: drawn at random; a fifth as many of each further section come on top.
        seed: of the draw.

    Returns:
        Images by section, and the share of all images that could at most show who the patient is if none of those drawn does.
    """
    data = Dataset(dataset)
    shown = draw(data, num_images, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_review_page(data, shown, SECTIONS, out / "review.html")
    counts = {section: sum(item.section == section for item in shown) for section in SECTIONS}
    return {
        **counts,
        "at most, if none is rejected": f"{upper_bound(0, counts['random'], len(data)):.2%} of {len(data):,} images",
    }


def draw(dataset: Dataset, num_images: int, seed: int) -> list[Shown]:
    """Images of each section; each image once."""
    rng = np.random.default_rng(seed)
    chosen = dict.fromkeys(np.sort(rng.permutation(len(dataset))[:num_images]).tolist(), "random")
    if "white_boxes" in dataset.column_names and len(dataset):
        share, has_face = painted_shares(dataset)
        largest = [row for row in np.argsort(-share, kind="stable").tolist() if share[row] > 0]
        faces = rng.permutation(np.flatnonzero(has_face)).tolist()
        for section, rows in (("painted", largest), ("face", faces)):
            chosen |= dict.fromkeys([row for row in rows if row not in chosen][: num_images // 5], section)
    return [Shown(row, section) for row, section in chosen.items()]


def painted_shares(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(n,) share of each image that its white boxes cover, twice where they overlap; (n,) whether one covers a head."""
    heights, widths = dataset.sizes_px()
    lists = dataset.column("white_boxes").combine_chunks()
    boxes, rows = pc.list_flatten(lists), np.asarray(pc.list_parent_indices(lists))
    area = np.asarray(pc.struct_field(boxes, "width")).astype(float) * np.asarray(pc.struct_field(boxes, "height"))
    share = np.bincount(rows, area, minlength=len(dataset)) / (heights.astype(float) * widths)
    is_face = np.asarray(pc.equal(pc.struct_field(boxes, "kind"), "face"))
    return share, np.bincount(rows[is_face], minlength=len(dataset)) > 0


def upper_bound(rejected: int, seen: int, total: int) -> float:
    """Of the share of images, at 95 % confidence (Clopper and Pearson, one-sided); the share itself where all were seen."""
    if seen >= total:
        return rejected / max(total, 1)
    return float(beta.ppf(CONFIDENCE, rejected + 1, seen - rejected)) if rejected < seen else 1.0


def record_review(dataset: Path, decisions: Path, *, reviewer: str) -> dict[str, Any]:
    """Take over what a reviewer decided: images that are rejected are set aside (`review`), and the dataset counts as reviewed.

    Args:
        dataset: folder.
        decisions: CSV file that the page writes: sample_id, section, decision (pass or reject).
        reviewer: who it was, for the record.

    Returns:
        Images seen, rejected, and how many of all others could at most show who the patient is.

    Raises:
        InputError: the file has other columns or values, names images that are not in the dataset, or none drawn at random.
    """
    if not reviewer.strip():
        raise InputError("--reviewer is empty; say who has looked at the images")
    found, data = _read_decisions(decisions), Dataset(dataset)
    known = set(data.column("sample_id").to_pylist()) if found else set()
    if strange := [sample for sample in found if sample not in known]:
        raise InputError(f"{decisions}: {len(strange):,} of {len(found):,} images are not in {dataset}; review it anew")
    drawn = [decision for section, decision in found.values() if section == "random"]
    if not drawn:
        raise InputError(f"{decisions}: no image that was drawn at random, so it says nothing of the others; review it anew")
    rejected = [sample for sample, (_, decision) in found.items() if decision == "reject"]
    review = {
        "reviewer": reviewer.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "images": len(data),
        "seen": len(found),
        "seen_at_random": len(drawn),
        "rejected": len(rejected),
        "rejected_at_random": drawn.count("reject"),
        "at_most": round(upper_bound(drawn.count("reject"), len(drawn), len(data)), 6),
        "num_ingests": data.num_ingests,
    }
    if rejected:
        set_aside(dataset, dict.fromkeys(rejected, ("review", "a reviewer rejected it")))
    (dataset / REVIEW).write_text(json.dumps(review, indent=1) + "\n", encoding="utf-8")
    return review


def _read_decisions(path: Path) -> Mapping[str, tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the file that review.html wrote") from None
    found = {}
    for number, row in enumerate(rows, start=1):
        values = [str(row.get(column) or "") for column in COLUMNS]
        if values[1] not in SECTIONS or values[2] not in DECISIONS:
            raise InputError(
                f"{path}, row {number}: needs sample_id, section ({', '.join(SECTIONS)}) and decision "
                f"({', '.join(DECISIONS)}); give the file that review.html wrote"
            )
        found[values[0]] = (values[1], values[2])
    return found
