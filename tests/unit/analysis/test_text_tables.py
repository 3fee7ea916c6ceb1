import csv
import io
import math

import pytest

from radscale.analysis.text_tables import Column, TextTable, p_value, plain, points, share, signed_points, yes_no
from radscale.errors import InputError


@pytest.fixture
def table() -> TextTable:
    columns = [
        Column("task", "task", plain, "left"),
        Column("a_b & c", "a", points),
        Column("95 % interval", ("low", "high"), signed_points),
    ]
    rows = [
        {"task": "line|tip_1", "a": 1 / 3, "low": -0.01, "high": 0.02, "bold": {"a"}},
        {"task": "<20", "a": math.nan, "low": None, "high": None},
    ]
    return TextTable(
        "Title", columns, rows, ["task", "a", "low"], footer_rows=[{"task": "mean", "a": 0.5}], notes=["50 % of it"]
    )


def test_csv_has_full_precision_and_all_rows(table: TextTable) -> None:
    rows = list(csv.reader(io.StringIO(table.render("csv"))))
    assert rows == [["task", "a", "low"], ["line|tip_1", "0.3333333333", "-0.01"], ["<20", "", ""], ["mean", "0.5", ""]]


def test_markdown_escapes_and_sets_bold(table: TextTable) -> None:
    lines = table.render("markdown").splitlines()
    assert lines[2:4] == ["| task | a_b & c | 95 % interval |", "| --- | ---: | ---: |"]
    assert lines[4] == r"| line\|tip_1 | **33.3** | [-1.00, +2.00] |"
    assert lines[5] == "| &lt;20 |  |  |"


def test_latex_is_booktabs_and_escaped(table: TextTable) -> None:
    text = table.render("latex")
    assert r"\begin{tabular}{lrr}" in text
    assert r"task & a\_b \& c & 95 \% interval \\" in text
    assert r"line|tip\_1 & \textbf{33.3} & [-1.00, +2.00] \\" in text
    assert r"$<$20 &  &  \\" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert text.count(r"\begin{") == text.count(r"\end{")


def test_another_format_is_refused(table: TextTable) -> None:
    with pytest.raises(InputError, match="choose one of csv, latex, markdown"):
        table.render("xlsx")


def test_numbers_are_shown_as_papers_print_them() -> None:
    assert [points(0.5284), signed_points(0.0256), signed_points(-0.001), share(0.25)] == ["52.8", "+2.56", "-0.10", "0.250"]
    assert [p_value(0.0004), p_value(0.0491), p_value(math.nan), p_value(None)] == ["<0.001", "0.049", "", ""]
    assert [yes_no(True), yes_no(False), yes_no(None), plain(None), plain(3)] == ["yes", "no", "", "", "3"]
