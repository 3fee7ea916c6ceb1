"""`radscale fit` and `radscale plan-data`, typed as a user would."""

import csv
import io
from pathlib import Path

import pytest

from radscale.cli import main

SIZES = (30_000, 50_000, 100_000, 1_000_000, 3_500_000)
SIMPLE = "subset_size,score\n30000,0.503\n50000,0.509\n100000,0.514\n1000000,0.527\n3500000,0.532\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


def two_arms(path: Path) -> Path:
    lines = ["arm,task,subset_size,replicate,seed,auprc"]
    for arm, alpha, k in (("clip", 0.447, 0.012), ("dino", 0.466, 0.004)):
        for task, shift in (("edema", 0.0), ("hernia", -0.1)):
            for index, size in enumerate(SIZES):
                score = alpha * size**k + shift
                lines += [f"{arm},{task},{size},0,{seed},{score + 1e-4 * ((7 * index + seed) % 5)}" for seed in range(3)]
    lines += [
        f"open,{task},0,0,{seed},{score + 0.001 * seed}"
        for task, score in (("edema", 0.5), ("hernia", 0.4))
        for seed in range(3)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_two_columns_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "simple.csv"
    path.write_text(SIMPLE)
    code, out, _ = run(capsys, "fit", path, "--target", 0.54, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert float(row["needed_low"]) < float(row["needed"]) < float(row["needed_high"])
    assert "k = 0.011" in row["parameters"]
    assert "log_linear" in row["indistinguishable"]


def test_arms_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_arms(tmp_path / "results.csv")
    code, out, _ = run(capsys, "fit", path, "--task", "edema", "--beats", "open")
    assert code == 0
    assert "images to beat open" in out
    assert "k of a / k of b" in out
    assert "2.9" in out  # 0.012 / 0.004, nearly


def test_plan_lists_tasks_and_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_arms(tmp_path / "results.csv")
    out_file = tmp_path / "plan.csv"
    code, *_ = run(
        capsys, "plan-data", path, "--more", 3_500_000, "--arm", "clip", "--cost-per-sample", 0.1, "--min-gain", 0.002,
        "--form", "power", "--out", out_file,
    )  # fmt: skip
    rows = list(csv.DictReader(out_file.open()))
    assert (code, [row["task"] for row in rows]) == (0, ["hernia", "edema", "average"])  # the largest gain first
    assert [row["verdict"] for row in rows] == ["pays"] * 3
    for row in rows:
        assert float(row["cost_per_point"]) == pytest.approx(350_000 / (100 * float(row["gain"])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "{simple}", "--form", "cubic"], "form 'cubic' is not known; allowed: constant, power"),
        (["fit", "{simple}", "--score", "auprc"], "no column 'auprc'; found subset_size, score"),
        (["fit", "{simple}", "--arm", "clip"], "no arm 'clip'"),
        (["fit", "{simple}", "--form", "bnsl"], "5 sizes for the 6 parameters of 'bnsl'"),
        (["fit", "{simple}", "--level", "95"], "level is 95"),
        (["fit", "{simple}", "--target", "nan"], "target nan"),
        (["fit", "{missing}"], "no such file"),
        (["fit", "{one}"], "all encoders have size 100"),
        (["fit", "{two}"], "2 encoders for the 2 parameters of 'power'; at least 3 are needed"),
        (["plan-data", "{simple}", "--more", "-5"], "more is -5"),
        (["plan-data", "{simple}", "--more", "10", "--min-gain", "0"], "min_gain is 0"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "simple": SIMPLE,
        "one": "subset_size,score\n100,0.5\n100,0.6\n100,0.7\n",
        "two": "subset_size,score\n100,0.5\n200,0.6\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    places = {name: str(tmp_path / f"{name}.csv") for name in (*files, "missing")}
    code, _, err = run(capsys, *(argument.format(**places) for argument in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
