"""The answer in words. Each sentence follows from the tables, and says less where they say less."""

import math
from collections.abc import Mapping
from typing import Any

from radscale.html_report.tables import AnalysisTables, Row, count, mean, signed_points

UNPREDICTABLE = 0.3
"""Width of an interval, in score, beyond which an extrapolation says nothing."""

Arms = Mapping[str, Mapping[str, Any]]


def answer_sentences(tables: AnalysisTables, arms: Arms, label: str) -> list[str]:
    """Plain sentences for one evaluation: who beats the open model and from when on, who is best, what more data brings."""
    trained = [arm for arm, facts in arms.items() if facts["open_weights_arm"] is not None and tables.sizes(arm)]
    if not trained:
        return [f"{label}: nothing was trained, so there is no answer yet."]
    sentences = [_beats_open(tables, arms, arm) for arm in trained]
    sentences.append(_best_objective(tables, arms, trained))
    sentences += [text for arm in trained if (text := _more_data(tables, arms, arm))]
    return sentences


def _beats_open(tables: AnalysisTables, arms: Arms, arm: str) -> str:
    """From which of the tested sizes on an arm is better than its open weights, by the paired test; and the fitted size."""
    name, open_arm = arms[arm]["label"], arms[arm]["open_weights_arm"]
    open_name = arms[open_arm]["label"]
    sizes = tables.sizes(arm)
    rows = {size: tables.comparison((arm, size), (open_arm, 0), "average") for size in sizes}
    if any(row is None for row in rows.values()):
        return f"{name} was not compared with {open_name}."
    better = [size for size in sizes if rows[size] is not None and _sign(rows[size]) > 0]
    worse = [size for size in sizes if rows[size] is not None and _sign(rows[size]) < 0]
    largest = rows[sizes[-1]]
    assert largest is not None
    low, high = signed_points(largest["low"]), signed_points(largest["high"])
    gain = f"{signed_points(largest['difference'])} AUPRC points [{low}, {high}]"
    if sizes[-1] in better:
        from_size = next(size for index, size in enumerate(sizes) if all(later in better for later in sizes[index:]))
        start = "already with the smallest subset of" if from_size == sizes[0] else "from"
        verdict = f"beats {open_name} {start} {from_size:,} own images{'' if from_size == sizes[0] else ' on'}"
    elif sizes[-1] in worse:
        verdict = f"stays below {open_name} with all {sizes[-1]:,} own images"
    else:
        verdict = f"cannot be told apart from {open_name} with {sizes[-1]:,} own images"
    return f"{name} {verdict} ({gain} at {sizes[-1]:,}).{_fitted_size(tables, arm)}"


def _sign(row: Row | None) -> int:
    if row is None or not row["significant"]:
        return 0
    return 1 if row["difference"] > 0 else -1


def _fitted_size(tables: AnalysisTables, arm: str) -> str:
    fit = next((row for row in tables.fits if row["arm"] == arm and row["task"] == "average"), None)
    if fit is None or fit["verdict"] == "no fit":
        return f" No scaling law was fitted: {fit['note']}." if fit else ""
    if fit["verdict"] == "not reached":
        return " Its fitted curve does not reach the open model at any size."
    if fit["samples_low"] <= fit["min_size"] and math.isinf(fit["samples_high"]):
        return (
            " Its fitted curve does not tell how many images that takes: from the smallest subset to never, all fit the data."
        )
    if fit["verdict"] == "below smallest":
        low, high = fit["samples_low"], fit["samples_high"]
        if high <= fit["min_size"]:
            return ""
        return f" By its fitted curve the smallest subset is enough; {count(low)} to {count(high)} images fit the data too."
    words = "" if fit["verdict"] == "within range" else ", beyond the sizes that were tried"
    return (
        f" Its fitted curve meets the open model at {count(fit['samples_needed'])} images "
        f"[{count(fit['samples_low'])} to {count(fit['samples_high'])}]{words}."
    )


def _best_objective(tables: AnalysisTables, arms: Arms, trained: list[str]) -> str:
    common = set.intersection(*(set(tables.sizes(arm)) for arm in trained))
    if len(trained) < 2 or not common:
        return "Only one objective was tried, so objectives cannot be compared."
    size = max(common)
    scores = {arm: mean(tables.scores(arm, size, "average")) for arm in trained}
    best = max(scores, key=lambda arm: scores[arm])
    ties = []
    for other in trained:
        row = tables.comparison((best, size), (other, size), "average")
        if other != best and (row is None or not row["significant"]):
            ties.append(arms[other]["label"])
    text = f"At {size:,} images {arms[best]['label']} has the highest average ({100 * scores[best]:.1f})"
    if not ties:
        return f"{text}, significantly above the other objectives."
    if len(ties) == len(trained) - 1:
        return f"{text}, but no difference between objectives is significant."
    return f"{text}, not significantly above {' and '.join(ties)}."


def _more_data(tables: AnalysisTables, arms: Arms, arm: str) -> str:
    """What ten times the largest subset is expected to bring, from the fitted curve."""
    curve = [row for row in tables.curves if row["arm"] == arm and row["task"] == "average"]
    inside = [row for row in curve if not row["extrapolated"]]
    if not curve or not inside or curve[-1]["subset_size"] <= inside[-1]["subset_size"]:
        return ""
    now, then = inside[-1]["estimate"], curve[-1]["estimate"]
    # A score lies between 0 and 1, whatever a power law says.
    low, high = max(curve[-1]["low"], 0.0) - now, min(curve[-1]["high"], 1.0) - now
    if any(math.isnan(value) for value in (now, then, low, high)):
        return ""
    if high - low > UNPREDICTABLE:
        return f"What ten times more data would bring to {arms[arm]['label']} cannot be told from so few encoders and sizes."
    certain = "" if low > 0 or high < 0 else ", which is compatible with no gain"
    return (
        f"Ten times more data ({count(curve[-1]['subset_size'])} images) would change {arms[arm]['label']} by an expected "
        f"{signed_points(then - now)} points [{signed_points(low)}, {signed_points(high)}]{certain}; this is extrapolated."
    )


def unknowns(tables: Mapping[str, AnalysisTables], arms: Arms) -> list[str]:
    """What these data cannot tell."""
    found = []
    for evaluation, part in tables.items():
        if part.excluded_tasks:
            names = ", ".join(f"{row['task']} ({row['reason']})" for row in part.excluded_tasks[:6])
            more = f" and {len(part.excluded_tasks) - 6} more" if len(part.excluded_tasks) > 6 else ""
            found.append(f"{evaluation}: not evaluated: {names}{more}.")
        small = [row for row in part.subgroups if row["small"]]
        if small:
            groups = len({(row["variable"], row["stratum"]) for row in small})
            found.append(f"{evaluation}: {groups} subgroups have too few positives to compare; they are shown hollow.")
        single = sorted({arm for arm in arms for size in part.sizes(arm) if size and _num_encoders(part, arm, size) == 1})
        if single:
            found.append(
                f"{evaluation}: at some sizes only one encoder was trained per arm; intervals there hold for that encoder, "
                "not for another draw of the subset."
            )
    found.append("A fitted power law holds over the sizes that were tried; beyond them curves often bend (paper, section 3.3).")
    return found


def _num_encoders(tables: AnalysisTables, arm: str, size: int) -> int:
    return len({row["replicate"] for row in tables.results if row["arm"] == arm and row["subset_size"] == size})
