"""Cohen's kappa of two label tables, against scikit-learn."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import cohen_kappa_score

from radscale.extraction import agreement


def test_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.3
    report = np.where(rng.random(300) < 0.15, ~truth, truth)

    def table(values: np.ndarray) -> pa.Table:
        states = np.where(values, "positive", "negative").tolist()
        return pa.table({"level": ["study"] * 300, "id": [f"s{i}" for i in range(300)], "task": ["x"] * 300, "state": states})

    (row,) = agreement(table(report), table(truth))
    assert row["kappa"] == pytest.approx(cohen_kappa_score(report, truth), abs=1e-12)
    assert (row["support"], row["num_predicted"], row["num_both"]) == (truth.sum(), report.sum(), (truth & report).sum())
    (constant,) = agreement(table(np.zeros(300, bool)), table(np.zeros(300, bool)))
    assert np.isnan(constant["kappa"])
