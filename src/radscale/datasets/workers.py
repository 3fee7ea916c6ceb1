"""Map a function over inputs in processes that hostile inputs may kill or hang without ending the run.

A pool of the standard library waits for ever for the result of a worker that a codec's fault has ended. Here the worker is
replaced and its input answered for by the caller.
"""

import multiprocessing
import os
import pickle
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import cv2

from radscale.errors import InputError

Failure = Literal["died", "hung"]
READY = b"ready"
TASKS_PER_WORKER = 2
"""The one it works on, and the next, so that it need not wait for its parent."""
SMALL_TASK_BYTES = 16_384
"""Larger ones wait for an idle worker: it reads at once, so that two full pipes never wait for each other."""
WINDOW_PER_WORKER = 16
"""How far workers may be ahead of the oldest input that is not done: bounds what is held in memory."""
POLL_SECONDS = 1.0
START_SECONDS = 300.0


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    since: float
    """When it began what it does now."""
    ready: bool = False
    closed: bool = False
    """Its end of the pipe is gone."""
    numbers: deque[int] = field(default_factory=deque)
    """Of the inputs that it has, in its order."""


def ordered_map(
    function: Callable[[Any], Any],
    inputs: Iterable[Any],
    *,
    num_workers: int,
    on_failure: Callable[[Any, Failure], Any],
    seconds_per_input: float = 120.0,
    memory_bytes: int | None = None,
    preload: str | None = None,
) -> Iterator[Any]:
    """Results in the order of the inputs, which are taken only as fast as results are.

    Args:
        function: picklable; called with one input. An exception of it ends the run.
        inputs: picklable; read lazily.
        num_workers: processes; 0 calls the function in this one, without any protection.
        on_failure: the result of an input whose worker died (a fault or a lack of memory in a codec) or hung.
        seconds_per_input: after which a worker counts as hung.
        memory_bytes: that a worker may allocate beyond what it has at its start; None: no limit.
        preload: module that holds `function`, imported once for all workers.
    """
    if num_workers <= 0:
        yield from map(function, inputs)
        return
    pool = _Pool(function, num_workers, memory_bytes, preload)
    try:
        yield from pool.run(iter(inputs), on_failure, seconds_per_input)
    finally:
        pool.close()


class _Pool:
    def __init__(self, function: Callable[[Any], Any], num_workers: int, memory_bytes: int | None, preload: str | None) -> None:
        self.function, self.memory_bytes = function, memory_bytes
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, *([preload] if preload else [])])
        self.workers = [self._start() for _ in range(num_workers)]
        self.window = WINDOW_PER_WORKER * num_workers

    def run(self, inputs: Iterator[Any], on_failure: Callable[[Any, Failure], Any], seconds_per_input: float) -> Iterator[Any]:
        waiting: deque[tuple[int, Any, bytes]] = deque()  # read, or handed back by a worker that is gone
        held: dict[int, tuple[int, Any, bytes]] = {}  # at a worker
        results: dict[int, Any] = {}
        taken = given = 0
        more = True
        while True:
            while given in results:
                yield results.pop(given)
                given += 1
            while more and not waiting and taken < given + self.window and any(self._has_room(w) for w in self.workers):
                try:
                    item = next(inputs)
                except StopIteration:
                    more = False
                    break
                waiting.append((taken, item, pickle.dumps(item)))
                taken += 1
                self._hand_out(waiting, held)
            self._hand_out(waiting, held)
            if not more and not waiting and not held and given == taken:
                return
            self._collect(results, held)
            for place, worker in enumerate(self.workers):
                failure = self._failure(worker, seconds_per_input)
                if failure is None:
                    continue
                self._end(worker)
                if worker.numbers:
                    number = worker.numbers.popleft()
                    results[number] = on_failure(held.pop(number)[1], failure)
                waiting.extendleft(held.pop(number) for number in reversed(worker.numbers))
                self.workers[place] = self._start()

    @staticmethod
    def _has_room(worker: _Worker) -> bool:
        return len(worker.numbers) < TASKS_PER_WORKER

    def _hand_out(self, waiting: deque[tuple[int, Any, bytes]], held: dict[int, tuple[int, Any, bytes]]) -> None:
        while waiting:
            task = waiting[0]
            most = TASKS_PER_WORKER if len(task[2]) <= SMALL_TASK_BYTES else 1
            free = [worker for worker in self.workers if len(worker.numbers) < most]
            if not free:
                return
            worker = min(free, key=lambda worker: len(worker.numbers))
            waiting.popleft()
            held[task[0]] = task
            if not worker.numbers:
                worker.since = time.monotonic()
            worker.numbers.append(task[0])
            try:
                worker.pipe.send_bytes(task[2])
            except OSError:
                return  # it is dead, which is found below

    def _collect(self, results: dict[int, Any], held: dict[int, tuple[int, Any, bytes]]) -> None:
        ends = {worker.pipe: worker for worker in self.workers}
        for end in wait([*ends, *(worker.process.sentinel for worker in self.workers)], timeout=POLL_SECONDS):
            worker = ends.get(end)  # type: ignore[call-overload]
            if worker is None:
                continue
            try:
                data = worker.pipe.recv_bytes()
            except (EOFError, OSError):
                worker.closed = True
                worker.process.join(1.0)
                continue
            worker.since = time.monotonic()
            if data == READY:
                worker.ready = True
                continue
            succeeded, value = pickle.loads(data)
            if not succeeded:
                raise value
            number = worker.numbers.popleft()
            held.pop(number)
            results[number] = value

    def _failure(self, worker: _Worker, seconds_per_input: float) -> Failure | None:
        if not worker.closed and worker.pipe.poll(0):
            return None  # it has answered while its parent was busy, or its end is found next time
        if worker.closed or not worker.process.is_alive():
            if not worker.ready:
                raise InputError(
                    f"a worker process cannot start (exit code {worker.process.exitcode}). In a script of your own, call from "
                    "below `if __name__ == '__main__':`, since each worker imports the script; or set num_workers to 0"
                )
            return "died"
        waited = time.monotonic() - worker.since
        return "hung" if worker.numbers and waited > (seconds_per_input if worker.ready else START_SECONDS) else None

    def _start(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.function, self.memory_bytes), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, time.monotonic())

    @staticmethod
    def _end(worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()

    def close(self) -> None:
        for worker in self.workers:
            self._end(worker)


def _serve(pipe: Connection, function: Callable[[Any], Any], memory_bytes: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    limit_process(memory_bytes)
    cv2.setNumThreads(1)  # there are as many workers as cores
    pipe.send_bytes(READY)
    while True:
        try:
            item = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return  # the parent has ended
        try:
            answer = pickle.dumps((True, function(item)))
        except BaseException as error:  # handed over, and raised there
            answer = pickle.dumps((False, error))
        try:
            pipe.send_bytes(answer)
        except OSError:
            return


def limit_process(memory_bytes: int | None) -> None:
    """Of a worker: what it may allocate beyond what it has; and it leaves no core file, which would hold a patient's pixels."""
    if memory_bytes is not None:
        used = _data_bytes()
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory_bytes, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _data_bytes() -> int:
    """Private memory of this process that counts against RLIMIT_DATA; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
