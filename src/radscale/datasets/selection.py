"""One image of each view per visit (paper, section 4): which one, and what that leaves of each manufacturer.

The paper keeps one image per type and visit, "prioritizing original images with complete metadata", and finds in A.9 that what
is preferred decides whose scanners a dataset shows. So it is an order of preference and never a filter: every visit keeps an
image of each view that it had.
"""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from radscale.datasets.dataset import Dataset
from radscale.datasets.set_aside import put_back, set_aside
from radscale.errors import InputError

REASON = "not_selected"
VIEWS = ("frontal", "lateral")
DESCRIBED = ("view_position", "sex", "age_years", "manufacturer", "study_second", "accession_id")
"""Columns of which a complete image has all."""
# What was there first stays, so that files that are added never change an earlier choice.
CHOICE = f"""
SELECT sample_id, coalesce(manufacturer, 'unknown') AS manufacturer, image_type, number = 1 AS chosen, rivals > 1 AS had_choice
FROM (
    SELECT *,
        row_number() OVER (visit ORDER BY
            batch,
            CASE WHEN image_type LIKE 'ORIGINAL%' THEN 0 WHEN image_type LIKE 'DERIVED%' THEN 2 ELSE 1 END,
            CASE WHEN image_type LIKE '%PRIMARY' THEN 0 WHEN image_type LIKE '%SECONDARY' THEN 2 ELSE 1 END,
            {" + ".join(f"({name} IS NULL OR {name}::VARCHAR = '')::INTEGER" for name in DESCRIBED)},
            width_px::BIGINT * height_px DESC,
            sample_id
        ) AS number,
        count(*) OVER (visit) AS rivals
    FROM images WHERE view IN {VIEWS}
    WINDOW visit AS (PARTITION BY study_id, view)
)
"""


def select(path: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Set aside what is not the chosen image of its view and visit. Images of unknown view stay.

    Args:
        path: folder of the dataset.
        dry_run: only say what would be done.

    Returns:
        images, chosen and not_selected; `manufacturers`: rows of manufacturer, available (images of a known view), selected,
        and the share of ORIGINAL images in each.

    Raises:
        InputError: made by a version that kept no image types, nothing to choose among, or see `set_aside`.
    """
    dataset = Dataset(path)
    if "image_type" not in dataset.column_names:
        raise InputError(f"{path}: made by an older radscale, which kept no image types; ingest all of it again")
    names = ["sample_id", "study_id", "view", "batch", "image_type", "width_px", "height_px", *DESCRIBED]
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = false")
        database.read_parquet(str(path / "manifest.parquet")).project(", ".join(names)).create_view("images")
        database.execute(f"CREATE TEMP TABLE choice AS {CHOICE}")
        rejected = database.sql("SELECT sample_id FROM choice WHERE NOT chosen").to_arrow_table()["sample_id"]
        rows = database.sql(
            """
            SELECT manufacturer, count(*) AS available, count(*) FILTER (chosen) AS selected,
                avg((image_type LIKE 'ORIGINAL%')::INTEGER) AS original_available,
                avg((image_type LIKE 'ORIGINAL%')::INTEGER) FILTER (chosen) AS original_selected
            FROM (SELECT * REPLACE (coalesce(image_type, '') AS image_type) FROM choice)
            GROUP BY manufacturer ORDER BY available DESC, manufacturer
            """
        ).to_arrow_table()
    if not dry_run and len(rejected):
        set_aside(path, dict.fromkeys(rejected.to_pylist(), (REASON, "not the chosen image of its view and visit")))
    counts = {"images": len(dataset), "chosen": len(dataset) - len(rejected), "not_selected": len(rejected)}
    return {**counts, "manufacturers": _rounded(rows)}


def _rounded(rows: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
        for row in rows.to_pylist()
    ]


def deselect(path: Path) -> dict[str, Any]:
    """Take back every selection; returns the new counts."""
    return put_back(path, (REASON,))
