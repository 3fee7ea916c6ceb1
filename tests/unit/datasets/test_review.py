"""A person's review: the sheet, the decisions, and that nothing is used before it where it is asked for."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from dicom_makers import SECRET
from radscale.cli import app
from radscale.datasets import Dataset, IngestConfig, ingest, verify_dataset
from radscale.datasets.review import upper_bound
from radscale.errors import InputError
from radscale.pretraining.compute_budget import ComputeBudget
from radscale.pretraining.config import PretrainingConfig
from radscale.pretraining.pretrain import run_pretraining
from radscale.probing.config import ProbeConfig
from radscale.probing.embedding_sources import open_source
from radscale.probing.probe import run_probing
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.segment import run_segmentation

CONFIG = IngestConfig(
    kind="images",
    image_size_px=32,
    columns={"image": "image_path", "patient": "patient_id"},
    labels={"finding": "categorical"},
    require_review=True,
)


@pytest.fixture
def folder(image_folder: Callable[..., Path], tmp_path: Path) -> Path:
    ingest(CONFIG, image_folder(20), tmp_path / "ds", secret=SECRET)
    return tmp_path / "ds"


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["review", *map(str, arguments)])
    if isinstance(done.exception, InputError):
        return 2, str(done.exception)
    return done.exit_code, " ".join(done.output.split())


def decide(path: Path, page: Path, rejected: int) -> list[str]:
    """Write what the page's button writes; returns the images that are rejected."""
    found = re.findall(r'<figure data-sample="(\w+)" data-section="(\w+)">', page.read_text(encoding="utf-8"))
    with path.open("w", newline="") as file:
        rows = [(sample, section, "reject" if number < rejected else "pass") for number, (sample, section) in enumerate(found)]
        csv.writer(file).writerows([("sample_id", "section", "decision"), *rows])
    return [sample for sample, _ in found[:rejected]]


def test_a_dataset_that_asks_for_a_review_is_used_only_after_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="radscale review"):
        Dataset(folder).check_reviewed()
    assert run(folder, "--out", tmp_path / "sheet", "--images", 10)[0] == 0
    page = tmp_path / "sheet" / "review.html"
    assert page.read_text(encoding="utf-8").count("<figure") >= 10
    rejected = decide(tmp_path / "decisions.csv", page, 2)
    code, output = run(folder, "--decisions", tmp_path / "decisions.csv", "--reviewer", "R. Viewer")
    assert code == 0, output
    data = Dataset(folder)
    data.check_reviewed()
    assert not set(rejected) & set(data.column("sample_id").to_pylist())
    assert data.set_aside()["reason"].to_pylist() == ["review", "review"]  # type: ignore[index]
    assert data.settings["counts"]["excluded"]["review"] == 2
    assert verify_dataset(folder) == []
    said = json.loads((folder / "review.json").read_text())
    assert (said["reviewer"], said["rejected"], said["seen_at_random"]) == ("R. Viewer", 2, 10)
    assert said["at_most"] == pytest.approx(binomtest(2, 10, alternative="less").proportion_ci(0.95, "exact").high, abs=1e-6)


def test_what_is_added_later_must_be_looked_at_too(folder: Path, tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    run(folder, "--out", tmp_path / "sheet")
    decide(tmp_path / "decisions.csv", tmp_path / "sheet" / "review.html", 0)
    run(folder, "--decisions", tmp_path / "decisions.csv", "--reviewer", "A")
    Dataset(folder).check_reviewed()
    (tmp_path / "source").rename(tmp_path / "first")
    ingest(CONFIG, image_folder(25), folder, secret=SECRET, add=True)
    with pytest.raises(InputError, match="looked at by a person"):
        Dataset(folder).check_reviewed()


def test_the_demand_cannot_be_dropped_by_adding(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="require_review is False"):
        ingest(
            IngestConfig(kind="images", image_size_px=32, columns=CONFIG.columns, labels=CONFIG.labels),
            tmp_path / "source",
            folder,
            secret=SECRET,
            add=True,
        )


def test_stages_that_use_images_refuse(folder: Path, tmp_path: Path) -> None:
    def refused(function: Callable[..., object], *arguments: object, **options: object) -> None:
        with pytest.raises(InputError, match="radscale review"):
            function(*arguments, **options)

    refused(open_source, folder)
    places = {name: tmp_path / name for name in ("encoder", "labels", "masks", "out", "work", "init")}
    of_images = {"dataset": folder, "out": places["out"], "encoder": places["encoder"]}
    refused(run_probing, ProbeConfig(tasks="all"), labels=places["labels"], **of_images)
    refused(run_segmentation, SegmentationConfig(), masks=places["masks"], **of_images)
    training = PretrainingConfig(objective="dinov2", budget=ComputeBudget.samples_seen(64))
    refused(
        run_pretraining,
        training,
        dataset=folder,
        labels=None,
        init=None,
        init_name=None,
        out=places["out"],
        work=places["work"],
    )


@pytest.mark.parametrize(("rejected", "seen"), [(0, 300), (3, 100), (10, 10), (0, 1)])
def test_the_bound_is_that_of_clopper_and_pearson(rejected: int, seen: int) -> None:
    expected = binomtest(rejected, seen, alternative="less").proportion_ci(0.95, "exact").high
    assert upper_bound(rejected, seen, 10**6) == pytest.approx(expected, abs=1e-9)


def test_who_saw_all_knows_all() -> None:
    assert upper_bound(0, 50, 50) == 0
    assert upper_bound(2, 50, 50) == 0.04


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "needs sample_id, section"),
        ("sample_id,section,decision\nnobody,random,pass\n", "1 of 1 images are not in"),
        ("sample_id,section,decision\n", "no image that was drawn at random"),
    ],
)
def test_other_files_are_refused(folder: Path, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "decisions.csv").write_text(text)
    code, output = run(folder, "--decisions", tmp_path / "decisions.csv", "--reviewer", "A")
    assert code == 2
    assert says in output
    assert not (folder / "review.json").exists()


def test_a_review_needs_a_name_and_one_task(folder: Path, tmp_path: Path) -> None:
    run(folder, "--out", tmp_path / "sheet")
    decide(tmp_path / "decisions.csv", tmp_path / "sheet" / "review.html", 0)
    assert run(folder, "--decisions", tmp_path / "decisions.csv")[0] == 2
    assert run(folder)[0] == 2
