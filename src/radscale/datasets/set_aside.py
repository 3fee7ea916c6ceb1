"""Take images out of a dataset after its ingest, and put them back: tables change, shards do not.

An image that is set aside has its row in `set_aside.parquet` instead of the manifest, and one in the exclusions, so that inputs
still add up. Ranks are those of an ingest without these images: subsets stay nested.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.datasets import resume_state
from radscale.datasets.dataset import Dataset
from radscale.datasets.dataset_tables import count_pixels
from radscale.datasets.file_hash import sha256_of
from radscale.datasets.linking import write_links
from radscale.datasets.manifest import EXCLUSIONS_SCHEMA, SET_ASIDE, rank_column
from radscale.datasets.report_matching import connect
from radscale.datasets.subsets import strata_of, subset_ranks
from radscale.errors import InputError


def set_aside(path: Path, reasons: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Take images out of the dataset.

    Args:
        path: folder of the dataset.
        reasons: sample id -> reason (see `exclusions.REASONS`) and one line for a person.

    Returns:
        The new counts of dataset.json.

    Raises:
        InputError: ids that are not in the dataset, all of its images, an ingest that is writing into it or was interrupted.
    """
    with resume_state.exclusive(path):
        dataset, manifest, aside = _open(path)
        ids = pa.array(list(reasons), pa.string())
        strange = len(ids) - int(pc.sum(pc.is_in(ids, manifest["sample_id"].combine_chunks())).as_py() or 0)
        if strange:
            raise InputError(f"{path}: {strange:,} of {len(ids):,} images to set aside are not in it; assess it again")
        chosen = pc.is_in(manifest["sample_id"], ids)
        moved, kept = manifest.filter(chosen), manifest.filter(pc.invert(chosen))
        if not kept.num_rows:
            raise InputError(f"{path}: all of its {manifest.num_rows:,} images would be set aside; raise the threshold")
        rows = [reasons[sample] for sample in moved["sample_id"].to_pylist()]
        reason, detail = (pa.array([row[place] for row in rows], pa.string()) for place in (0, 1))
        moved = moved.append_column("reason", reason).append_column("detail", detail)
        return _write(path, dataset, kept, pa.concat_tables([aside, moved.select(aside.column_names)]))


def put_back(path: Path, reasons: Collection[str]) -> dict[str, Any]:
    """Undo every `set_aside` for these reasons; returns the new counts.

    Raises:
        InputError: nothing is set aside for them, or an ingest is writing.
    """
    with resume_state.exclusive(path):
        dataset, manifest, aside = _open(path)
        chosen = pc.is_in(aside["reason"], pa.array(reasons, pa.string()))
        back, rest = aside.filter(chosen), aside.filter(pc.invert(chosen))
        if not back.num_rows:
            raise InputError(f"{path}: no image is set aside for {' or '.join(sorted(reasons))}; there is nothing to put back")
        return _write(path, dataset, pa.concat_tables([manifest, back.select(manifest.column_names)]), rest)


def _open(path: Path) -> tuple[Dataset, pa.Table, pa.Table]:
    if (path / resume_state.WORK).exists() and not resume_state.move_into_place(path / resume_state.WORK, path):
        raise InputError(f"{path}: an ingest was interrupted here; repeat it first")
    dataset = Dataset(path)
    if "batch" not in dataset.column_names:
        raise InputError(f"{path}: made by an older radscale, which kept no list of its inputs; ingest all of it again")
    manifest, aside = dataset.manifest, dataset.set_aside()
    schema = manifest.schema.append(pa.field("reason", pa.string())).append(pa.field("detail", pa.string()))
    return dataset, manifest, schema.empty_table() if aside is None else aside


def _write(path: Path, dataset: Dataset, manifest: pa.Table, aside: pa.Table) -> dict[str, Any]:
    """Make the tables anew in a work folder, and move them into the dataset when they are whole."""
    # In the order of the ingests, and of the images in each: that of the ranks of one patient's images.
    manifest = manifest.sort_by([("shard", "ascending"), ("offset", "ascending")])
    strata = strata_of(dataset.settings["config"].get("stratify_by", []), manifest.column)
    for replicate in range(dataset.num_replicates):
        name = rank_column(replicate)
        ranks = subset_ranks(
            manifest["patient_id"],
            np.asarray(pc.equal(manifest["split"], "train")),
            dataset.settings["config"]["split_seed"],
            replicate,
            np.asarray(manifest["batch"]),
            strata,
        ).astype(np.int32)
        place = manifest.schema.get_field_index(name)
        manifest = manifest.set_column(place, manifest.schema.field(name), pa.array(ranks, mask=ranks < 0))
    before = dataset.set_aside()
    exclusions = pq.read_table(path / "exclusions.parquet")
    if before is not None:
        exclusions = exclusions.filter(pc.invert(pc.is_in(exclusions["source"], before["source"].combine_chunks())))
    exclusions = pa.concat_tables([exclusions, aside.select(EXCLUSIONS_SCHEMA.names).cast(EXCLUSIONS_SCHEMA)])

    work = path / resume_state.WORK
    tables = work / resume_state.TABLES
    tables.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        for name, table in (("manifest.parquet", manifest), ("exclusions.parquet", exclusions), (SET_ASIDE, aside)):
            pq.write_table(table, tables / name)
        with connect(work) as database:
            links = write_links(database, tables / "manifest.parquet", tables / "links.parquet")
        settings = dict(dataset.settings)
        reasons = {pair["values"]: pair["counts"] for pair in exclusions["reason"].value_counts().to_pylist()}
        settings["counts"] = {
            **settings["counts"],
            "images": manifest.num_rows,
            "excluded": dict(sorted(reasons.items())),
            "patients": pc.count_distinct(manifest["patient_id"]).as_py(),
            "studies": pc.count_distinct(manifest["study_id"]).as_py(),
            "links": links,
            **count_pixels(tables / "manifest.parquet"),
        }
        settings["tables"] = {**settings["tables"], **{file.name: sha256_of(file) for file in tables.glob("*.parquet")}}
        (tables / "dataset.json").write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
    except BaseException:
        shutil.rmtree(work)
        raise
    resume_state.finish(work, path)
    counts: dict[str, Any] = settings["counts"]
    return counts
