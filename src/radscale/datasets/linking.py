"""What belongs to each frontal X-ray: the lateral one of its visit, and the frontal one that came before (paper, section 4).

In DuckDB, over the manifest: both sides have millions of rows. A later ingest may bring a closer prior, so the table is always
made of the whole manifest.
"""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from radscale.datasets.manifest import LINKS_SCHEMA

DAY_SECONDS = 86_400
ROWS_AT_ONCE = 131_072
# A study whose time of day is unknown comes after all others of its day where it could be a prior, and before them where it
# looks for one: of two studies on one day, none is called the earlier unless both times say so.
LINKS = f"""
WITH studies AS (
    SELECT study_id, any_value(patient_id) AS patient_id,
        min(shifted_day)::BIGINT AS day, min(study_second) AS second,
        min(sample_id) FILTER (view = 'frontal') AS frontal, min(sample_id) FILTER (view = 'lateral') AS lateral
    FROM images GROUP BY study_id
),
priors AS (
    SELECT patient_id, day * {DAY_SECONDS} + coalesce(second, {DAY_SECONDS - 1}) AS moment,
        min_by(study_id, study_id) AS study_id, min_by(frontal, study_id) AS frontal, min(day) AS day
    FROM studies WHERE frontal IS NOT NULL AND day IS NOT NULL GROUP BY ALL
),
visits AS (
    SELECT studies.study_id, studies.lateral, priors.study_id AS prior_study_id, priors.frontal AS prior_id,
        (studies.day - priors.day)::INTEGER AS prior_days
    FROM studies ASOF LEFT JOIN priors
        ON studies.patient_id = priors.patient_id
        AND studies.day * {DAY_SECONDS} + coalesce(studies.second, 0) > priors.moment
)
SELECT images.sample_id, images.study_id, visits.lateral AS lateral_id, visits.prior_id, visits.prior_study_id,
    visits.prior_days
FROM images JOIN visits USING (study_id) WHERE images.view = 'frontal'
ORDER BY images.place
"""


def write_links(database: duckdb.DuckDBPyConnection, manifest: Path, out: Path) -> dict[str, Any]:
    """Write the table of links (docs/data_format.md, section 1).

    Args:
        database: see `report_matching.connect`.
        manifest: whole manifest of the dataset.
        out: of the new table.

    Returns:
        Counts: frontal images, and how many of them have a lateral one of the same study, and a prior.
    """
    columns = "sample_id, study_id, patient_id, view, shifted_day, study_second, file_row_number AS place"
    database.read_parquet(str(manifest), file_row_number=True).project(columns).create_view("images", replace=True)
    counts = {"frontal": 0, "with_lateral": 0, "with_prior": 0}
    with pq.ParquetWriter(out, LINKS_SCHEMA) as writer:
        for batch in database.sql(LINKS).to_arrow_reader(ROWS_AT_ONCE):
            writer.write_batch(batch.select(LINKS_SCHEMA.names).cast(LINKS_SCHEMA))
            counts["frontal"] += batch.num_rows
            for name, column in (("with_lateral", "lateral_id"), ("with_prior", "prior_id")):
                counts[name] += batch.num_rows - batch[column].null_count
    return counts
