"""From reports and label tables to the rows that CLIP and UniCL train on."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blob_dataset import write_dataset
from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.models import ClipTokenizer
from radscale.pretraining import ComputeBudget, PretrainingConfig
from radscale.pretraining import texts as texts_module
from radscale.pretraining.config import TextOptions
from radscale.pretraining.texts import TrainingRows, label_text, read_training_rows, report_text, view_prefix

NAMES = {"ETT": "Endotracheal Tube", "CT": "Chest Tube"}
PREFIX = "x-ray chest posteroanterior"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("texts") / "dataset", num_train=8, num_test=0)


def rows_of(
    folder: Path,
    tmp_path: Path,
    reports: list[dict[str, str]] | None = None,
    labels: list[tuple[str, str, str, str]] | None = None,
    images: list[int] | None = None,
    context_length: int = 77,
    **text: Any,
) -> TrainingRows:
    """Rows of the first images (frontal), with reports and labels (level, id, task, state) written for the test."""
    settings: dict[str, Any] = {"objective": "clip" if labels is None else "unicl", "text": TextOptions(**text)}
    settings |= {} if labels is None else {"label_tasks": NAMES}
    config = PretrainingConfig(budget=ComputeBudget.samples_seen(8), batch_size=2, **settings)
    table = tmp_path / "labels.parquet"
    if labels is not None:
        columns = ("level", "id", "task", "state", "engine")
        pq.write_table(pa.Table.from_pylist([dict(zip(columns, (*row, "x"), strict=True)) for row in labels]), table)
    if reports is not None:
        pq.write_table(pa.Table.from_pylist(reports), tmp_path / "sections.parquet")
    return read_training_rows(config, Dataset(folder), np.array(images or range(8)), table, context_length)


def read(rows: TrainingRows, row: int) -> list[int]:
    return rows.tokens(row).tolist()


def as_clip(text: str) -> list[int]:
    return ClipTokenizer()([text])[0][0].tolist()


def report(study: int, findings: str, **sections: str) -> dict[str, str]:
    return {"study_id": f"study{study}", "findings": findings, "impression": "", **sections}


def test_texts_begin_with_the_view_position() -> None:
    assert view_prefix("AP", "frontal") == "x-ray chest anteroposterior"
    assert view_prefix("PA", "frontal") == "x-ray chest posteroanterior"
    assert view_prefix("", "lateral") == "x-ray chest lateral"
    assert view_prefix("", "") == "x-ray chest"


def test_impression_comes_before_findings_and_a_report_without_either_is_taken_whole() -> None:
    options = TextOptions()
    assert report_text({"findings": " F. ", "impression": "I.", "text": "all"}, options) == "I. F."
    assert report_text({"text": " all ", "findings": None}, options) == "all"
    assert report_text({"remainder": "no headings", "findings": ""}, options) == "no headings"
    assert report_text({}, options) == ""
    assert report_text({"findings": "F.", "impression": "I."}, TextOptions(sections=("findings", "impression"))) == "F. I."


def test_label_text_has_one_order() -> None:
    assert label_text({"CT", "ETT"}, NAMES) == label_text(["ETT", "CT"], NAMES) == "Endotracheal Tube, Chest Tube"


def test_each_image_stands_once_with_its_report_and_once_with_its_labels(folder: Path, tmp_path: Path) -> None:
    sample = Dataset(folder).manifest["sample_id"].to_pylist()
    labels = [
        ("study", "study0", "CT", "positive"),
        ("study", "study0", "ETT", "positive"),
        ("study", "study1", "ETT", "negative"),
        ("study", "study1", "other", "positive"),
        ("sample", sample[2], "ETT", "positive"),
        ("study", "study2", "CT", "positive"),
        ("study", "study3", "CT", "positive"),
        ("study", "nowhere", "CT", "positive"),
    ]
    reports = [report(2, "Three."), report(0, "One."), report(9, "Not in the subset."), report(3, "")]
    rows = rows_of(folder, tmp_path, reports, labels, images=[0, 1, 2, 3])
    texts = ["One.", "Three.", "Endotracheal Tube, Chest Tube", "Endotracheal Tube, Chest Tube", "Chest Tube"]
    assert rows.image.tolist() == [0, 2, 0, 2, 3]
    assert [read(rows, row) for row in range(5)] == [as_clip(f"{PREFIX} {text}") for text in texts]
    # Reports are pairs of their own; equal label texts are one class, whose ids start at 1.
    assert rows.label[:2].tolist() == [0, 0]
    assert rows.label[2] == rows.label[3] != rows.label[4]
    assert rows.label[2:].min() >= 1
    facts = rows.facts(batch_size=2)
    assert {name: facts[name] for name in ("num_texts", "num_label_texts", "images_without_text")} == {
        "num_texts": 5,
        "num_label_texts": 3,
        "images_without_text": 1,
    }
    assert (facts["label_classes"], facts["label_classes_of_one_image"]) == (2, 1)


def test_the_same_words_are_another_class_in_another_view(folder: Path, tmp_path: Path) -> None:
    labels = [("study", f"study{index}", "CT", "positive") for index in range(12)]
    twelve = write_dataset(tmp_path / "twelve", num_train=12, num_test=0)
    rows = rows_of(twelve, tmp_path, [report(0, "")], labels, images=list(range(12)))
    assert rows.label[9] not in np.delete(rows.label, 9)  # the tenth is lateral
    assert len(set(np.delete(rows.label, 9))) == 1
    plain = rows_of(twelve, tmp_path, [report(0, "")], labels, images=list(range(12)), view_prefix=False)
    assert len(set(plain.label)) == 1


def test_identical_reports_can_be_positives_and_their_pairs_are_counted(folder: Path, tmp_path: Path) -> None:
    texts = ["R.", "S.", "r.", "R .", "T.", "S.", "R.", "U."]  # case and spacing do not reach the tower
    reports = [report(index, text) for index, text in enumerate(texts)]
    negatives = rows_of(folder, tmp_path, reports)
    positives = rows_of(folder, tmp_path, reports, identical_texts_are_positives=True)
    assert negatives.label.tolist() == [0] * 8
    shown = [tuple(as_clip(text)) for text in texts]
    for i, j in combinations(range(8), 2):
        assert (positives.label[i] == positives.label[j]) == (shown[i] == shown[j])
    pairs = sum(count * (count - 1) // 2 for count in Counter(shown).values())
    for rows in (negatives, positives):
        facts = rows.facts(batch_size=4)
        assert facts["identical_report_pairs"] == pairs == 7
        assert facts["identical_report_pairs_in_a_batch"] == pytest.approx(7 * (4 * 3) / (8 * 7))
        assert facts["most_frequent_text_share"] == 0.5


def test_a_long_text_keeps_its_head_and_is_counted(folder: Path, tmp_path: Path) -> None:
    reports = [report(0, "effusion " * 9, impression="No change."), report(1, "effusion " * 30), report(2, "effusion " * 8)]
    rows = rows_of(folder, tmp_path, reports, images=[0, 1, 2], context_length=16)
    texts = [f"{PREFIX} No change. {'effusion ' * 9}", f"{PREFIX} {'effusion ' * 30}", f"{PREFIX} {'effusion ' * 8}"]
    assert [read(rows, row) for row in range(3)] == [ClipTokenizer(16)([text])[0][0].tolist() for text in texts]
    lengths = [len(ClipTokenizer().encode(text)) for text in texts]
    assert rows.facts(2)["truncated_text_share"] == pytest.approx(np.mean([length > 14 for length in lengths]), abs=1e-4)


def test_reports_are_read_piece_by_piece(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [report(index, f"Number {index}.") for index in (5, 9, 0, 3, 7, 8, 1)]
    whole = rows_of(folder, tmp_path, reports)
    monkeypatch.setattr(texts_module, "REPORTS_AT_ONCE", 2)
    assert rows_of(folder, tmp_path, reports).digest() == whole.digest()
    assert rows_of(folder, tmp_path, reports[1:]).digest() != whole.digest()
    assert [read(whole, row) for row in range(5)] == [as_clip(f"{PREFIX} Number {index}.") for index in (0, 1, 3, 5, 7)]


def test_texts_that_teach_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    equal = rows_of(folder, tmp_path, [report(index, "No change.") for index in range(8)])
    with pytest.raises(InputError, match=r"all 8 texts are equal .* nothing to tell apart"):
        equal.check("clip", 4)
    with pytest.raises(InputError, match="8 pairs are fewer than batch_size 9"):
        equal.check("clip", 9)
    cut = rows_of(folder, tmp_path, [report(index, f"No change {index}") for index in range(8)], context_length=10)
    with pytest.raises(InputError, match="as far as the text tower reads them"):
        cut.check("clip", 4)
    with pytest.raises(InputError, match="no image of the subset has a report"):
        rows_of(folder, tmp_path, [report(0, "")])
    with pytest.raises(InputError, match=r"none of label_tasks .ETT, CT. is positive in the 8 images"):
        rows_of(folder, tmp_path, [report(0, "R.")], [("study", "study1", "CT", "negative")])
    with pytest.raises(InputError, match=r"text.sections conclusion: sections.parquet has none of them; it has findings"):
        rows_of(folder, tmp_path, [report(0, "R.")], sections=("conclusion",))


def test_a_text_that_dominates_is_pointed_out(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(folder, tmp_path, [report(index, "No change." if index > 2 else f"Effusion {index}.") for index in range(8)])
    rows.check("clip", 4)
    assert [line.partition(";")[0] for line in rows.remarks("clip")] == ["objective clip: 62% of the texts are the same one"]
    assert rows_of(folder, tmp_path, [report(index, f"Effusion {index}.") for index in range(8)]).remarks("clip") == []
