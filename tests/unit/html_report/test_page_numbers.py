"""The page read by somebody else: its HTML is parsed, and its numbers are computed anew from the CSV tables beside it."""

import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from radscale.html_report.page import ReportInputs, write_report
from synthetic_study import ARMS, TASKS, analyse

LABELS = {facts["label"]: arm for arm, facts in ARMS.items()}
TASK_OF = {**{label: task for task, label in TASKS.items()}, "Mean over tasks": "average"}


class Tables(HTMLParser):
    """Cells of every table, by a word of its caption; labels of every figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[tuple[str, list[list[str]]]] = []
        self.figures: list[str] = []
        self.text = ""
        self.part = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag == "table":
            self.rows.append(("", []))
        elif tag == "svg":
            self.figures.append(str(facts.get("aria-label")))
        elif tag == "tr":
            self.rows[-1][1].append([])
        elif tag in ("th", "td"):
            self.rows[-1][1][-1].append("")
        elif tag == "strong" and self.part == "td":
            self.rows[-1][1][-1][-1] += "*"
        elif tag == "sup":
            self.rows[-1][1][-1][-1] += "^"
        if tag in ("th", "td", "caption"):
            self.part = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self.part:
            self.part = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.part == "caption":
            self.rows[-1] = (self.rows[-1][0] + data, self.rows[-1][1])
        elif self.part:
            self.rows[-1][1][-1][-1] += data

    def table(self, caption: str) -> list[list[str]]:
        """Body of the one table with these words in its caption."""
        (found,) = (rows for text, rows in self.rows if caption in text)
        return [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in found[1:]]


GAINS = {
    "one grows": {"clip": 0.15, "dinov2": -0.02},
    "none grows": {"clip": 0.0, "dinov2": 0.0},
    "beyond 1": {"clip": 0.9, "dinov2": 0.02},
}


@pytest.fixture(scope="module", params=list(GAINS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("numbers")
    inputs = ReportInputs(
        title="Numbers",
        description="",
        is_phantom=True,
        created="",
        radscale_version="0",
        analysis=analyse(base, GAINS[request.param]),
        arms=ARMS,
        evaluations=[{"name": "findings", "label": "Findings", "tasks": TASKS, "headline": True, "note": ""}],
    )
    return write_report(inputs, base / "report").parent


@pytest.fixture(scope="module")
def page(folder: Path) -> Tables:
    return Tables((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def csv(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path, keep_default_na=True) for path in (folder / "tables").glob("*.csv")}


def points(value: float) -> str:
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def interval(row: Mapping[Any, Any], name: str = "difference") -> str:
    return f"{signed(row[name])} [{signed(row['low'])}, {signed(row['high'])}]"


def images(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"


def only(frame: pd.DataFrame, **conditions: Any) -> dict[Any, Any]:
    for column, value in conditions.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, conditions
    return dict(frame.iloc[0])


def against_open(csv: dict[str, pd.DataFrame], arm: str, size: int, task: str = "average") -> dict[Any, Any]:
    return only(csv["comparisons"], arm_a=arm, size_a=size, arm_b="open", size_b=0, task=task)


def encoders(csv: dict[str, pd.DataFrame], arm: str, task: str) -> pd.DataFrame:
    """Mean over seeds of every encoder."""
    rows = csv["results"].query("arm == @arm and task == @task")
    return rows.groupby(["subset_size", "replicate"], as_index=False)["auprc"].mean()


def leader(csv: dict[str, pd.DataFrame]) -> str:
    """The arm with the highest average at its largest size."""
    rows = csv["results"].query("task == 'average' and subset_size == 10_000")
    return str(rows.groupby("arm")["auprc"].mean().idxmax())


def law(csv: dict[str, pd.DataFrame], arm: str, task: str) -> tuple[float, float]:
    """alpha and k by numpy's least squares."""
    points = encoders(csv, arm, task)
    k, log_alpha = np.polyfit(np.log(points["subset_size"]), np.log(points["auprc"]), 1)
    return math.exp(log_alpha), float(k)


