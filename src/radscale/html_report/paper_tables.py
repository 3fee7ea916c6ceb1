"""Tables 2 to 5 of the paper in its shape, from the analysis tables: models as rows, seven tasks side by side.

Open weights come first, each followed by the arms that continue them; the prevalence stands above the scores and the mean over
tasks behind them. Small behind a score: its standard deviation over seeds. Bold is the best of a column and all that are not
significantly different from it (A.8).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radscale.html_report.rows import Arms, open_arms, trained_arms
from radscale.html_report.tables import AnalysisTables, best_models, escape_latex, mean, std, write_csv

TASKS_ABREAST = 7
ABBREVIATIONS = {
    "hyperinflation": "HI",
    "interstitial_lung_disease_pattern": "ILD",
    "atelectasis": "ATL",
    "costophrenic_angle_blunting": "CAB",
    "pleural_effusion": "PE",
    "pneumothorax": "PTX",
    "adenopathy": "AD",
    "enlarged_pulmonary_artery": "EPA",
    "arterial_calcification": "AC",
    "osseous_abnormalities": "OA",
    "rib_fracture": "RF",
    "bronchial_wall_thickening": "BWT",
    "hernia": "HRN",
    "subcutaneous_air": "SA",
    "opacity": "OP",
    "vascular_congestion": "VC",
    "cardiomegaly": "CM",
    "diaphragm_elevation": "DE",
    "pulmonary_edema": "PDE",
    "no_finding": "NF",
    "aortic_enlargement": "AE",
    "lung_opacity": "LO",
    "pleural_thickening": "PL-T",
    "pulmonary_fibrosis": "PF",
    "tuberculosis": "TB",
}
"""Of the paper; types of lines and tubes are abbreviations already."""
TITLES = {
    2: "Findings classification",
    3: "Tube presence classification",
    4: "Findings classification on the held-out dataset VinDr-CXR",
    5: "Segmentation of lines and tubes",
}
NUMBERS = {"findings": 2, "tubes": 3, "vindr_cxr": 4}
"""By task set; segmentations are Table 5."""


@dataclass(frozen=True)
class Cell:
    """A score as it is printed."""

    mean: str
    std: str
    bold: bool
    untested: bool
    """Never compared with the best one."""


@dataclass(frozen=True)
class Band:
    """Up to seven tasks of a table; the mean over tasks has no prevalence."""

    tasks: list[str]
    prevalences: list[str]
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    number: int
    evaluation: str
    title: str
    measure: str
    bands: list[Band]
    key: str
    """What the abbreviations mean."""

    @property
    def untested(self) -> bool:
        return any(cell.untested for band in self.bands for _, cells in band.rows for cell in cells)


def table_number(evaluation: Mapping[str, Any]) -> int | None:
    """Which table of the paper an evaluation gives, if any."""
    if evaluation.get("kind") == "segmentation":
        return 5
    return NUMBERS.get(str(evaluation.get("task_set")))


def paper_order(tables: AnalysisTables, arms: Arms) -> list[tuple[str, int]]:
    """Open weights, each followed by its arms at their largest size."""
    trained = trained_arms(tables, arms)
    models: list[tuple[str, int]] = []
    for opened in open_arms(tables, arms):
        models.append((opened, 0))
        models += [(arm, max(tables.sizes(arm))) for arm in trained if arms[arm]["open_weights_arm"] == opened]
    return models


def paper_table(tables: AnalysisTables, arms: Arms, evaluation: Mapping[str, Any]) -> PaperTable | None:
    """The evaluation as its table of the paper; None if it is none of them, or nothing was evaluated.

    Args:
        tables: of the evaluation, in its measure.
        arms: of the study.
        evaluation: name, label, tasks {key: display name} in the order of the paper, task_set, kind.
    """
    number, names = table_number(evaluation), evaluation["tasks"]
    tasks = [task for task in names if task in tables.tasks()]
    if number is None or not tasks:
        return None
    models, measure = paper_order(tables, arms), tables.measure
    columns = [*tasks, "average"]
    cells: dict[str, list[Cell]] = {}
    for task in columns:
        bold, untested = best_models(tables, models, task)
        scores = {model: tables.scores(*model, task) for model in models}
        cells[task] = [
            Cell(measure.show(mean(found)), measure.show(std(found)), model in bold, model in untested)
            for model, found in scores.items()
        ]
    prevalence = {row["task"]: f"{100 * row['prevalence']:.2f} %" for row in tables.results if row["task"] != "average"}
    labels = [_label(arms, model) for model in models]
    bands: list[Band] = []
    for start in range(0, len(columns), TASKS_ABREAST):
        chosen = columns[start : start + TASKS_ABREAST]
        # The mean belongs to the last band, even if it is its eighth column, as in Table 4.
        if chosen == ["average"] and bands:
            last = bands.pop()
            chosen = [*columns[start - TASKS_ABREAST : start], "average"]
            assert len(last.tasks) == TASKS_ABREAST
        bands.append(
            Band(
                [short_name(task) for task in chosen],
                [prevalence.get(task, "") for task in chosen],
                [(label, [cells[task][index] for task in chosen]) for index, label in enumerate(labels)],
            )
        )
    shown = [
        f"{short_name(task)}: {names[task].removesuffix(f' ({task})')}" for task in tasks if short_name(task) != names[task]
    ]
    return PaperTable(
        number,
        str(evaluation["name"]),
        f"{TITLES[number]}: {evaluation['label']}",
        measure.title,
        bands,
        ", ".join([*shown, f"AVG: mean over tasks of the {measure.name}, averaged over seeds"]) + ".",
    )


def _label(arms: Arms, model: tuple[str, int]) -> str:
    arm, size = model
    return f"{arms[arm]['label']}, " + (f"{size:,} images" if size else "open weights")


def short_name(task: str) -> str:
    """The paper's abbreviation of a task, or its key."""
    return "AVG" if task == "average" else ABBREVIATIONS.get(task, task)


