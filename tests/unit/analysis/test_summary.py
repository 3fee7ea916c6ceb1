import csv
import hashlib
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from radscale.analysis import read_predictions
from radscale.analysis.compare import CompareSettings, compare_arms
from radscale.analysis.stratification import age_group
from radscale.analysis.summary import summarise
from radscale.errors import InputError
from radscale.metrics import average_precision
from synthetic_study import ARMS, analyse, write_manifest, write_predictions


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return analyse(tmp_path_factory.mktemp("summary"), {"clip": 0.15, "dinov2": 0.0})


def rows(study: Path, name: str) -> list[dict[str, str]]:
    with (study / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_are_the_metric_of_the_tables(study: Path) -> None:
    table = pq.read_table(study.parent / "predictions" / "clip_1000_2.parquet").to_pandas()
    chosen = table[(table.task == "edema") & (table.seed == 1)]
    expected = average_precision(chosen.target, chosen.prediction)
    (row,) = (
        r
        for r in rows(study, "results")
        if (r["arm"], r["subset_size"], r["replicate"], r["seed"], r["task"]) == ("clip", "1000", "2", "1", "edema")
    )
    assert float(row["auprc"]) == pytest.approx(expected, rel=1e-9)


def test_average_is_the_mean_over_tasks(study: Path) -> None:
    one = [
        r
        for r in rows(study, "results")
        if (r["arm"], r["replicate"], r["seed"], r["subset_size"]) == ("clip", "0", "0", "100")
    ]
    tasks = [float(r["auprc"]) for r in one if r["task"] != "average"]
    (average,) = (float(r["auprc"]) for r in one if r["task"] == "average")
    assert average == pytest.approx(sum(tasks) / 2)


def test_the_arm_that_grows_is_found_and_the_one_that_does_not_is_not(study: Path) -> None:
    largest = {
        r["arm_a"]: r
        for r in rows(study, "comparisons")
        if (r["size_a"], r["arm_b"], r["task"]) == ("10000", "open", "average")
    }
    assert largest["clip"]["significant"] == "1"
    assert float(largest["clip"]["low"]) > 0.05
    assert float(largest["dinov2"]["low"]) < 0.02
    fits = {r["arm"]: r for r in rows(study, "fits") if r["task"] == "average"}
    assert float(fits["clip"]["k_low"]) > 0
    assert float(fits["dinov2"]["k_low"]) < 0.01
    assert fits["clip"]["verdict"] in ("below smallest", "within range")


def test_every_arm_and_stratum_is_shown_and_small_ones_are_flagged(study: Path) -> None:
    found = rows(study, "subgroups")
    assert {r["variable"] for r in found} == {"sex", "age_group", "manufacturer"}  # care setting is unknown
    assert {r["arm"] for r in found} == set(ARMS)
    assert {r["small"] for r in found if r["variable"] == "age_group"} == {"1"}
    assert {r["small"] for r in found if r["variable"] == "sex"} == {"0"}


def test_the_same_tables_give_the_same_bytes(study: Path, tmp_path: Path) -> None:
    again = analyse(tmp_path / "again", {"clip": 0.15, "dinov2": 0.0})
    for path in study.iterdir():
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256((again / path.name).read_bytes()).digest()


def test_arms_scored_on_different_samples_are_refused(tmp_path: Path) -> None:
    first, second, *_ = write_predictions(tmp_path, {"clip": 0.1})
    table = pq.read_table(second)
    pq.write_table(table.slice(1), second)
    with pytest.raises(InputError, match="has other test samples of task"):
        summarise({"f": [first, second]}, ARMS, {"f": write_manifest(tmp_path)}, tmp_path, num_bootstrap=5)


def test_a_comparison_from_a_csv_of_somebody_elses(study: Path, tmp_path: Path) -> None:
    import pyarrow.csv

    paths = sorted((study.parent / "predictions").glob("*.parquet"))
    table = read_predictions(paths)
    pyarrow.csv.write_csv(table, tmp_path / "all.csv")
    settings = CompareSettings(num_replicates=80, by_patient=True, resample_seeds=True, checks=["delong", "wilcoxon"])
    from_csv = compare_arms([tmp_path / "all.csv"], "clip@10000", "open", settings).render("csv")
    assert from_csv == compare_arms(paths, "clip@10000", "open", settings).render("csv")
    (average,) = (r for r in csv.DictReader(io.StringIO(from_csv)) if r["task"] == "mean over tasks")
    assert float(average["low"]) > 0.05
    with pytest.raises(InputError, match="several subset sizes"):
        compare_arms(paths, "clip", "open")
    with pytest.raises(InputError, match="arm 'mine' is not in the tables"):
        compare_arms(paths, "mine", "open")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arm,task\na,b\n", "no column 'objective'"),
        ("prediction 1.5", "prediction 1.5 in row 0"),
        ("target 3", "target 3"),
        ("twice", "rows repeat a sample"),
    ],
)
def test_bad_tables(text: str, message: str, tmp_path: Path) -> None:
    header = "arm,objective,subset_size,replicate,seed,task,sample_id,patient_id,target,prediction\n"
    line = "a,clip,10,0,0,t,s,p,{},{}\n"
    texts = {
        "prediction 1.5": header + line.format(1, 1.5),
        "target 3": header + line.format(3, 0.5),
        "twice": header + 2 * line.format(1, 0.5),
    }
    path = tmp_path / "table.csv"
    path.write_text(texts.get(text, text))
    with pytest.raises(InputError, match=message):
        read_predictions(path)


def test_age_groups_are_the_papers() -> None:
    assert [age_group(age) for age in (0, 19, 20, 49, 89, 90, 104, None)] == [
        "<20",
        "<20",
        "20-29",
        "40-49",
        "80-89",
        "90+",
        "90+",
        None,
    ]
