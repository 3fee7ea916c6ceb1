"""Read the analysis tables, and write them for papers (CSV, LaTeX)."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radscale.analysis.measures import AUPRC, Measure

Row = dict[str, Any]
NUMBERS = {
    "subset_size", "replicate", "seed", "auprc", "auroc", "hausdorff_px", "hd95_px", "dice", "cldice", "standard_error",
    "detectable", "kappa", "num_compared", "num_predicted", "num_both",
    "prevalence", "num_positives", "num_samples", "size_a", "size_b",
    "difference", "low", "high", "p_value", "p_holm", "significant", "mean_a", "mean_b", "num_bootstrap", "alpha", "k", "k_low",
    "k_high", "num_encoders", "min_size", "max_size", "target", "target_low", "target_high", "beats", "beats_low", "beats_high",
    "current_size", "next_size", "current", "gain", "samples_for_gain", "num_tasks", "estimate",
    "extrapolated", "small", "precision", "recall", "f1", "support", "seconds", "samples_seen", "steps", "achieved",
    "images_per_second", "peak_memory_gb",
}  # fmt: skip


def read_table(path: Path | None) -> list[Row]:
    """Rows of a CSV; numbers as float, empty ones as NaN. No rows if there is no file."""
    if path is None or not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(key, value) for key, value in row.items()} for row in csv.DictReader(file)]


def _value(key: str, text: str) -> Any:
    if key not in NUMBERS:
        return text
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class AnalysisTables:
    """All tables of one study."""

    results: list[Row]
    comparisons: list[Row]
    fits: list[Row]
    curves: list[Row]
    data_plan: list[Row]
    subgroups: list[Row]
    excluded_tasks: list[Row]
    measure: Measure = AUPRC

    @classmethod
    def names(cls) -> list[str]:
        return [name for name in cls.__dataclass_fields__ if name != "measure"]

    @classmethod
    def read(cls, folder: Path) -> "AnalysisTables":
        tables: dict[str, Any] = {name: read_table(folder / f"{name}.csv") for name in cls.names()}
        return cls(**tables)

    def of(self, evaluation: str, measure: Measure = AUPRC) -> "AnalysisTables":
        """The rows of one evaluation in one measure."""
        chosen: dict[str, Any] = {
            name: [
                row
                for row in getattr(self, name)
                if row["evaluation"] == evaluation and row.get("measure", measure.key) == measure.key
            ]
            for name in self.names()
        }
        return AnalysisTables(**chosen, measure=measure)

    def tasks(self) -> list[str]:
        return [task for task in dict.fromkeys(row["task"] for row in self.results) if task != "average"]

    def sizes(self, arm: str) -> list[int]:
        return sorted({int(row["subset_size"]) for row in self.results if row["arm"] == arm})

    def scores(self, arm: str, size: int, task: str) -> list[float]:
        """One score per encoder and seed."""
        return [
            row[self.measure.key] for row in self.results if (row["arm"], row["subset_size"], row["task"]) == (arm, size, task)
        ]

    def encoder_scores(self, arm: str, task: str) -> list[tuple[int, float]]:
        """(size, mean over seeds) of every encoder of an arm."""
        groups: dict[tuple[int, float], list[float]] = {}
        for row in self.results:
            if row["arm"] == arm and row["task"] == task:
                groups.setdefault((int(row["subset_size"]), row["replicate"]), []).append(row[self.measure.key])
        return [(size, mean(values)) for (size, _), values in groups.items()]

    def comparison(self, a: tuple[str, int], b: tuple[str, int], task: str) -> Row | None:
        """Difference a - b; found also if the table has it the other way round."""
        for row in self.comparisons:
            if row["task"] != task:
                continue
            pair = (row["arm_a"], int(row["size_a"])), (row["arm_b"], int(row["size_b"]))
            if pair == (a, b):
                return row
            if pair == (b, a):
                flipped = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
                return {**row, **flipped, "mean_a": row["mean_b"], "mean_b": row["mean_a"]}
        return None


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def std(values: Sequence[float]) -> float:
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan


def best_models(
    tables: AnalysisTables, models: Sequence[tuple[str, int]], task: str
) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """The paper's bold rule: the best mean, and every model that is not significantly worse.

    Returns:
        The bold ones, and those that were never compared with the best one: they are neither equal nor worse.
    """
    means = {model: mean(tables.scores(*model, task)) for model in models}
    known = {model: value for model, value in means.items() if not math.isnan(value)}
    if not known:
        return set(), set()
    best = max(known, key=lambda model: tables.measure.sign * known[model])
    rows = {model: tables.comparison(best, model, task) for model in known if model != best}
    equal = {model for model, row in rows.items() if row is not None and not row["significant"]}
    return {best} | equal, {model for model, row in rows.items() if row is None}


def count(value: float) -> str:
    """A number of images, to two digits where it is an estimate: `1,200`, `3.4 million`, `not reached`."""
    if math.isnan(value):
        return "–"
    if math.isinf(value) or value > 1e12:
        return "not reached"
    if value >= 1e9:
        return f"{value / 1e9:.2g} billion"
    if value >= 1e6:
        return f"{value / 1e6:.2g} million"
    digits = max(0, len(str(int(value))) - 2)
    return f"{round(value / 10**digits) * 10**digits:,}"


def write_latex(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """A booktabs table."""
    lines = [
        "\\begin{table}",
        f"\\caption{{{_latex(caption)}}}",
        "\\begin{tabular}{l" + "r" * (len(header) - 1) + "}",
        "\\toprule",
        " & ".join(_latex(cell) for cell in header) + " \\\\",
        "\\midrule",
        *(" & ".join(_latex(cell) for cell in row) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _latex(text: str) -> str:
    bold = text.startswith("**") and text.endswith("**")
    plain = escape_latex(text.strip("*") if bold else text)
    return f"\\textbf{{{plain}}}" if bold else plain


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    for old, new in (
        ("\\", "\\textbackslash{}"),
        ("%", "\\%"),
        ("_", "\\_"),
        ("&", "\\&"),
        ("#", "\\#"),
        ("−", "$-$"),
        ("–", "--"),
    ):
        text = text.replace(old, new)
    return text


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