def test_the_summary(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    rows = page.table("Findings in numbers")
    assert [LABELS[row[0]] for row in rows] == ["clip", "dinov2"]
    for label, opened, size, score, difference, start, _, more in rows:
        arm = LABELS[label]
        average = csv["results"].query("task == 'average'")
        sizes = sorted(average.query("arm == @arm")["subset_size"].unique())
        assert opened == points(average.query("arm == 'open'")["auprc"].mean())
        assert size == f"{sizes[-1]:,}"
        assert score == points(average.query("arm == @arm and subset_size == @sizes[-1]")["auprc"].mean())
        assert difference == interval(against_open(csv, arm, sizes[-1]))
        better = [against_open(csv, arm, n)["low"] > 0 for n in sizes]
        first = next((n for n, rest in zip(sizes, (better[i:] for i in range(len(sizes))), strict=True) if all(rest)), None)
        assert start == ("not shown" if first is None else f"{first:,}")
        plan = only(csv["data_plan"], arm=arm, task="average")
        assert more == interval(plan, "gain")
        alpha, k = law(csv, arm, "average")
        now, then = (alpha * (factor * float(sizes[-1])) ** k for factor in (1, 10))
        assert plan["gain"] == pytest.approx(min(then - now, max(1 - now, 0)), rel=1e-6, abs=1e-9)


def test_the_laws_and_the_size_that_beats_the_open_model(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    rows = {LABELS[row[0]]: row for row in page.table("Power law of the mean AUPRC")}
    assert rows.keys() == {"clip", "dinov2"}
    for arm, (_, shown, exponent, counted, target, beats) in rows.items():
        fit = only(csv["fits"], arm=arm, task="average")
        alpha, k = law(csv, arm, "average")
        assert shown == f"{100 * alpha:.2f} · n^{k:.4f}".replace("-", "−")
        assert exponent == "{:.4f} [{:.4f}, {:.4f}]".format(*(fit[n] for n in ("k", "k_low", "k_high"))).replace("-", "−")
        assert counted == f"{len(encoders(csv, arm, 'average'))} from 100 to 10,000 images"
        opened = csv["results"].query("arm == 'open' and task == 'average'")["auprc"]
        assert target == points(opened.mean())
        # Student's t with one degree of freedom: two probe seeds.
        half = 12.7062047362 * opened.std() / math.sqrt(2)
        assert (fit["target_low"], fit["target_high"]) == pytest.approx((opened.mean() - half, opened.mean() + half), rel=1e-6)
        if math.isfinite(fit["beats"]) and fit["beats"] > 100:
            assert fit["beats"] == pytest.approx((opened.mean() / alpha) ** (1 / k), rel=0.01)
        assert fit["beats_low"] <= fit["beats"] <= fit["beats_high"]
        if fit["beats_low"] <= 100 and math.isinf(fit["beats_high"]):
            assert beats == "cannot be told"
        elif math.isinf(fit["beats_low"]):
            assert beats == "not reached"
        elif fit["beats_high"] <= 100:
            assert beats == "≤ 100"
        else:
            for value in (fit["beats"], fit["beats_high"]):
                assert ("not reached" if math.isinf(value) else images(value) if value > 100 else "≤ 100") in beats
    summary = {LABELS[row[0]]: row[6] for row in page.table("Findings in numbers")}
    assert summary == {arm: row[5] for arm, row in rows.items()}


def test_the_scores(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    models = [("open", 0), ("clip", 10_000), ("dinov2", 10_000)]
    rows = page.table("AUPRC in points of 100 on 600 test images")
    assert [TASK_OF[row[0]] for row in rows] == [*TASKS, "average"]
    for label, prevalence, positives, *cells in rows:
        task = TASK_OF[label]
        found = csv["results"].query("task == @task")
        if task != "average":
            assert float(prevalence) == pytest.approx(100 * found["prevalence"].iloc[0], abs=0.05)
            assert int(positives) == found["num_positives"].iloc[0] == round(found["prevalence"].iloc[0] * 600)
        scores = {model: found.query("arm == @model[0] and subset_size == @model[1]")["auprc"] for model in models}
        best = max(models, key=lambda model: scores[model].mean())
        for model, cell in zip(models, cells, strict=True):
            assert cell.strip("*") == f"{points(scores[model].mean())} {points(scores[model].std())}"
            pair = csv["comparisons"].query("task == @task")
            pair = pair[
                pair.apply(lambda r, m=model: {(r.arm_a, r.size_a), (r.arm_b, r.size_b)} == {m, best}, axis=1)  # noqa: B023
            ]
            assert cell.startswith("*") == (model == best or not pair["significant"].item())


def test_every_difference(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    rows = page.table("Holm: corrected over the tasks of the arm")
    assert len(rows) == 2 * (1 + len(TASKS))
    for task, label, difference, p, holm, excludes in rows:
        row = against_open(csv, LABELS[label], 10_000, TASK_OF[task])
        assert row["difference"] == pytest.approx(row["mean_a"] - row["mean_b"], abs=1e-9)
        assert difference == interval(row)
        assert float(p.removeprefix("≤ ")) == pytest.approx(row["p_value"], abs=5e-4)
        assert holm == ("" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.3f}")
        assert excludes == ("yes" if row["low"] > 0 or row["high"] < 0 else "no")


def test_every_comparison_over_tasks(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    wanted = csv["comparisons"][csv["comparisons"]["task"].isin(["average", "pooled"])]
    rows = page.table("a minus b in AUPRC points")
    assert len(rows) == len(wanted)
    for shown, (_, row) in zip(rows, wanted.iterrows(), strict=True):
        assert shown[3] == interval(row)
        for text, arm, size in ((shown[0], row["arm_a"], row["size_a"]), (shown[1], row["arm_b"], row["size_b"])):
            assert text == f"{ARMS[arm]['label']}, " + (f"{size:,} images" if size else "open weights")


def test_every_subgroup(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    rows = page.table("Means over the tasks that have both classes in the group")
    assert len(rows) == len(csv["subgroups"]) > 0
    for shown, (_, row) in zip(rows, csv["subgroups"].iterrows(), strict=True):
        few = row["num_positives"] < 20 * row["num_tasks"]
        assert shown[1] == row["stratum"] + (" (few)" if few else "")
        assert shown[3] == f"{points(row['auprc'])} [{points(row['low'])}, {points(row['high'])}]"
        assert shown[4:6] == [points(row["auroc"]), points(row["prevalence"])]
        assert [int(text) for text in shown[6:]] == [row["num_positives"], row["num_tasks"], row["num_samples"]]


def test_the_gains_of_more_data_task_by_task(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    (label,) = (text for text in page.figures if text.startswith("Expected gain of each task"))
    arm = leader(csv)
    assert f"Findings: {ARMS[arm]['label']}, from 10,000 to 100,000 images" in page.text
    rows = csv["data_plan"].query("arm == @arm").set_index("task")
    for task, row in rows.iterrows():
        name = next(name for name, key in TASK_OF.items() if key == task)
        assert f"{name} {interval(row, 'gain')}" in label
        alpha, k = law(csv, arm, str(task))
        assert row["next_size"] == 10 * row["current_size"] == 100_000
        assert row["current"] == pytest.approx(alpha * 1e4**k, rel=1e-6)
        assert row["gain"] == pytest.approx(min(alpha * (1e5**k - 1e4**k), max(1 - row["current"], 0)), rel=1e-6)
        assert row["low"] <= row["gain"] <= row["high"] <= max(1 - row["current"], 0) + 1e-9
        pays = row["gain"] >= 0.005 and row["low"] > 0
        assert row["verdict"] == ("pays" if pays else "saturated" if row["high"] < 0.005 else "unclear")
    tasks = rows.drop("average")
    figure = page.text[page.text.index("What more data would bring, task by task") : page.text.index("has the highest mean")]
    assert ("near saturation" in figure) == (tasks["verdict"] == "saturated").any()
    assert ("gain shown" in figure) == ((tasks["verdict"] != "saturated") & (tasks["low"] > 0)).any()


def test_the_answer_in_words_has_the_numbers_of_the_tables(page: Tables, csv: dict[str, pd.DataFrame]) -> None:
    text = re.sub(r"\s+", " ", page.text)
    answer = text[text.index("How much of our own data") : text.index("How sure is that?")]
    for arm in ("clip", "dinov2"):
        assert f"{ARMS[arm]['label']} {interval(against_open(csv, arm, 10_000))}" in answer
        plan = only(csv["data_plan"], arm=arm, task="average")
        assert f"{ARMS[arm]['label']} {interval(plan, 'gain')}" in answer
    arm = leader(csv)
    tasks = csv["data_plan"].query("arm == @arm and task != 'average'")
    assert f"{(tasks['verdict'] == 'pays').sum()} of {len(tasks)} tasks gain 0.5 points or more" in answer