def missing_tables(found: Sequence[PaperTable]) -> list[str]:
    """One line for each table of the paper that the study has no data for."""
    numbers = {table.number for table in found}
    needs = {
        2: "an evaluation with tasks: findings",
        3: "an evaluation with tasks: tubes",
        4: "an evaluation with tasks: vindr_cxr",
        5: "a segmentation",
    }
    return [f"Table {n} ({TITLES[n]}) is left out: the study has not {needs[n]}." for n in TITLES if n not in numbers]


def write_paper_table(table: PaperTable, folder: Path) -> None:
    """`table_NUMBER_EVALUATION.csv` (a row per model; columns TASK, TASK sd, TASK bold) and `.tex` (booktabs, in bands)."""
    stem = f"table_{table.number}_{table.evaluation}"
    rows: list[dict[str, str]] = [{"model": "prevalence"}]
    rows += [{"model": label} for label, _ in table.bands[0].rows]
    for band in table.bands:
        for column, task in enumerate(band.tasks):
            rows[0] |= {task: band.prevalences[column].removesuffix(" %"), f"{task} sd": "", f"{task} bold": ""}
            for row, (_, cells) in zip(rows[1:], band.rows, strict=True):
                cell = cells[column]
                row |= {task: cell.mean, f"{task} sd": cell.std, f"{task} bold": str(int(cell.bold))}
    write_csv(folder / f"{stem}.csv", rows)
    (folder / f"{stem}.tex").write_text(_latex(table), encoding="utf-8")


def _latex(table: PaperTable) -> str:
    width = max(len(band.tasks) for band in table.bands)
    caption = f"{table.title}. {table.measure}. Bold: best, and not significantly different from it."
    lines = [
        "\\begin{table}",
        f"\\caption{{{escape_latex(caption)}}}",
        "\\begin{tabular}{l" + "r" * width + "}",
        "\\toprule",
    ]
    for index, band in enumerate(table.bands):
        lines += ["\\midrule"] if index else []
        lines.append(_row(["Task", *map(escape_latex, band.tasks)], width))
        lines.append(_row(["Prevalence", *map(escape_latex, band.prevalences)], width))
        lines.append("\\midrule")
        lines += [_row([escape_latex(label), *map(_latex_cell, cells)], width) for label, cells in band.rows]
    lines += ["\\bottomrule", "\\end{tabular}", f"\\par\\small {escape_latex(table.key)}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str], width: int) -> str:
    return " & ".join([*cells, *[""] * (width + 1 - len(cells))]) + " \\\\"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.mean) + (f"\\textsubscript{{{escape_latex(cell.std)}}}" if cell.std != "–" else "")
    return f"\\textbf{{{text}}}" if cell.bold else text + ("\\textsuperscript{\\dag}" if cell.untested else "")


def paper_figures(evaluations: Sequence[Mapping[str, Any]], has_similarity: bool) -> list[dict[str, str]]:
    """Where each figure of the paper stands on the page (an anchor and files), or why it is not there.

    Args:
        evaluations: of the page, with name, label, kind, task_set and figures {key: drawn or None}.
        has_similarity: the study drew similarity maps.
    """

    def first(number: int) -> Mapping[str, Any] | None:
        return next((e for e in evaluations if table_number(e) == number and e["figures"]["scaling"]), None)

    rows = [_figure("1", "Similarity maps of a device's tip", "similarity-1" if has_similarity else "", "similarity_0")]
    plan = [
        ("2 left", 2, "scaling", "figure-scaling"),
        ("2 right", 2, "largest_gain", "figure-gain"),
        ("3 left", 3, "scaling", "figure-scaling"),
        ("3 right", 3, "largest_gain", "figure-gain"),
        ("4 left", 4, "scaling", "figure-scaling"),
        ("4 right", 5, "scaling", "figure-scaling"),
        ("6", 5, "dice", "figure-dice"),
        ("7 and 8", 2, "subgroups", "figure-subgroups"),
    ]
    texts = {"scaling": "mean over tasks by size", "largest_gain": "task that gained most", "dice": "Dice by size"}
    for name, number, key, anchor in plan:
        found = first(number)
        drawn = found is not None and found["figures"].get(key)
        what = f"{TITLES[number]}: {texts.get(key, key)}"
        place = f"{found['name']}-{anchor}" if found is not None and drawn else ""
        rows.append(_figure(name, what, place, f"{found['name']}_{key}" if found is not None else ""))
    return rows


def _figure(number: str, what: str, anchor: str, stem: str) -> dict[str, str]:
    return {"number": number, "what": what, "anchor": anchor, "stem": stem if anchor else ""}
