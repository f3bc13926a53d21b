"""Worker processes: one thread each, and none outlives the process that started it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import (
    get_all_start_methods,
    get_context,
    parent_process,
    set_forkserver_preload,
)
from threading import Thread

from engine.parallel import set_threads

ORPHANED = 70  # exit code of a worker whose parent was killed


def preload_workers(*modules: str) -> None:
    """Let the server that forks worker processes import modules once for all of them.

    Call it before the first pool or vector environment of the process; later it does nothing.
    """
    if "forkserver" in get_all_start_methods():
        set_forkserver_preload(["__main__", *modules])


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each; what has not begun is dropped when an error ends the block."""
    pool = new_pool(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def new_pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each, for who shuts them down."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    return ProcessPoolExecutor(workers, context, initializer=begin_worker)


def begin_worker() -> None:
    """One engine thread, and an end when the parent ends: a killed run leaves nothing running."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    set_threads(1)
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent,), daemon=True, name="ptenv-parent").start()


def _end_with(parent) -> None:
    parent.join()
    os._exit(ORPHANED)
