"""The answer page of invented studies: what it says, and that it needs nothing but itself."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from radscale.analysis.stratification import SMALL_POSITIVES
from radscale.html_report.page import ReportInputs, write_report
from synthetic_study import ARMS, TASKS, analyse


def inputs(analysis: Path, **changes: Any) -> ReportInputs:
    values: dict[str, Any] = {
        "title": "A study <of> mine",
        "description": "Invented.",
        "is_phantom": True,
        "created": "2026-01-01T00:00:00+00:00",
        "radscale_version": "0",
        "analysis": analysis,
        "arms": ARMS,
        "evaluations": [{"name": "findings", "label": "Findings", "tasks": TASKS, "headline": True, "note": ""}],
    }
    return ReportInputs(**{**values, **changes})


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return analyse(tmp_path_factory.mktemp("page"), {"clip": 0.15, "dinov2": -0.02})


@pytest.fixture(scope="module")
def page(analysis: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(inputs(analysis), tmp_path_factory.mktemp("page") / "report")


class Tags(HTMLParser):
    """Checks that what opens closes."""

    VOID = ("meta", "link", "br", "img", "hr", "input", "col")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text_of(path: Path) -> str:
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return re.sub(r"\s+", " ", " ".join(parser.text))


def test_the_answer_comes_first_with_its_uncertainty(page: Path) -> None:
    text = text_of(page)
    answer = text[: text.index("All 2 tasks")]
    assert re.search(r"How much of our own data beats the open model\? [\d,]+ images.*, with CLIP\.", answer)
    assert re.search(r"Not shown for DINOv2 with up to 10,000 images", answer)
    interval = r"\+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\]"
    assert re.search(rf"AUPRC points with 95 % intervals: CLIP {interval}", answer)
    assert re.search(r"With which objective\? CLIP", answer)
    assert re.search(r"What would more data buy\?.*extrapolated", answer)
    assert "How sure is that?" in answer


def test_what_the_data_cannot_tell_is_said(page: Path) -> None:
    text = text_of(page)
    assert "hernia (0 positives in test; at least 10 needed)" in text
    assert "only one encoder was trained per arm" in text
    assert "too few positives to compare" in text
    assert f"fewer than {SMALL_POSITIVES} positives per task" in text
    assert "over probe seeds is not known" not in text


def test_names_are_escaped_and_nothing_is_fetched(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "<model>" not in html
    assert "A study &lt;of&gt; mine" in html
    assert not re.search(r"""(src|href)=["'](?!data:|#|figures/|tables/)""", html)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", html)


def test_the_same_inputs_give_the_same_bytes(analysis: Path, page: Path, tmp_path: Path) -> None:
    again = write_report(inputs(analysis), tmp_path)
    for path in [page, *sorted((page.parent / "figures").iterdir()), *sorted((page.parent / "tables").iterdir())]:
        assert path.read_bytes() == (again.parent / path.relative_to(page.parent)).read_bytes(), path.name


def test_figures_and_tables_stand_beside_it_for_papers(page: Path) -> None:
    figures = {path.suffix for path in (page.parent / "figures").iterdir()}
    assert {".svg", ".pdf"} <= figures
    latex = (page.parent / "tables" / "findings_auprc.tex").read_text(encoding="utf-8")
    assert r"Edema \& more" in latex
    assert latex.count(r"\begin{") == latex.count(r"\end{")


def test_counts_and_zeros_read_well(tmp_path: Path) -> None:
    analysis = analyse(tmp_path / "study", {"clip": 0.15})
    changes: dict[str, dict[str, Any]] = {
        "results": {"num_positives": 1, "num_samples": 1},
        "fits": {"k": -4e-6, "k_low": -4e-6, "k_high": 4e-6},
        "data_plan": {"gain": -4e-6, "low": -4e-6, "high": 4e-6, "verdict": "saturated"},
    }
    for name, values in changes.items():
        pd.read_csv(analysis / f"{name}.csv").assign(**values).to_csv(analysis / f"{name}.csv", index=False)
    arms = {name: ARMS[name] for name in ("open", "clip")}
    text = text_of(write_report(inputs(analysis, arms=arms), tmp_path / "report"))
    assert "1 test image, 2 tasks with 1 positive each, 1 encoder per objective" in text
    assert "0.0000 [0.0000, 0.0000]" in text
    assert "0 of 2 tasks gain 0.5 points or more, with an interval above zero, 2 are near saturation" in text
    assert "average 0.0" in text
    assert not re.search(r"[-−+]0\.0+(?!\d)", text)


def test_a_single_probe_seed_of_the_open_model_is_said(tmp_path: Path) -> None:
    analysis = analyse(tmp_path / "study", {"clip": 0.15})
    results = pd.read_csv(analysis / "results.csv")
    results[(results["arm"] != "open") | (results["seed"] == 0)].to_csv(analysis / "results.csv", index=False)
    arms = {name: ARMS[name] for name in ("open", "clip")}
    text = text_of(write_report(inputs(analysis, arms=arms), tmp_path / "report"))
    assert "The spread of Open <model> over probe seeds is not known" in text


def test_one_arm_and_too_few_sizes_still_make_a_page(tmp_path: Path) -> None:
    analysis = analyse(tmp_path / "study", {"clip": 0.15})
    arms = {name: ARMS[name] for name in ("open", "clip")}
    lines = (analysis / "fits.csv").read_text().splitlines()
    (analysis / "fits.csv").write_text(lines[0] + "\n")
    (analysis / "curves.csv").write_text((analysis / "curves.csv").read_text().splitlines()[0] + "\n")
    text = text_of(write_report(inputs(analysis, arms=arms), tmp_path / "report"))
    assert re.search(r"With which objective\? [^?]*[Oo]nly", text)
