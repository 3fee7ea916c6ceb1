"""Tables of the paper and of other centres, recomputed straight from the Parquet tables by DuckDB and scikit-learn."""

import base64
import csv
import dataclasses
import math
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from radscale.analysis.bootstrap import ImageValues, bootstrap_image_means, minimum_detectable_difference
from radscale.analysis.summary import summarise
from radscale.errors import InputError
from radscale.html_report.page import ReportInputs, write_report
from synthetic_segmentation import write_segmentations
from synthetic_study import ARMS, write_manifest, write_predictions

TASKS = {"effusion": "Effusion", "edema": "Edema"}
DEVICES = {"SGC": "Swan-Ganz catheter (SGC)", "ETT": "Endotracheal tube (ETT)"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    for name in ("home", "away", "analysis"):
        (folder / name).mkdir()
    # CLIP gains at home and loses elsewhere.
    home = write_predictions(folder / "home", {"clip": 0.15, "dinov2": 0.02})
    away = write_predictions(folder / "away", {"clip": -0.15, "dinov2": 0.02}, seed=1)
    segmented = write_segmentations(folder / "segmented")
    manifest = write_manifest(folder)
    summarise(
        {"findings": home, "vindr": away},
        ARMS,
        {"findings": manifest, "vindr": manifest},
        folder / "analysis",
        segmentations={"devices": segmented},
        num_bootstrap=300,
    )
    write_report(report_inputs(folder / "analysis"), folder / "report")
    return folder


def report_inputs(analysis: Path) -> ReportInputs:
    facts: dict[str, Any] = {"headline": False, "note": ""}
    return ReportInputs(
        title="Invented",
        description="",
        is_phantom=True,
        created="2026-01-01T00:00:00+00:00",
        radscale_version="0",
        analysis=analysis,
        arms=ARMS,
        evaluations=[
            {**facts, "name": "findings", "label": "Findings", "tasks": TASKS, "headline": True, "task_set": "findings"},
            {**facts, "name": "vindr", "label": "VinDr", "tasks": TASKS, "task_set": "vindr_cxr", "held_out": True},
            {**facts, "name": "devices", "label": "Tubes", "tasks": DEVICES, "kind": "segmentation", "held_out": True},
        ],
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def model(arm: str, size: int) -> str:
    return f"{ARMS[arm]['label']}, " + (f"{size:,} images" if size else "open weights")


def test_table_5_is_what_duckdb_finds_in_the_parquet(study: Path) -> None:
    table = {row["model"]: row for row in read(study / "report" / "tables" / "table_5_devices.csv")}
    assert list(table) == ["prevalence", model("open", 0), model("clip", 10_000), model("dinov2", 10_000)]
    runs = f"""
        SELECT arm, subset_size, replicate, seed, task, avg(hausdorff_px) AS score
        FROM read_parquet('{study}/segmented/*.parquet') WHERE NOT isnan(hausdorff_px) GROUP BY ALL
    """
    found = duckdb.sql(
        f"SELECT arm, subset_size, task, avg(score), stddev_samp(score) FROM ({runs}) "
        "WHERE subset_size IN (0, 10000) GROUP BY ALL"
    ).fetchall()
    assert len(found) == 6
    for arm, size, task, mean, deviation in found:
        row = table[model(arm, size)]
        assert float(row[task]) == pytest.approx(mean, abs=0.05001)
        assert float(row[f"{task} sd"]) == pytest.approx(deviation, abs=0.05001)
    for arm, size in {(arm, size) for arm, size, *_ in found}:
        means = [mean for a, s, _, mean, _ in found if (a, s) == (arm, size)]
        assert float(table[model(arm, size)]["AVG"]) == pytest.approx(np.mean(means), abs=0.05001)
    shares = dict(
        duckdb.sql(
            f"SELECT task, 100 * avg(present::INT) FROM read_parquet('{study}/segmented/open_0_0.parquet') GROUP BY task"
        ).fetchall()
    )
    assert {task: float(table["prevalence"][task]) for task in DEVICES} == pytest.approx(shares, abs=0.00501)


@pytest.mark.parametrize(("number", "name", "folder"), [(2, "findings", "home"), (4, "vindr", "away")])
def test_tables_of_findings_are_what_scikit_learn_finds(study: Path, number: int, name: str, folder: str) -> None:
    table = {row["model"]: row for row in read(study / "report" / "tables" / f"table_{number}_{name}.csv")}
    rows = duckdb.sql(
        "SELECT arm, subset_size, task, replicate, seed, list(target ORDER BY sample_id), list(prediction ORDER BY sample_id) "
        f"FROM read_parquet('{study}/{folder}/*.parquet') WHERE subset_size IN (0, 10000) GROUP BY ALL"
    ).fetchall()
    scores: dict[tuple[str, int, str], list[float]] = {}
    for arm, size, task, _, _, targets, predictions in rows:
        scores.setdefault((arm, size, task), []).append(100 * average_precision_score(targets, predictions))
    assert len(scores) == 6
    for (arm, size, task), values in scores.items():
        row = table[model(arm, size)]
        assert float(row[task]) == pytest.approx(np.mean(values), abs=0.05001)
        assert float(row[f"{task} sd"]) == pytest.approx(np.std(values, ddof=1), abs=0.05001)


def test_a_lower_distance_is_better_everywhere(study: Path) -> None:
    table = {row["model"]: row for row in read(study / "report" / "tables" / "table_5_devices.csv")}
    bold = {name: [row[f"{task} bold"] for task in (*DEVICES, "AVG")] for name, row in table.items()}
    assert bold[model("clip", 10_000)] == ["1", "1", "1"]
    assert bold[model("dinov2", 10_000)] == bold[model("open", 0)] == ["0", "0", "0"]
    fits = {
        row["arm"]: row
        for row in read(study / "analysis" / "fits.csv")
        if (row["evaluation"], row["measure"], row["task"]) == ("devices", "hausdorff_px", "average")
    }
    assert float(fits["clip"]["k"]) < 0 < float(fits["dinov2"]["k"])
    assert fits["clip"]["verdict"] in ("below smallest", "within range")
    assert fits["dinov2"]["verdict"] == "not reached"
    gains = {row["arm"]: float(row["gain"]) for row in read(study / "analysis" / "data_plan.csv")
             if (row["evaluation"], row["measure"], row["task"]) == ("devices", "hausdorff_px", "average")}  # fmt: skip
    assert gains["clip"] > 0 > gains["dinov2"]
    text = page_text(study)
    answer = text[text.index("Tubes 2 tasks, Hausdorff distance") :]
    assert "100 images, the fewest that we tried, with CLIP. Not shown for DINOv2" in answer
    assert "CLIP: measurably better than the others." in answer
    svg = (study / "report" / "figures" / "devices_differences.svg").read_text(encoding="utf-8")
    assert svg.index("own data better") < svg.index("open weights better")


def page_text(study: Path) -> str:
    html = (study / "report" / "report.html").read_text(encoding="utf-8")
    html = re.sub(r"<(style|svg).*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html).replace("&lt;", "<"))


def test_other_centres_show_reversed_trends_and_what_is_too_small(study: Path) -> None:
    text = page_text(study)
    assert "CLIP: measurably better or worse than its open model at home, and measurably the other way in VinDr." in text
    assert "Table 3 (Tube presence classification) is left out" in text
    assert "Table 5 of the paper" in text
    rows = [
        row
        for row in read(study / "analysis" / "comparisons.csv")
        if (row["evaluation"], row["task"], row["arm_a"], row["arm_b"], row["size_a"]) ==
        ("vindr", "average", "clip", "dinov2", "10000")
    ]  # fmt: skip
    (row,) = rows
    assert f"minimum detectable difference {100 * float(row['detectable']):.1f} points" in text


def test_minimum_detectable_difference_is_that_of_a_paired_z_test() -> None:
    """Of n independent image differences the standard error is known; so is the power at the difference that is found."""
    rng = np.random.default_rng(0)
    a, noise = rng.normal(50, 10, 400), rng.normal(0, 4, 400)
    values = {"a": a[None], "b": (a + noise)[None]}
    present = np.ones(400, bool)
    result = bootstrap_image_means([ImageValues("t", present, values)], num_replicates=2000).difference("a", "b")
    error = float(noise.std(ddof=1)) / math.sqrt(400)
    assert result.macro.standard_error == pytest.approx(error, rel=0.06)
    detectable = minimum_detectable_difference(error)
    found = rng.normal(detectable, error, 200_000)
    assert (np.abs(found) > 1.959964 * error).mean() == pytest.approx(0.8, abs=0.005)


def test_images_without_a_measurement_do_not_count() -> None:
    values = np.array([[1.0, np.nan, 3.0, np.nan], [np.nan, np.nan, 5.0, 7.0]])
    task = ImageValues("t", np.array([True, True, True, False]), {"a": values})
    assert bootstrap_image_means([task], num_replicates=64).observed["t"]["a"] == pytest.approx((2 + 6) / 2)
    with pytest.raises(InputError, match="no image with a measurement"):
        bootstrap_image_means([ImageValues("t", np.ones(2, bool), {"a": np.full((1, 2), np.nan)})])


def test_heads_that_find_nothing_are_named(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "analysis", tmp_path / "analysis")
    rows = read(tmp_path / "analysis" / "results.csv")
    with (tmp_path / "analysis" / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"dice": "0.004"} if row["arm"] == "clip" and row["dice"] else row for row in rows)
    page = write_report(report_inputs(tmp_path / "analysis"), tmp_path / "report").read_text(encoding="utf-8")
    assert page.count("the head marks next to nothing") == 1
    assert f"{ARMS['clip']['label']}: the head marks next to nothing" in page
    assert "marks next to nothing" not in (study / "report" / "report.html").read_text(encoding="utf-8")


def test_sheets_of_cases_stand_in_the_section_of_their_segmentation(study: Path, tmp_path: Path) -> None:
    sheet = np.full((40, 60, 3), 24, np.uint8)
    cv2.imwrite(str(tmp_path / "ETT.png"), sheet)
    inputs = report_inputs(study / "analysis")
    item = {"task": "ETT", "model": "CLIP, 10,000 images", "image": tmp_path / "ETT.png"}
    evaluations = [{**e, "overlays": [item]} if e["name"] == "devices" else e for e in inputs.evaluations]
    page = write_report(dataclasses.replace(inputs, evaluations=evaluations), tmp_path / "report").read_text(encoding="utf-8")
    section = page.partition('<section id="devices">')[2].partition("</section>")[0]
    assert "Best, median and worst cases" in section
    uri = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', section)
    assert len(uri) == 1
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(uri[0]), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == sheet.shape
    assert "Best, median and worst cases" not in (study / "report" / "report.html").read_text(encoding="utf-8")
