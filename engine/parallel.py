"""Run a compiled kernel over blocks of rows on a few threads.

Kernels release the GIL, and the blocks are the same whatever the number of threads, so results do
not depend on it. A pool of our own, rather than numba's parallel loops: those need a threading
layer that survives forks and calls from several Python threads, which not every machine has.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import parent_process

_threads: int | None = None
_pool: ThreadPoolExecutor | None = None
_pool_owner: tuple[int, int] | None = None  # process id and size: a fork inherits no threads


def threads() -> int:
    """Number of threads in use: ``set_threads``, or PTENV_THREADS, or all cores we may run on.

    A worker process of ``multiprocessing`` takes one: its siblings have the other cores.
    """
    if _threads is None:
        asked = os.environ.get("PTENV_THREADS")
        if asked is None:
            return _default()  # not kept: a fork of this process may be a worker
        set_threads(_parse(asked))
    return _threads


def _default() -> int:
    if parent_process() is not None or not hasattr(os, "sched_getaffinity"):
        return 1
    return len(os.sched_getaffinity(0))


def set_threads(n: int) -> None:
    """Use ``n`` threads from now on in this process."""
    global _threads
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n!r} threads is no positive whole number.")
    _threads = n


def run_blocks(kernel, n_blocks: int, *args) -> None:
    """Call ``kernel(block, *args)`` for every block; each writes to a place of its own."""
    n = min(threads(), n_blocks)
    if n <= 1:
        for block in range(n_blocks):
            kernel(block, *args)
        return

    def share(first: int) -> None:
        for block in range(first, n_blocks, n):
            kernel(block, *args)

    others = [_executor(n).submit(share, first) for first in range(1, n)]
    share(0)
    for other in others:
        other.result()


def _executor(n: int) -> ThreadPoolExecutor:
    global _pool, _pool_owner
    if _pool is None or _pool_owner != (os.getpid(), n):
        _pool = ThreadPoolExecutor(max_workers=n - 1, thread_name_prefix="ptenv")
        _pool_owner = (os.getpid(), n)
    return _pool


def _parse(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"PTENV_THREADS={text!r} is no whole number; unset it or give 1, 2, …"
        ) from None
