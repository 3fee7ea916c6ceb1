"""The same encoders on another centre's data, beside the own centre's: what holds there, what turns round."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from radscale.html_report.answer import interval
from radscale.html_report.rows import Arms, trained_arms
from radscale.html_report.tables import AnalysisTables, Row


def against_open(tables: AnalysisTables, arms: Arms, arm: str) -> Row | None:
    """The mean over tasks of an arm at its largest size minus that of its open weights."""
    sizes = tables.sizes(arm)
    return tables.comparison((arm, max(sizes)), (arms[arm]["open_weights_arm"], 0), "average") if sizes else None


def direction(tables: AnalysisTables, row: Row | None) -> int:
    """1: own data better than the open weights, -1 worse, by the estimate alone; 0 unknown or equal."""
    if row is None or not row["difference"]:
        return 0
    return tables.measure.sign * (1 if row["difference"] > 0 else -1)


def trend(home: AnalysisTables, away: AnalysisTables, arms: Arms, arm: str) -> str:
    """How what an arm gained at home shows elsewhere."""
    here, there = against_open(home, arms, arm), against_open(away, arms, arm)
    if here is None or there is None:
        return "not compared"
    if not there["significant"]:
        turned = direction(home, here) * direction(away, there) < 0
        return "cannot be told" + ("; points the other way" if turned else "")
    if not here["significant"]:
        return f"{'better' if direction(away, there) > 0 else 'worse'} here, not shown at home"
    return "holds" if direction(home, here) == direction(away, there) else "reversed"


def held_out_rows(
    home: Mapping[str, Any], held_out: Sequence[Mapping[str, Any]], parts: Mapping[str, AnalysisTables], arms: Arms
) -> list[dict[str, Any]]:
    """A row for each arm: its difference to the open weights at home, then in each held-out evaluation with its trend.

    Args:
        home: the evaluation of the own centre that trends are judged by.
        held_out: evaluations on other datasets than the encoders were trained on.
        parts: tables by name of the evaluation, each in its measure.
        arms: of the study.
    """
    tables = parts[home["name"]]
    rows = []
    for arm in trained_arms(tables, arms):
        here = against_open(tables, arms, arm)
        cells = []
        for evaluation in held_out:
            part = parts[evaluation["name"]]
            there = against_open(part, arms, arm)
            cells.append(
                {
                    "difference": interval(there, measure=part.measure) if there is not None else "–",
                    "significant": there is not None and bool(there["significant"]),
                    "trend": trend(tables, part, arms, arm),
                }
            )
        rows.append(
            {
                "arm": arms[arm]["label"],
                "home": interval(here, measure=tables.measure) if here is not None else "–",
                "significant": here is not None and bool(here["significant"]),
                "cells": cells,
            }
        )
    return rows


def reversals(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each trend that turns round in another centre."""
    return [
        f"{row['arm']}: measurably better or worse than its open model at home, and measurably the other way in "
        f"{evaluation['label']}. What is learnt at one centre need not hold at another."
        for row in rows
        for evaluation, cell in zip(held_out, row["cells"], strict=True)
        if cell["trend"] == "reversed"
    ]


def separation(tables: AnalysisTables, arms: Arms) -> str:
    """Whether the test set is large enough to tell the arms from each other, with its minimum detectable difference."""
    trained = trained_arms(tables, arms)
    if len(trained) < 2:
        return ""
    shared = set.intersection(*(set(tables.sizes(arm)) for arm in trained))
    if not shared:
        return ""
    size, measure = max(shared), tables.measure
    pairs = itertools.combinations(trained, 2)
    rows = [row for a, b in pairs if (row := tables.comparison((a, size), (b, size), "average")) is not None]
    if not rows:
        return ""
    largest = measure.show(max(abs(row["difference"]) for row in rows))
    least, most = (measure.show(pick(row["detectable"] for row in rows)) for pick in (min, max))
    detectable = f"{least} {measure.unit}" if least == most else f"{least} to {most} {measure.unit}, depending on the pair"
    how = "paired bootstrap of the test images, 95 % level, 80 % power"
    facts = f"minimum detectable difference {detectable} ({how}); the arms differ by up to {largest} {measure.unit}"
    apart = sum(bool(row["significant"]) for row in rows)
    if not apart:
        return f"This benchmark is too small to separate the arms at {size:,} images: {facts}."
    return f"This benchmark separates {apart} of {len(rows)} pairs of arms at {size:,} images: {facts}."
