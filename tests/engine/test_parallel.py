"""Blocks of a kernel on a few threads: every block once, whatever the number of threads."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from engine import parallel


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    before = parallel.threads()
    yield
    parallel.set_threads(before)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_blocks", [0, 1, 2, 7, 64])
def test_every_block_runs_once(n_threads, n_blocks):
    parallel.set_threads(n_threads)
    done = np.zeros(64, int)

    def kernel(block, step):
        done[block] += step

    parallel.run_blocks(kernel, n_blocks, 3)
    assert done.tolist() == [3] * n_blocks + [0] * (64 - n_blocks)


def test_an_error_in_any_block_reaches_the_caller():
    parallel.set_threads(2)

    def kernel(block):
        if block == 3:
            raise RuntimeError("block 3")

    with pytest.raises(RuntimeError, match="block 3"):
        parallel.run_blocks(kernel, 8)


def test_two_python_threads_may_run_blocks_at_once():
    parallel.set_threads(2)
    done = np.zeros((2, 200), int)

    def many(mine):
        for _ in range(20):
            parallel.run_blocks(lambda block: done.__setitem__((mine, block), 1), 200)

    others = [threading.Thread(target=many, args=(mine,)) for mine in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert done.all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_gets_threads_of_its_own():
    parallel.set_threads(2)
    parallel.run_blocks(lambda block: None, 4)  # the pool exists before the fork
    child = os.fork()
    if child == 0:
        done = np.zeros(4, int)
        parallel.run_blocks(lambda block: done.__setitem__(block, 1), 4)
        os._exit(0 if done.all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_worker_process_uses_one_thread_unless_it_is_told_otherwise(monkeypatch):
    for asked, expected in ((None, 1), ("2", 2)):
        if asked is None:
            monkeypatch.delenv("PTENV_THREADS", raising=False)
        else:
            monkeypatch.setenv("PTENV_THREADS", asked)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            assert pool.submit(parallel.threads).result() == expected


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None])
def test_a_senseless_number_of_threads_is_refused(n):
    with pytest.raises(ValueError, match="no positive whole number"):
        parallel.set_threads(n)


@pytest.mark.parametrize("value, shown", [("3", "3"), ("two", "PTENV_THREADS='two'"), ("0", "n=0")])
def test_the_environment_sets_the_number_of_threads(value, shown):
    run = subprocess.run(
        [sys.executable, "-c", "from engine import parallel; print(parallel.threads())"],
        env={**os.environ, "PTENV_THREADS": value}, capture_output=True, text=True,
        cwd=os.path.dirname(os.path.dirname(parallel.__file__)),
    )  # fmt: skip
    assert shown in run.stdout + run.stderr
