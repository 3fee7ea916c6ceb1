"""Schemas of a dataset's tables (docs/data_format.md, section 1)."""

import pyarrow as pa

SCHEMA_VERSION = 1

WHITE_BOX = pa.struct([("kind", pa.string()), *((name, pa.int32()) for name in ("left", "top", "width", "height"))])
"""What was painted over, in pixels of the dataset's image."""

MANIFEST_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("view", pa.string()),
        ("view_position", pa.string()),
        ("study_day", pa.int32()),
        ("sex", pa.string()),
        ("age_years", pa.int32()),
        ("manufacturer", pa.string()),
        ("care_setting", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("batch", pa.int32()),
        ("accession_id", pa.string()),
        ("shifted_day", pa.int32()),
        ("study_second", pa.int32()),
        ("view_source", pa.string()),
        ("image_type", pa.string()),
        ("white_boxes", pa.list_(WHITE_BOX)),
        ("ethnicity", pa.string()),
        ("department", pa.string()),
    ]
)

SET_ASIDE = "set_aside.parquet"
"""Table of a dataset: manifest rows of images that were taken out after the ingest, with `reason` and `detail`."""

DERIVED = ("split", "study_day", "batch")
"""Columns of the manifest that are known only when all images are."""

JOURNAL_SCHEMA = pa.schema(
    [
        *(column for column in MANIFEST_SCHEMA if column.name not in DERIVED),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("names", pa.list_(pa.string())),
        ("study_year", pa.int32()),
        ("part", pa.string()),
        ("entry_number", pa.int32()),
        ("masks", pa.list_(pa.struct([("task", pa.string()), ("png", pa.binary())]))),
    ]
)
"""One row per input while an ingest runs: an image, or (with a reason) an exclusion. `names` are to be scrubbed,
and `study_year`, the true one, is only counted."""

EXCLUSIONS_SCHEMA = pa.schema(
    [("source", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("batch", pa.int32())]
)

REPORTS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("study_id", "patient_id", "text", "indication", "comparison", "findings", "impression")]
)

LINKS_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("study_id", pa.string()),
        ("lateral_id", pa.string()),
        ("prior_id", pa.string()),
        ("prior_study_id", pa.string()),
        ("prior_days", pa.int32()),
    ]
)

UNMATCHED_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string())])

MASK_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("task", pa.string()),
        ("png", pa.binary()),
        ("tips", pa.list_(pa.list_(pa.float32(), 2))),
    ]
)

OFFICIAL_SPLITS_SCHEMA = pa.schema([("patient_id", pa.string()), ("part", pa.string())])

LABEL_SCHEMA = pa.schema([(name, pa.string()) for name in ("level", "id", "task", "state", "engine")])


def rank_column(replicate: int) -> str:
    """Name of the manifest column that orders the training images of a replicate."""
    return f"rank_{replicate}"


def manifest_schema(num_replicates: int) -> pa.Schema:
    """The manifest with its rank columns."""
    ranks = [(rank_column(replicate), pa.int32()) for replicate in range(num_replicates)]
    return pa.schema([*MANIFEST_SCHEMA, *(pa.field(name, kind) for name, kind in ranks)])
