"""Threads for many small matrix problems, one problem a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

from threadpoolctl import threadpool_limits

from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types.arrays import Float

_ROWS_FOR_BLAS_THREADS = 1_024  # rows from which one eigenvalue problem alone is faster with all threads of the BLAS


def thread_count(tasks: list[Float[Tensor, "_ _ _"]]) -> int:
    """The number of worker threads for these tasks: at most one a task, and no more than torch may use.

    Returns 0 for tensors on an accelerator and for a single large matrix: the calling thread then does the work, and its
    libraries use all their own threads.
    """
    one_large_matrix = len(tasks) == 1 and min(tasks[0].shape[1:]) >= _ROWS_FOR_BLAS_THREADS
    if one_large_matrix or any(task.device.type != "cpu" for task in tasks):
        return 0
    return min(torch.get_num_threads(), len(tasks))


@contextmanager
def threaded_map(count: int) -> Iterator[Callable[[Callable[[Tensor], Tensor], list[Tensor]], Iterator[Tensor]]]:
    """A function like `map` that runs on `count` worker threads; with a count of 0 it is `map` itself.

    Inside the block numpy's BLAS uses one thread for each call. torch stores a number of threads for each thread, and a default
    for
    new threads: every worker sets its own number to one, and the default is restored when all workers have done so.
    """
    if count == 0:
        yield map
        return
    with threadpool_limits(1, user_api="blas"):
        if count == 1:
            yield map
            return
        before, ready = torch.get_num_threads(), Barrier(count + 1)

        def use_one_thread() -> None:
            torch.set_num_threads(1)
            ready.wait()

        pool = ThreadPoolExecutor(count, initializer=use_one_thread)
        try:
            for _ in range(count):
                pool.submit(int)
            ready.wait()
            torch.set_num_threads(before)
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
