"""`radscale compare` and `radscale stratify` as a user types them, on CSVs that somebody else made."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radscale.cli import app, main
from radscale.html_report import figures
from radscale.metrics import average_precision, roc_auc

HEADER = "sample_id,patient_id,task,sex,age,target,model_a,model_b,open"


def wide_rows(n: int = 300, tasks: tuple[str, ...] = ("effusion", "edema")) -> list[str]:
    rng = np.random.default_rng(0)
    people = [(f"{i:04d}", f"p{i // 2}", rng.choice(["F", "M"]), rng.integers(30, 50)) for i in range(n)]
    rows = []
    for task in tasks:
        for sample, patient, sex, age in people:
            y = int(rng.random() < 0.25)
            scores = ",".join(f"{rng.normal() + skill * y:.4f}" for skill in (2.0, 1.9, 0.5))
            rows.append(f"{sample},{patient},{task},{sex},{age},{y},{scores}")
    return rows


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    path = tmp_path / "scores.csv"
    path.write_text("\n".join([HEADER, *wide_rows()]) + "\n")
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_two_columns_are_compared_task_by_task(wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["compare", str(wide), "--a", "model_a", "--b", "open", "--format", "csv"], standalone_mode=False)
    found = {row["task"]: row for row in rows_of(capsys.readouterr().out)}
    assert list(found) == ["effusion", "edema", "mean over tasks", "pooled (spread between tasks)"]
    table = [row.split(",") for row in wide_rows() if ",edema," in row]
    targets = [int(row[5]) for row in table]
    expected = [average_precision(targets, [float(row[column]) for row in table]) for column in (6, 8)]
    assert float(found["edema"]["a"]) == pytest.approx(expected[0], abs=1e-9)
    assert float(found["edema"]["difference"]) == pytest.approx(expected[0] - expected[1], abs=1e-9)
    assert found["edema"]["num_positives"] == str(sum(targets))
    assert all(row["significant"] == "1" for row in found.values())
    assert found["pooled (spread between tasks)"]["p_value"] == ""


def test_auroc_and_all_checks_agree_on_a_clear_difference(wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = ["--metric", "auroc", "--checks", "delong,permutation,wilcoxon", "--by-patient", "--format", "csv"]
    app(["compare", str(wide), "--a", "model_a", "--b", "open", *checks], standalone_mode=False)
    for row in rows_of(capsys.readouterr().out)[:2]:
        assert float(row["difference"]) == pytest.approx(float(row["delong_difference"]), abs=1e-9)
        assert max(float(row[p]) for p in ("p_value", "delong_p", "permutation_p")) < 0.01


def test_bold_is_the_best_arm_and_its_equals(wide: Path, tmp_path: Path) -> None:
    for name in ("table.md", "table.tex", "table.csv"):
        assert run("compare", wide, "--all", "--out", tmp_path / name) == 0
    markdown, latex = (tmp_path / "table.md").read_text(), (tmp_path / "table.tex").read_text()
    (line,) = (line for line in markdown.splitlines() if line.startswith("| mean over tasks"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2].startswith("**")
    assert not cells[4].startswith("**")
    assert r"\toprule" in latex
    assert r"model\_a" in latex
    long = rows_of((tmp_path / "table.csv").read_text())
    assert len(long) == 3 * 3
    assert {row["arm"] for row in long if row["best"] == "1"} <= {"model_a", "model_b"}
    assert not any(row["bold"] == "1" for row in long if row["arm"] == "open")


def test_seeds_are_rows_and_their_mean_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(100) < 0.3).astype(int)
    scores = rng.normal(size=(2, 100)) + targets
    lines = [f"s{i},{seed},{targets[i]},{scores[seed, i]},{rng.normal()}" for seed in (0, 1) for i in range(100)]
    path = tmp_path / "seeds.csv"
    path.write_text("sample_id;seed;target;a;b\n".replace(";", ",") + "\n".join(lines))
    app(["compare", str(path), "--a", "a", "--b", "b", "--format", "csv"], standalone_mode=False)
    (row,) = rows_of(capsys.readouterr().out)
    assert float(row["a"]) == pytest.approx(np.mean([average_precision(targets, s) for s in scores]), abs=1e-9)


def test_strata_show_prevalence_and_the_difference_to_the_open_weights(wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--by", "sex,age", "--reference", "open", "--rest", "--by-patient", "--replicates", "100", "--format", "csv"]
    app(["stratify", str(wide), *arguments], standalone_mode=False)
    rows = rows_of(capsys.readouterr().out)
    assert {(row["variable"], row["stratum"]) for row in rows} == {
        ("sex", "F"),
        ("sex", "M"),
        ("age", "30-39"),
        ("age", "40-49"),
    }
    table = [row.split(",") for row in wide_rows() if row.split(",")[3] == "F"]
    (row,) = (row for row in rows if (row["stratum"], row["arm"]) == ("F", "model_a"))
    aurocs = []
    for task in ("effusion", "edema"):
        chosen = [r for r in table if r[2] == task]
        aurocs.append(roc_auc([int(r[5]) for r in chosen], [float(r[6]) for r in chosen]))
    assert float(row["auroc"]) == pytest.approx(np.mean(aurocs), abs=1e-9)
    assert float(row["to_reference_low"]) > 0
    assert int(row["num_patients"]) == len({r[1] for r in table})
    assert row["to_rest_low"] < row["to_rest_high"] or float(row["to_rest_low"]) < float(row["to_rest_high"])


def test_comparison_is_drawn_with_the_numbers_of_the_table(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[dict[str, Any]] = []
    draw = figures.forest_figure

    def forest_figure(rows: list[dict[str, Any]], **settings: Any) -> Any:
        drawn.extend(rows)
        return draw(rows, **settings)

    monkeypatch.setattr(figures, "forest_figure", forest_figure)
    path = tmp_path / "new" / "forest.svg"
    arguments = ("--a", "model_a", "--b", "open", "--replicates", 60, "--metric", "auroc", "--out", tmp_path / "t.csv")
    assert run("compare", wide, *arguments, "--figure", path) == 0
    text = path.read_text(encoding="utf-8")
    for word in (
        "effusion",
        "edema",
        "mean over tasks",
        "difference in AUROC, points",
        "model_a better ▸",
        "model_a minus open",
    ):
        assert word in text
    assert "pooled" not in text
    table = {row["task"]: row for row in rows_of((tmp_path / "t.csv").read_text())}
    assert [row["task"] for row in drawn] == ["effusion", "edema", "mean over tasks"]
    for row in drawn:
        assert row["low"] < row["difference"] < row["high"]
        assert row["difference"] == pytest.approx(float(table[row["task"]]["difference"]), rel=1e-6)


def test_strata_are_drawn(wide: Path, tmp_path: Path) -> None:
    path = tmp_path / "strata.svg"
    assert run("stratify", wide, "--by", "sex,age", "--reference", "open", "--replicates", 40, "--figure", path) == 0
    text = path.read_text(encoding="utf-8")
    for word in ("sex", ">F<", ">M<", "30-39", "model_a", "open", "positives"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--a", "model_a", "--b", "open", "--figure", "x.bmp"], "x.bmp: figures are written as .svg, .pdf or .png"),
        (["compare", "--all", "--figure", "x.svg"], "--figure draws the differences of two arms"),
        (["stratify", "--by", "sex", "--figure", "x"], "x: figures are written as .svg, .pdf or .png"),
    ],
)
def test_figures_that_cannot_be_drawn(
    arguments: list[str], message: str, wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments[0], wide, *arguments[1:]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""  # before the work, not after


def test_metadata_may_stand_in_another_file(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = tmp_path / "facts.csv"
    metadata.write_text("sample_id,ward\n" + "\n".join(f"{i:04d},{'A' if i % 3 else ''}" for i in range(300)))
    arguments = ["--by", "ward", "--metadata", str(metadata), "--replicates", "20", "--format", "csv"]
    app(["stratify", str(wide), *arguments], standalone_mode=False)
    assert {row["stratum"] for row in rows_of(capsys.readouterr().out)} == {"A", "unknown"}
    metadata.write_text("sample_id,ward\n0000,A\n")
    assert run("stratify", wide, "--by", "ward", "--metadata", metadata) == 2
    assert "299 of 300 samples" in capsys.readouterr().err


def test_strata_without_a_class_are_listed_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    lines = [f"s{i},{'x' if i < 8 else 'y'},{int(i >= 8 and i % 2)},{i % 5},{i % 7}" for i in range(40)]
    path.write_text("sample_id,site,target,a,b\n" + "\n".join(lines))
    app(["stratify", str(path), "--by", "site", "--arm", "a", "--replicates", "20", "--format", "csv"], standalone_mode=False)
    first, second = rows_of(capsys.readouterr().out)
    assert (first["stratum"], first["num_samples"], first["auprc"]) == ("x", "8", "")
    assert first["remark"] == "not scored: all: no positives"
    assert (second["small"], second["remark"]) == ("1", "small")


LONG = "arm,sample_id,target,prediction\n"
BAD = {
    "empty": ("", "the file is empty"),
    "header only": (HEADER + "\n", "no rows"),
    "no table": ("\x00\x01\x02", "is not a table"),
    "prose": ("dear sir\nplease find\n", "no column 'sample_id'; found dear sir"),
    "nan score": (
        HEADER + "\na,p,t,F,3,1,nan,1,1\nb,p,t,F,3,0,,1,1\nc,p,t,F,3,0,1,1,1\n",
        "score nan in 2 rows (samples a, b)",
    ),
    "infinite score": (HEADER + "\na,p,t,F,3,1,inf,1,1\nb,p,t,F,3,0,1,1,1\n", "score inf in 1 row (samples a)"),
    "empty scores": (HEADER + "\na,p,t,F,3,1,,1,1\n", "that column is empty in every row"),
    "text score": (HEADER + "\na,p,t,F,3,1,high,1,1\n", "column holds text, not scores"),
    "one class": (HEADER + "\na,p,t,F,3,0,1,1,1\nb,p,t,F,3,0,1,1,1\n", "task 't': 0 positives among 2 samples"),
    "score as target": (
        HEADER + "\na,p,t,F,3,0.7,1,1,1\nb,p,t,F,3,0,1,1,1\n",
        "target 0.7 in 1 row (samples a); targets are 0 or 1",
    ),
    "twice": (HEADER + "\na,p,t,F,3,0,1,1,1\na,p,t,F,3,1,1,1,1\n", "1 samples stand there twice (a)"),
    "unknown arm": ("sample_id,target,mine\na,1,0.5\nb,0,0.1\n", "arm 'model_a': no such column; the score columns are mine"),
    "no scores": ("sample_id,target,sex\na,1,F\n", "no column of scores; found sample_id, target, sex"),
    "ragged": ("sample_id,target,model_a,open\na,1,2\n", "not a Parquet or CSV table"),
    "no id": ("sample_id,target,model_a,open\n,1,2,3\n", "column 'sample_id' has empty values"),
    "probability": (LONG + "model_a,s,1,1.5\nopen,s,1,0.5\n", "prediction 1.5 in 1 row (samples s); probabilities in [0, 1]"),
    "samples": (
        LONG + "model_a,s,1,.5\nmodel_a,u,0,.5\nopen,s,1,.5\nopen,v,0,.5\n",
        "1 of 'model_a' are not in 'open', 1 the other way round (u, v)",
    ),
    "targets": (
        LONG + "model_a,s,1,.5\nmodel_a,u,0,.5\nopen,s,1,.5\nopen,u,1,.5\n",
        "have different targets in 1 row (samples u)",
    ),
    "long arm": (LONG + "mine,s,1,.5\n", "arm 'model_a' is not in the tables; they have mine"),
    "no prediction": ("arm,sample_id,target\na,b,1\n", "no column 'prediction'; found arm, sample_id, target"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_one_line_and_exit_code_2(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BAD[case]
    path = tmp_path / "scores.csv"
    path.write_text(text)
    assert run("compare", path, "--a", "model_a", "--b", "open") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "nowhere.csv", "--a", "x", "--b", "y"], "no such file"),
        (["compare", "{wide}", "--a", "model_a"], "name two arms"),
        (["compare", "{wide}", "--a", "model_a", "--b", "open", "--arm", "model_b"], "--arm chooses among --all"),
        (["compare", "{wide}", "--all", "--arm", "open"], "one arm, open; two different ones are needed"),
        (["compare", "{wide}", "--a", "model_a", "--b", "model_a"], "two different ones are needed"),
        (["compare", "{wide}", "--a", "model_a", "--b", "sex"], "holds an id or a fact"),
        (["compare", "{wide}", "--a", "model_a", "--b", "open", "--metric", "f1"], "choose among auprc, auroc"),
        (["compare", "{wide}", "--a", "model_a", "--b", "open", "--checks", "t-test"], "choose among delong"),
        (["compare", "{wide}", "--a", "model_a", "--b", "open", "--task", "lung"], "task 'lung' is not in scores.csv"),
        (["compare", "{wide}", "--all", "--format", "xlsx"], "choose among table, csv"),
        (["compare", "{wide}", "--all", "--out", "x.xlsx"], "give --format csv"),
        (["stratify", "{wide}", "--by", "ward"], "no column 'ward'; found sample_id, patient_id"),
        (["stratify", "{wide}", "--by", "sample_id"], "300 values; at most 50 strata"),
        (["stratify", "{wide}", "--by", "sex", "--reference", "none"], "arm 'none': no such column"),
    ],
)
def test_bad_options(arguments: list[str], message: str, wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*(argument.format(wide=wide) for argument in arguments)) == 2
    assert message in capsys.readouterr().err


def test_patients_are_needed_for_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("sample_id,target,a,b\nx,1,2,3\ny,0,1,2\n")
    assert run("compare", path, "--all", "--by-patient") == 2
    assert "no patients are known" in capsys.readouterr().err


def test_too_few_replicates_for_holm_are_said(wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", wide, "--a", "model_a", "--b", "open", "--replicates", "50") == 0
    assert "draw 79 or more" in " ".join(capsys.readouterr().out.split())


def test_the_readmes_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    example = next(block for block in readme.split("```") if block.startswith("\nsample_id,patient_id,task"))
    monkeypatch.chdir(tmp_path)
    Path("scores.csv").write_text(example.lstrip())
    for line in readme.splitlines():
        if line.startswith(("radscale compare scores.csv", "radscale stratify scores.csv")):
            arguments = line.partition("#")[0].split()[1:]
            assert run(*arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"table.tex", "forest.svg", "subgroups.csv"}
