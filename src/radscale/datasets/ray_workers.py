"""The same as `workers.ordered_map`, on the machines of a Ray cluster."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from radscale.datasets.workers import POLL_SECONDS, START_SECONDS, WINDOW_PER_WORKER, Failure, limit_process
from radscale.errors import InputError

TRIES = 2
"""A worker may be lost with its machine, which is not its input's fault; one that ends two workers is at fault."""


@dataclass
class _Task:
    worker: Any
    until: float
    """When it counts as hung."""
    number: int = -1
    """Of the input; of a worker that starts there is none."""
    item: Any = None
    tries: int = 0


class _Worker:
    """Runs on some machine of the cluster."""

    def __init__(self, function: Callable[[Any], Any], memory_bytes: int | None) -> None:
        self.function = function
        limit_process(memory_bytes)

    def is_ready(self) -> bool:
        return True

    def answer(self, item: Any) -> Any:
        return self.function(item)


def ordered_map_on_ray(
    function: Callable[[Any], Any],
    inputs: Iterable[Any],
    *,
    num_workers: int | None,
    on_failure: Callable[[Any, Failure], Any],
    seconds_per_input: float = 120.0,
    memory_bytes: int | None = None,
) -> Iterator[Any]:
    """Results in the order of the inputs, which are taken only as fast as results are.

    Args:
        function: picklable; called with one input. An exception of it ends the run.
        inputs: picklable; read lazily.
        num_workers: processes of one core each; None, or more than there are: as many as the cluster has cores.
        on_failure: the result of an input that two workers died of, or that hung.
        seconds_per_input: after which a worker counts as hung.
        memory_bytes: that a worker may allocate beyond what it has at its start; None: no limit.

    Raises:
        InputError: Ray is not installed, or the cluster of RAY_ADDRESS does not answer.
    """
    ray = _connect()
    num_cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    num_workers = min(num_workers or num_cores, num_cores)
    remote = ray.remote(num_cpus=1, max_restarts=0)(_Worker)
    source, more = enumerate(inputs), True
    waiting: deque[tuple[int, Any, int]] = deque()  # read, or of a worker that is gone
    tasks: dict[Any, _Task] = {}
    idle: list[Any] = []
    results: dict[int, Any] = {}
    taken = given = 0

    def start() -> None:
        worker = remote.remote(function, memory_bytes)
        tasks[worker.is_ready.remote()] = _Task(worker, time.monotonic() + START_SECONDS)

    for _ in range(num_workers):
        start()
    try:
        while True:
            while given in results:
                yield results.pop(given)
                given += 1
            while idle and (waiting or (more and taken < given + WINDOW_PER_WORKER * num_workers)):
                if not waiting:
                    try:
                        waiting.append((*next(source), 0))
                    except StopIteration:
                        more = False
                        break
                    taken += 1
                number, item, tries = waiting.popleft()
                worker = idle.pop()
                until = time.monotonic() + seconds_per_input
                tasks[worker.answer.remote(item)] = _Task(worker, until, number, item, tries + 1)
            if not more and given == taken:
                return
            done, _ = ray.wait(list(tasks), num_returns=1, timeout=POLL_SECONDS)
            for answer in done:
                task = tasks.pop(answer)
                try:
                    value = ray.get(answer)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if error.cause is not None else error from None
                except ray.exceptions.RayError as error:
                    if task.number < 0:
                        raise RuntimeError(f"a worker of the cluster cannot start ({type(error).__name__})") from None
                    start()
                    if task.tries < TRIES:
                        waiting.append((task.number, task.item, task.tries))
                    else:
                        results[task.number] = on_failure(task.item, "died")
                    continue
                idle.append(task.worker)
                if task.number >= 0:
                    results[task.number] = value
            now = time.monotonic()
            for answer, task in [(answer, task) for answer, task in tasks.items() if now > task.until]:
                if task.number < 0:
                    raise RuntimeError(f"a worker of the cluster did not start within {START_SECONDS:.0f} s")
                del tasks[answer]
                ray.kill(task.worker)
                start()
                results[task.number] = on_failure(task.item, "hung")
    finally:
        for worker in [*idle, *(task.worker for task in tasks.values())]:
            ray.kill(worker)


def _connect() -> Any:
    """The cluster of RAY_ADDRESS, or one of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a hospital's work leaves it
    try:
        import ray
    except ImportError:
        raise InputError("backend ray: Ray is not installed; pip install 'radscale[ray]'") from None
    if not ray.is_initialized():
        try:
            # What a worker says may hold what it reads.
            ray.init(log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"backend ray: no cluster answers at RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')} "
                f"({type(error).__name__}); start it, or leave RAY_ADDRESS out for this machine alone"
            ) from None
    return ray
