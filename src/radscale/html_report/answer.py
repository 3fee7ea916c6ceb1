"""The answer in words: four questions, each with a verdict that follows from the tables and says less where they say less."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from radscale.analysis.fit_tables import EXTRAPOLATION
from radscale.analysis.measures import AUPRC, Measure
from radscale.html_report.rows import Arms, data_plan_rows, fit_of, open_arms, plan_of, tells, trained_arms
from radscale.html_report.tables import AnalysisTables, Row, count, mean


@dataclass(frozen=True)
class Answer:
    """One question of a reader, a verdict in a few words, and what stands behind it."""

    question: str
    verdict: str
    reasons: str


def answers(tables: AnalysisTables, arms: Arms, names: Mapping[str, str]) -> list[Answer]:
    """Who beats the open model and from when on, with which objective, what more data brings, and how sure all that is."""
    trained = trained_arms(tables, arms)
    if not trained:
        return [Answer("How much of our own data beats the open model?", "No answer yet.", "Nothing was trained.")]
    return [
        _beats_open(tables, arms, trained),
        _best_objective(tables, arms, trained),
        _more_data(tables, arms, names, trained),
        _how_sure(tables, arms, trained),
    ]


def interval(row: Mapping[str, Any], value: str = "difference", measure: Measure = AUPRC) -> str:
    """`+2.4 [+1.1, +3.6]` in the units of the measure."""
    return f"{measure.signed(row[value])} [{measure.signed(row['low'])}, {measure.signed(row['high'])}]"


def better_from(tables: AnalysisTables, arms: Arms, arm: str) -> int | None:
    """Smallest size tried from which on every size is significantly better than the open weights."""
    found = None
    for size in reversed(tables.sizes(arm)):
        if _sign(_against_open(tables, arms, arm, size), tables.measure) <= 0:
            break
        found = size
    return found


def _against_open(tables: AnalysisTables, arms: Arms, arm: str, size: int) -> Row | None:
    return tables.comparison((arm, size), (arms[arm]["open_weights_arm"], 0), "average")


def _sign(row: Row | None, measure: Measure) -> int:
    """1 if the first of both is significantly better, -1 if the second is, 0 if neither."""
    if row is None or not row["significant"]:
        return 0
    return measure.sign if row["difference"] > 0 else -measure.sign


def _beats_open(tables: AnalysisTables, arms: Arms, trained: list[str]) -> Answer:
    question, measure = "How much of our own data beats the open model?", tables.measure
    rows = {arm: row for arm in trained if (row := _against_open(tables, arms, arm, max(tables.sizes(arm)))) is not None}
    if not rows:
        return Answer(question, "No answer yet.", "No arm was compared with its open weights.")
    starts = {arm: size for arm in rows if (size := better_from(tables, arms, arm)) is not None}
    largest = max(max(tables.sizes(arm)) for arm in rows)
    details = "; ".join(f"{arms[arm]['label']} {interval(row, measure=measure)}" for arm, row in rows.items())
    reasons = f"Difference to the open model that each one started from, {_in(measure)} with 95 % intervals: {details}."
    if starts:
        arm = min(starts, key=lambda name: (starts[name], -measure.sign * rows[name]["difference"]))
        smallest = starts[arm] == min(tables.sizes(arm))
        first = f"{starts[arm]:,} images" + (", the fewest that we tried" if smallest else "")
        verdict = f"{first}, with {arms[arm]['label']}."
        others = [name for name in starts if name != arm]
        if others:
            verdict += " Also " + _listed([f"{arms[name]['label']} from {starts[name]:,} images on" for name in others]) + "."
        short = [arms[name]["label"] for name in rows if name not in starts]
        if short:
            verdict += f" Not shown for {_listed(short)} with up to {largest:,} images."
    else:
        verdict = f"More than the {largest:,} images that we tried, if any amount does."
        below = [arms[arm]["label"] for arm, row in rows.items() if _sign(row, measure) < 0]
        if below:
            verdict += f" {_listed(below)} {'is' if len(below) == 1 else 'are'} measurably worse than the open model."
        best = "high" if measure.larger_is_better else "low"
        undecided = [measure.sign * row[best] for row in rows.values() if _sign(row, measure) == 0]
        if undecided:
            reasons += f" A gain above {measure.show(max(max(undecided), 0.0))} {measure.unit} is unlikely at this size."
    beating = {arms[arm]["label"]: text for arm in rows if (text := beats_in_words(tables, arm))}
    disagreement = _disagreement(tables, arms, starts, rows)
    known = [f"{label}: {text}" for label, text in beating.items() if text != UNKNOWN]
    if known:
        reasons += f" From where on the fitted curve beats the open model: {'; '.join(known)}."
    elif beating:
        reasons += " From where on a fitted curve would beat the open model cannot be told from these encoders."
    return Answer(question, verdict, reasons + disagreement)


def _in(measure: Measure) -> str:
    """`in AUPRC points`, `in px of Hausdorff distance (below 0 is better)`."""
    if measure.unit == "points":
        return f"in {measure.name} points"
    return f"in {measure.unit} of {measure.name}" + ("" if measure.larger_is_better else " (below 0 is better)")


def _disagreement(tables: AnalysisTables, arms: Arms, starts: Mapping[str, int], rows: Mapping[str, Row]) -> str:
    """One sentence where a fitted curve beats the open model in the range that was tried and the test images do not show it,
    or the other way round."""
    early, late = [], []
    for arm in rows:
        fit = fit_of(tables, arm, "average")
        if fit is None or math.isnan(fit["beats"]):
            continue
        if beats(fit) == UNKNOWN:
            continue
        if arm not in starts and fit["beats"] <= fit["max_size"]:
            early.append(arms[arm]["label"])
        elif arm in starts and fit["beats"] > starts[arm]:
            late.append(arms[arm]["label"])
    if not early and not late:
        return ""
    parts = []
    if early:
        parts.append(
            f"for {_listed(early)} the curve beats the open model at sizes that were tried and the comparison does not"
        )
    if late:
        parts.append(f"for {_listed(late)} comparisons show it at sizes where the fitted curve does not yet")
    return (
        f" Both ways of asking disagree: {'; '.join(parts)}. The curve averages over encoders and takes the test images as "
        "they are, the comparison allows for their being a sample: trust what both show."
    )


UNKNOWN = "cannot be told"


def beats_in_words(tables: AnalysisTables, arm: str) -> str:
    """From where on the fitted curve of the average beats the open model."""
    fit = fit_of(tables, arm, "average")
    if fit is None or math.isnan(fit["beats"]):
        return ""
    text = beats(fit)
    if text.startswith("cannot"):
        return UNKNOWN
    return f"{text} images" if fit["verdict"] != "not reached" else text


def beats(fit: Row) -> str:
    """Images from which on a fitted curve beats the open weights, with their 95 % interval; short enough for a table."""
    if fit["verdict"] == "no fit" or math.isnan(fit["beats"]):
        return "no fit"
    estimate, low, high, smallest = (fit[name] for name in ("beats", "beats_low", "beats_high", "min_size"))
    if low <= smallest and count(high) == "not reached":
        return UNKNOWN
    if count(low) == "not reached":
        return "not reached"
    if high <= smallest:
        return f"≤ {count(smallest)}"
    bounds = ["≤ " + count(smallest) if low <= smallest else count(low), count(high)]
    shown = "≤ " + count(smallest) if estimate <= smallest else count(estimate)
    return f"{shown} [{bounds[0]} to {bounds[1]}]"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _best_objective(tables: AnalysisTables, arms: Arms, trained: list[str]) -> Answer:
    question, measure = "With which objective?", tables.measure
    above = "above" if measure.larger_is_better else "better than"
    highest = "highest" if measure.larger_is_better else "best (lowest)"
    common = set.intersection(*(set(tables.sizes(arm)) for arm in trained))
    if len(trained) < 2 or not common:
        return Answer(question, f"Only {arms[trained[0]]['label']} was tried.", "Objectives can be compared at one size only.")
    size = max(common)
    scores = {arm: mean(tables.scores(arm, size, "average")) for arm in trained}
    ordered = sorted(trained, key=lambda arm: -measure.sign * scores[arm])
    best = ordered[0]
    rows = {arm: tables.comparison((best, size), (arm, size), "average") for arm in ordered[1:]}
    ties = [arms[arm]["label"] for arm, row in rows.items() if row is None or not row["significant"]]
    label = arms[best]["label"]
    if not ties:
        verdict = f"{label}: measurably {above} the others."
    elif len(ties) == len(rows):
        verdict = f"No measurable difference. {label} is {highest}, by less than chance could bring."
    else:
        verdict = f"{label} is {highest}, but not measurably {above} {_listed(ties)}."
    listed = "; ".join(f"{arms[arm]['label']} {measure.show(scores[arm])}" for arm in ordered)
    reasons = f"Mean {measure.name} in {measure.unit} with {size:,} images: {listed}."
    compared = "; ".join(
        f"{arms[arm]['label']} {interval(row, measure=measure)}" for arm, row in rows.items() if row is not None
    )
    if compared:
        reasons += f" {label} minus the others: {compared}."
    opened = open_arms(tables, arms)
    if opened:
        top = max(opened, key=lambda arm: measure.sign * mean(tables.scores(arm, 0, "average")))
        reasons += f" The best open model, {arms[top]['label']}, has {measure.show(mean(tables.scores(top, 0, 'average')))}"
        row = tables.comparison((best, size), (top, 0), "average")
        reasons += f" ({label} minus it: {interval(row, measure=measure)})." if row is not None else "."
    starts = {arms[arm]["open_weights_arm"] for arm in trained}
    if len(starts) > 1:
        reasons += " Objectives that start from different open models differ in architecture too."
    return Answer(question, verdict, reasons)


def _more_data(tables: AnalysisTables, arms: Arms, names: Mapping[str, str], trained: list[str]) -> Answer:
    question, measure = "What would more data buy?", tables.measure
    largest = max(max(tables.sizes(arm)) for arm in trained)
    gains, unknown = {}, []
    for arm in trained:
        gain = plan_of(tables, arm, "average")
        if gain is None or not tells(gain, measure):
            unknown.append(arms[arm]["label"])
        else:
            gains[arm] = gain
    if not gains:
        return Answer(question, "Cannot be told from so few encoders and sizes.", "No scaling law could be fitted well enough.")
    up = [arm for arm in gains if gains[arm]["low"] > 0]
    down = [arms[arm]["label"] for arm in gains if gains[arm]["high"] < 0]
    amount = f"{count(EXTRAPOLATION * largest)} images, {EXTRAPOLATION:g} times what we tried"
    if up:
        best = max(up, key=lambda arm: gains[arm]["gain"])
        more = "points more" if measure.larger_is_better else f"{measure.unit} of improvement"
        verdict = f"With {amount}: about {measure.signed(gains[best]['gain'])} {more} with "
        verdict += f"{arms[best]['label']}."
    elif down and len(down) == len(gains):
        verdict = f"Nothing: with {amount}, the fitted scores {'fall' if measure.larger_is_better else 'get worse'}."
    else:
        verdict = f"Nothing that these data can show: with {amount}, a gain and a loss both fit."
        if max(gain["high"] for gain in gains.values()) < 1 / measure.scale:
            verdict = f"Little: with {amount}, less than {'one point' if measure.unit == 'points' else 'one pixel'}."
    listed = "; ".join(f"{arms[arm]['label']} {interval(gain, 'gain', measure)}" for arm, gain in gains.items())
    change = "change" if measure.larger_is_better else "improvement"
    reasons = f"Expected {change} of the mean {measure.name} in {measure.unit}, extrapolated by the fitted power law, "
    reasons += f"95 % interval: {listed}."
    if unknown:
        reasons += f" Too uncertain to tell for {_listed(unknown)}."
    leader = max(gains, key=lambda arm: measure.sign * mean(tables.scores(arm, max(tables.sizes(arm)), "average")))
    plan = [row for row in data_plan_rows(tables, arms, names, leader) if not row["is_average"]]
    if plan:
        pays = [row["task"] for row in sorted(plan, key=lambda row: -row["gain"]) if row["verdict"] == "pays"]
        done = sum(row["saturated"] for row in plan)
        reasons += (
            f" Averages mislead: with {arms[leader]['label']}, {len(pays)} of {len(plan)} tasks gain "
            f"{measure.show(measure.min_gain)} {measure.unit} or more, with an interval above zero"
        )
        reasons += f" ({', '.join(pays[:3])}{', …' if len(pays) > 3 else ''})" if pays else ""
        reasons += f", {done or 'none'} {'are' if done > 1 else 'is'} near saturation (even the upper limit is below that)."
    return Answer(question, verdict, reasons)


def _how_sure(tables: AnalysisTables, arms: Arms, trained: list[str]) -> Answer:
    question = "How sure is that?"
    facts = {row["task"]: row for row in tables.results if row["task"] != "average"}
    images = int(max(row["num_samples"] for row in facts.values()))
    positives = [int(row["num_positives"]) for row in facts.values()]
    tests = sum(len(tables.sizes(arm)) for arm in trained)
    encoders = {arm: _num_encoders(tables, arm, max(tables.sizes(arm))) for arm in trained}
    if len(facts) == 1:
        verdict = f"{_number(images, 'test image')} with {_number(positives[0], 'positive')}, "
    else:
        each = f"{min(positives):,} to " if min(positives) < max(positives) else ""
        verdict = f"{_number(images, 'test image')}, {len(facts)} tasks with {each}{_number(max(positives), 'positive')} each, "
    fewest = min(encoders.values())
    verdict += f"{_number(fewest, 'encoder')} per objective at the largest size."
    reasons = (
        "Intervals of differences come from drawing the test images anew; they do not cover training the encoders once more"
    )
    reasons += " (the points in the figure show that spread at the smaller sizes)." if fewest == 1 else "."
    if tests > 1:
        reasons += (
            f" {tests} averages were compared with open weights, each at 95 %: if nothing differed, one in twenty of such "
        )
        reasons += "intervals would still exclude zero, so a single difference among many is weak evidence."
    return Answer(question, verdict, reasons)


def _number(amount: int, what: str) -> str:
    return f"{amount:,} {what}{'' if amount == 1 else 's'}"


def unknowns(tables: Mapping[str, AnalysisTables], arms: Arms) -> list[str]:
    """What these data cannot tell."""
    found = []
    for evaluation, part in tables.items():
        if part.excluded_tasks:
            names = ", ".join(f"{row['task'].replace('_', ' ')} ({row['reason']})" for row in part.excluded_tasks[:6])
            more = f" and {len(part.excluded_tasks) - 6} more" if len(part.excluded_tasks) > 6 else ""
            found.append(f"{evaluation}: not evaluated: {names}{more}.")
        small = [row for row in part.subgroups if row["small"]]
        if small:
            groups = len({(row["variable"], row["stratum"]) for row in small})
            every = len({(row["variable"], row["stratum"]) for row in part.subgroups})
            found.append(
                f"{evaluation}: {groups} of {every} subgroups have too few positives to compare; they are shown hollow."
            )
        single = sorted({size for arm in arms for size in part.sizes(arm) if size and _num_encoders(part, arm, size) == 1})
        if single:
            sizes = _listed([f"{size:,}" for size in single])
            found.append(
                f"{evaluation}: with {sizes} images only one encoder was trained per arm; intervals there hold for that "
                "encoder, not for another draw of the subset or another training run."
            )
        best = smallest_p(part)
        if best is not None and best > 0.05:
            found.append(
                f"{evaluation}: no single task can pass Holm's correction, as the smallest p-value that the bootstrap can "
                f"give, times {len(part.tasks())} tasks, is {best:.2f}; at "
                f"least {math.ceil(40 * len(part.tasks())):,} replicates "
                "are needed."
            )
    known = [arms[arm]["label"] for arm in arms if any(len(part.scores(arm, 0, "average")) == 1 for part in tables.values())]
    if known:
        found.append(
            f"The spread of {_listed(known)} over probe seeds is not known, as only one probe was trained: from where on a "
            "curve beats it takes that score as it is."
        )
    found.append(
        "From where on a curve beats the open model allows for the spread of encoders and of probe seeds, not for the test "
        "images being a sample; the comparisons at the sizes that were tried allow for the test images."
    )
    found.append(
        "A fitted power law holds over the sizes that were tried; beyond them curves often bend. Few sizes cannot tell a power "
        "law from a curve that flattens."
    )
    return found


def smallest_p(tables: AnalysisTables) -> float | None:
    """The smallest Holm-corrected p-value that this number of bootstrap replicates can give."""
    if not tables.comparisons:
        return None
    return min(1.0, 2 / (tables.comparisons[0]["num_bootstrap"] + 1) * len(tables.tasks()))


def _num_encoders(tables: AnalysisTables, arm: str, size: int) -> int:
    return len({row["replicate"] for row in tables.results if row["arm"] == arm and row["subset_size"] == size})
