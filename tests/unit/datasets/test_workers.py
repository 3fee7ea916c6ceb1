import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hostile_functions import do
from radscale.datasets.ray_workers import ordered_map_on_ray
from radscale.datasets.workers import WINDOW_PER_WORKER, ordered_map


def failed(task: object, failure: str) -> object:
    return (task, failure)


def on_ray(*arguments: Any, **options: Any) -> Iterator[Any]:
    pytest.importorskip("ray")
    return ordered_map_on_ray(*arguments, **options)


@pytest.mark.parametrize("mapped", [ordered_map, on_ray])
def test_results_come_in_order_and_a_dead_or_hanging_worker_costs_only_its_own_input(mapped: Callable[..., Any]) -> None:
    tasks: list[object] = [*range(20), "die", "fault", *range(20, 40), "hang", 40, "allocate", 41]
    results = list(mapped(do, tasks, num_workers=2, on_failure=failed, seconds_per_input=3, memory_bytes=1 << 30))
    expected: list[object] = [
        *(n * n for n in range(20)), ("die", "died"), ("fault", "died"), *(n * n for n in range(20, 40)), ("hang", "hung"),
        1600, "no memory", 1681,
    ]  # fmt: skip
    assert results == expected


@pytest.mark.parametrize("mapped", [ordered_map, on_ray])
def test_inputs_are_read_only_as_fast_as_results_are_taken(mapped: Callable[..., Any]) -> None:
    read = []

    def inputs() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = mapped(do, inputs(), num_workers=2, on_failure=failed)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(read) <= 5 + 2 * WINDOW_PER_WORKER
    results.close()
    with pytest.raises(StopIteration):
        next(results)


def test_large_inputs_and_results_do_not_lock_each_other() -> None:
    tasks = [os.urandom(400_000) for _ in range(12)]
    assert list(ordered_map(do, tasks, num_workers=2, on_failure=failed)) == [task + task for task in tasks]


@pytest.mark.parametrize(("mapped", "num_workers"), [(ordered_map, 0), (ordered_map, 2), (on_ray, 2)])
def test_an_error_of_the_function_ends_the_run(mapped: Callable[..., Any], num_workers: int) -> None:
    with pytest.raises(ValueError, match="from the function"):
        list(mapped(do, [1, "raise", 2], num_workers=num_workers, on_failure=failed))
