"""Images are read by threads ahead of the encoder, which then need not wait for disks and decoders."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int, *, depth: int) -> Iterator[Result]:
    """`function` of each item, in order, computed by threads.

    Args:
        function: decoders and torch give the interpreter free while they work, so threads suffice.
        items: consumed as the results are.
        num_workers: threads; 0 computes each result when it is asked for.
        depth: results that may be ready or in work before they are asked for; it bounds the memory.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(num_workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Whoever stops early does not want the rest.
        pool.shutdown(cancel_futures=True)
