"""Tables as text: CSV, Markdown and LaTeX (booktabs) from one list of rows. Pure."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from radscale.errors import InputError

FORMATS = ("table", "csv", "latex", "markdown")
SUFFIXES = {".csv": "csv", ".tex": "latex", ".md": "markdown"}


def plain(value: Any) -> str:
    """Text as it is; nothing for None and NaN."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def points(value: float | None) -> str:
    """A score in hundredths, as papers print them: 52.8."""
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def signed_points(value: float | None) -> str:
    """A difference in hundredths, with its sign."""
    return "" if value is None or math.isnan(value) else f"{100 * value:+.2f}"


def share(value: float | None) -> str:
    """A number from 0 to 1, three decimals."""
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def p_value(value: float | None) -> str:
    """Three decimals; smaller ones are called that."""
    if value is None or math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def yes_no(value: bool | None) -> str:
    """A truth value in words."""
    return "" if value is None else ("yes" if value else "no")


@dataclass(frozen=True)
class Column:
    """One column of a printed table, made of one key of the rows, or of a pair: an interval."""

    title: str
    key: str | tuple[str, str]
    show: Callable[[Any], str] = plain
    align: str = "right"

    def text(self, row: Mapping[str, Any]) -> str:
        """The cell as a reader sees it."""
        if isinstance(self.key, str):
            return self.show(row.get(self.key))
        low, high = (self.show(row.get(key)) for key in self.key)
        return f"[{low}, {high}]" if low or high else ""


@dataclass
class TextTable:
    """Rows with what is needed to print them."""

    title: str
    columns: Sequence[Column]
    rows: list[dict[str, Any]]
    """A row's `bold` is a set of keys."""
    csv_columns: Sequence[str]
    """Keys in CSV, with full precision: for machines."""
    footer_rows: list[dict[str, Any]] = field(default_factory=list)
    """Set apart at the end."""
    notes: list[str] = field(default_factory=list)
    """What the table cannot say by itself."""

    def render(self, format: str) -> str:
        """Text in one of "csv", "latex", "markdown".

        Raises:
            InputError: another format.
        """
        writers = {"csv": self._csv, "latex": self._latex, "markdown": self._markdown}
        if format not in writers:
            raise InputError(f"format '{format}'; choose one of {', '.join(writers)}")
        return writers[format]()

    def cells(self, row: Mapping[str, Any]) -> list[tuple[str, bool]]:
        """(text, bold) of each column."""
        bold = row.get("bold", ())
        return [(column.text(row), column.key in bold) for column in self.columns]

    def _csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.csv_columns)
        for row in [*self.rows, *self.footer_rows]:
            writer.writerow([_machine_text(row.get(key)) for key in self.csv_columns])
        return out.getvalue()

    def _markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cells) + " |"

        rules = ["---" if column.align == "left" else "---:" for column in self.columns]
        body = [
            line([f"**{_markdown_text(text)}**" if bold and text else _markdown_text(text) for text, bold in self.cells(row)])
            for row in [*self.rows, *self.footer_rows]
        ]
        head = [f"**{_markdown_text(self.title)}**", "", line([_markdown_text(c.title) for c in self.columns]), line(rules)]
        notes = ["", *(f"{_markdown_text(note)}  " for note in self.notes)] if self.notes else []
        return "\n".join([*head, *body, *notes]) + "\n"

    def _latex(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "    " + " & ".join(cells) + r" \\"

        def body(rows: Sequence[Mapping[str, Any]]) -> list[str]:
            return [
                line(
                    [
                        rf"\textbf{{{_latex_text(text)}}}" if bold and text else _latex_text(text)
                        for text, bold in self.cells(row)
                    ]
                )
                for row in rows
            ]

        aligned = "".join("l" if column.align == "left" else "r" for column in self.columns)
        footer = [r"    \midrule", *body(self.footer_rows)] if self.footer_rows else []
        caption = _latex_text(" ".join([self.title + ".", *(note + "." for note in self.notes)]))
        return "\n".join(
            [
                "% needs \\usepackage{booktabs}",
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{caption}}}",
                rf"  \begin{{tabular}}{{{aligned}}}",
                r"    \toprule",
                line([_latex_text(column.title) for column in self.columns]),
                r"    \midrule",
                *body(self.rows),
                *footer,
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def _machine_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _markdown_text(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*").replace("<", "&lt;")


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(mark, mark) for mark in text)
