import os
from collections.abc import Iterator

import pytest

from hostile_functions import do
from radscale.datasets.workers import WINDOW_PER_WORKER, ordered_map


def failed(task: object, failure: str) -> object:
    return (task, failure)


def test_results_come_in_order_and_a_dead_or_hanging_worker_costs_only_its_own_input() -> None:
    tasks: list[object] = [*range(20), "die", "fault", *range(20, 40), "hang", 40, "allocate", 41]
    results = list(ordered_map(do, tasks, num_workers=2, on_failure=failed, seconds_per_input=3, memory_bytes=1 << 30))
    expected: list[object] = [
        *(n * n for n in range(20)), ("die", "died"), ("fault", "died"), *(n * n for n in range(20, 40)), ("hang", "hung"),
        1600, "no memory", 1681,
    ]  # fmt: skip
    assert results == expected


def test_inputs_are_read_only_as_fast_as_results_are_taken() -> None:
    read = []

    def inputs() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = ordered_map(do, inputs(), num_workers=2, on_failure=failed)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(read) <= 5 + 2 * WINDOW_PER_WORKER
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(results)


def test_large_inputs_and_results_do_not_lock_each_other() -> None:
    tasks = [os.urandom(400_000) for _ in range(12)]
    assert list(ordered_map(do, tasks, num_workers=2, on_failure=failed)) == [task + task for task in tasks]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_function_ends_the_run(num_workers: int) -> None:
    with pytest.raises(ValueError, match="from the function"):
        list(ordered_map(do, [1, "raise", 2], num_workers=num_workers, on_failure=failed))
