"""Agreement of two label tables, task by task."""

from collections import Counter, defaultdict

import pyarrow as pa

from radscale.errors import InputError

_COLUMNS = ("level", "id", "task", "state")


def agreement(predicted: pa.Table, reference: pa.Table) -> list[dict[str, str | int | float]]:
    """Precision, recall and F1 of predicted labels against reference labels.

    Compared are the ids that both tables speak of, on the tasks of the reference. A task without a statement counts as
    negative, as in the default task table; a pair that is uncertain on either side is left out of the rates and counted.

    Args:
        predicted, reference: label tables (docs/data_format.md, section 2); several engines in one table are an error.

    Returns:
        One dict per task, sorted by task: task, precision, recall, f1, kappa (Cohen's; nan where undefined), support (reference
        positives that were compared), num_predicted (positives of the other side), num_both (positive on both), num_compared,
        num_predicted_uncertain, num_predicted_not_mentioned, num_reference_uncertain, num_reference_not_mentioned.

    Raises:
        InputError: a column is missing, a state is unknown, statements contradict each other, or the tables share no id.
    """
    predicted_states, reference_states = _states(predicted, "predicted"), _states(reference, "reference")
    predicted_ids = {unit for states in predicted_states.values() for unit in states}
    units = sorted(predicted_ids & {unit for states in reference_states.values() for unit in states})
    if not units:
        raise InputError(
            "predicted and reference labels share no (level, id); compare label tables of the same dataset and level"
        )
    return [
        _task_agreement(task, units, predicted_states.get(task, {}), reference_states[task])
        for task in sorted(reference_states)
    ]


def _states(table: pa.Table, name: str) -> dict[str, dict[tuple[str, str], str]]:
    """Task -> (level, id) -> state."""
    missing = [column for column in _COLUMNS if column not in table.column_names]
    if missing:
        raise InputError(f"{name} labels: column {missing[0]!r} is missing; see docs/data_format.md, label table")
    states: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for level, unit, task, state in zip(*(table.column(column).to_pylist() for column in _COLUMNS), strict=True):
        if state not in ("positive", "negative", "uncertain"):
            raise InputError(f"{name} labels: state {state!r} of {task!r} is unknown; use positive, negative or uncertain")
        if states[task].setdefault((level, unit), state) != state:
            raise InputError(f"{name} labels: {task!r} of {level} {unit!r} has two states; select one engine first")
    return dict(states)


def _task_agreement(
    task: str, units: list[tuple[str, str]], predicted: dict[tuple[str, str], str], reference: dict[tuple[str, str], str]
) -> dict[str, str | int | float]:
    pairs = Counter((predicted.get(unit, "not_mentioned"), reference.get(unit, "not_mentioned")) for unit in units)
    certain = {pair: count for pair, count in pairs.items() if "uncertain" not in pair}
    both = certain.get(("positive", "positive"), 0)
    num_predicted = sum(count for (state, _), count in certain.items() if state == "positive")
    support = sum(count for (_, state), count in certain.items() if state == "positive")
    return {
        "task": task,
        "precision": _ratio(both, num_predicted),
        "recall": _ratio(both, support),
        "f1": _ratio(2 * both, num_predicted + support),
        "kappa": _kappa(both, num_predicted, support, sum(certain.values())),
        "support": support,
        "num_predicted": num_predicted,
        "num_both": both,
        "num_compared": sum(certain.values()),
        "num_predicted_uncertain": sum(count for (state, _), count in pairs.items() if state == "uncertain"),
        "num_predicted_not_mentioned": sum(count for (state, _), count in pairs.items() if state == "not_mentioned"),
        "num_reference_uncertain": sum(count for (_, state), count in pairs.items() if state == "uncertain"),
        "num_reference_not_mentioned": sum(count for (_, state), count in pairs.items() if state == "not_mentioned"),
    }


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


def _kappa(both: int, predicted: int, reference: int, total: int) -> float:
    """Cohen's kappa of two binary labellings: agreement beyond chance, by the chance that both margins give."""
    if not total:
        return float("nan")
    observed = (both + total - predicted - reference + both) / total
    chance = (predicted * reference + (total - predicted) * (total - reference)) / total**2
    return float("nan") if chance == 1 else (observed - chance) / (1 - chance)
