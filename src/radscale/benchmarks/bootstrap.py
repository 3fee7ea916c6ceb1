"""Average precisions of the paper's bootstrap: 500 replicates x 20 tasks x 6 score vectors of 400,000 images."""

from collections.abc import Callable

import numpy as np

from radscale.benchmarks.measure import Case, Contestant, Options

NUM_VECTORS = 6
Task = tuple[int, np.ndarray, np.ndarray]


def cases(options: Options) -> list[Case]:
    """A round is a task: all replicates of ours, then one replicate of each peer."""
    num_images, num_replicates, num_tasks = (2000, 20, 2) if options.quick else (400_000, 500, 20)

    def task(number: int) -> Task:
        rng = np.random.default_rng([options.seed, number])
        targets = (rng.random(num_images) < 0.05).astype(np.int8)
        scores = rng.normal(size=(NUM_VECTORS, num_images)) + targets
        return number, targets, (1 / (1 + np.exp(-scores))).astype(np.float32)

    def ours() -> Callable[[Task], object]:
        from radscale.analysis.bootstrap import bootstrap_average_precision

        return lambda data: bootstrap_average_precision(
            data[1], data[2], num_replicates=num_replicates, seed=options.seed, task=f"task {data[0]}"
        )

    def loop() -> Callable[[Task], object]:
        from sklearn.metrics import average_precision_score

        def run(data: Task) -> list[float]:
            number, targets, scores = data
            rng = np.random.default_rng([options.seed, number])
            rows = np.concatenate([rng.choice(np.flatnonzero(targets == c), int((targets == c).sum())) for c in (0, 1)])
            return [average_precision_score(targets[rows], row[rows]) for row in scores]

        return run

    return [
        Case(
            title=f"average precision, {num_images:,} images, {num_replicates} replicates x {num_tasks} tasks x {NUM_VECTORS}",
            unit="AP",
            workload=task,
            contestants=[
                Contestant("radscale", "radscale", ours, num_replicates * NUM_VECTORS),
                Contestant("scikit-learn loop", "scikit-learn", loop, NUM_VECTORS),
            ],
            rounds=options.repeat or num_tasks,
            total_units=num_replicates * num_tasks * NUM_VECTORS,
            warm_up=options.quick,
            note="draws included; the loop runs one replicate a task on one core, its total is extrapolated; ours: all cores",
        )
    ]
