"""The card of a dataset: its counts by pandas, what it keeps back, and that catalogues can read it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dicom_makers import SECRET
from radscale.cli import app
from radscale.datasets import Dataset, IngestConfig, ingest
from radscale.datasets.card import SMALLEST_CELL, describe_dataset, told_parts
from radscale.datasets.card_page import card_html, card_markdown

CONFIG = IngestConfig(
    kind="images",
    image_size_px=32,
    columns={"image": "image_path", "patient": "patient_id", "sex": "sex", "age": "age", "report": "report"},
    labels={"finding": "categorical"},
)


@pytest.fixture
def folder(image_folder: Callable[..., Path], tmp_path: Path) -> Path:
    ingest(CONFIG, image_folder(60, bad=True), tmp_path / "ds", secret=SECRET)
    return tmp_path / "ds"


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_no_small_group_follows_from_the_others(counts: list[int]) -> None:
    rows = [(str(place), count) for place, count in enumerate(counts)]
    shown = told_parts(rows)
    kept_back = [count for (_, told), count in zip(shown, counts, strict=True) if told is None]
    assert all(told is None or told == count for (_, told), count in zip(shown, counts, strict=True))
    assert all(told == 0 or told >= SMALLEST_CELL for _, told in shown if told is not None)
    # Whoever knows the sum knows what was kept back in all: more than one group, and not few people, if there are others.
    if kept_back and any(told for _, told in shown):
        assert len(kept_back) >= 2
        assert sum(kept_back) >= SMALLEST_CELL
    if all(count == 0 or count >= SMALLEST_CELL for count in counts):
        assert not kept_back


def test_counts_are_those_of_pandas(folder: Path) -> None:
    card = describe_dataset(folder, licence="CC-BY-4.0")
    manifest = pq.read_table(folder / "manifest.parquet").to_pandas()
    tables = {table.title: table for table in card.counted}
    assert dict(tables["Split"].rows) == manifest["split"].value_counts().to_dict()
    patients = manifest.drop_duplicates("patient_id")["sex"].map({"F": "female", "M": "male"}).value_counts().to_dict()
    assert dict(tables["Sex of patients"].rows) == patients
    decades = (manifest["age_years"].clip(upper=90) // 10).value_counts()
    for decade, (_, count) in enumerate(tables["Age at the study, images"].rows):
        assert count in (None, decades.get(decade, 0))
    studies = manifest.groupby("patient_id")["study_id"].nunique().clip(upper=5).value_counts()
    for number, (_, count) in enumerate(tables["Studies of a patient"].rows[:4], start=1):
        assert count in (None, studies.get(number, 0))
    labels = pq.read_table(folder / "labels.parquet").to_pandas()
    positive = labels[labels["state"] == "positive"]["task"].str.replace("_", " ").value_counts().to_dict()
    found = next(table for table in card.counted if table.title.startswith("Labels"))
    assert {name: count for name, count in found.rows if count} == positive
    totals = dict(card.totals)
    assert totals["images"] == f"{len(manifest):,}"
    assert totals["patients"] == f"{manifest['patient_id'].nunique():,}"
    assert card.inputs == len(manifest) + sum(number for _, number in card.flow)


def test_a_small_group_of_ages_or_findings_does_not_follow_from_the_others(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Shares tell the total, so one group that is kept back alone would be told by the others."""
    source = image_folder(60)
    lines = (source / "metadata.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    for place, row in enumerate(rows):
        row[3], row[4] = ("25", "rare") if place < 4 else ("45" if place % 2 else "55", "normal" if place % 2 else "common")
    (source / "metadata.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    ingest(CONFIG, source, tmp_path / "rare", secret=SECRET)
    tables = {table.title.split(" (")[0]: dict(table.rows) for table in describe_dataset(tmp_path / "rare").counted}
    ages = tables["Age at the study, images"]
    assert ages["20-29"] is None
    assert [name for name, count in ages.items() if count is None] in (["20-29", "40-49"], ["20-29", "50-59"])
    findings = tables["Labels"]
    assert findings["rare"] is None
    assert sum(count is None for count in findings.values()) == 2


def test_page_and_markdown_say_the_same(folder: Path) -> None:
    card = describe_dataset(folder, licence="see <terms>")
    page, markdown = card_html(card, {}), card_markdown(card)
    assert "see &lt;terms&gt;" in page
    assert "<img" not in page
    for table in card.counted:
        for name, count in table.rows:
            number = "not told" if count is None else f"{count:,}"
            assert f'<th scope="row">{name}</th><td>{number}</td>' in page
            assert f"| {name} | {number} |" in markdown
    assert f"{card.inputs:,} inputs" in page
    assert f"{card.inputs:,} inputs" in markdown


def test_the_command_writes_all_three_and_names_nobody(folder: Path, tmp_path: Path) -> None:
    def run(name: str, *arguments: str) -> None:
        done = CliRunner().invoke(app, ["card", str(folder), "--out", str(tmp_path / name), *arguments])
        assert done.exit_code == 0, done.output

    run("card", "--licence", "CC-BY-4.0", "--images", "5")
    run("bare")
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "card").iterdir())
    assert {path.name for path in (tmp_path / "card").iterdir()} == {"card.html", "card.md", "croissant.json"}
    views = set(Dataset(folder).column("view").to_pylist())
    assert (tmp_path / "card" / "card.html").read_text(encoding="utf-8").count("<img") == 5 * len(views)
    for column in ("sample_id", "patient_id", "study_id"):
        assert not any(value in text for value in Dataset(folder).column(column).to_pylist())
    assert "Müller" not in text
    described = json.loads((tmp_path / "card" / "croissant.json").read_text(encoding="utf-8"))
    assert described["license"] == "CC-BY-4.0"
    assert "license" not in json.loads((tmp_path / "bare" / "croissant.json").read_text(encoding="utf-8"))
    files = {item["@id"]: item for item in described["distribution"]}
    assert files["manifest.parquet"]["sha256"] == Dataset(folder).settings["tables"]["manifest.parquet"]
    columns = {name for item in described["recordSet"] for name in (field["@id"] for field in item["field"])}
    flat = [name for name in Dataset(folder).column_names if name != "white_boxes"]  # Croissant 1.0 has no type for nested ones
    assert {f"manifest/{name}" for name in flat} <= columns


def test_croissant_is_valid(folder: Path, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    done = CliRunner().invoke(app, ["card", str(folder), "--out", str(tmp_path / "card"), "--licence", "CC-BY-4.0"])
    assert done.exit_code == 0, done.output
    described = mlcroissant.Dataset(jsonld=str(tmp_path / "card" / "croissant.json"))
    assert not described.metadata.issues.errors
    assert {record_set.id for record_set in described.metadata.record_sets} >= {"manifest", "exclusions", "reports"}


def test_the_same_dataset_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    card = describe_dataset(folder)
    assert card_html(card, {"frontal": [np.zeros((40, 30), np.uint8)]}) == card_html(
        describe_dataset(folder), {"frontal": [np.zeros((40, 30), np.uint8)]}
    )
    assert not re.search(r"20\d\d-\d\d-\d\d", card_markdown(card))
