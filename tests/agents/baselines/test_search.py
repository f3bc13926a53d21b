"""Privileged search: it counts its plans, improves on its start, and repeats with its seed."""

import numpy as np
import pytest

from agents.baselines.search import CrossEntropySearch
from agents.rl.first_policy import FirstPolicy

CASE = "head-and-neck-00001"


def _search(**settings):
    return CrossEntropySearch(FirstPolicy(work_share=1.0), **{"n_final": 3, **settings})


def test_the_search_finds_better_than_it_began_with_and_counts_its_plans(environment):
    begun = _search(population=2, iterations=1, spread=0.0, kinds=("field",))
    found = _search(population=8, iterations=4).search(environment, CASE, 0.1)
    start = begun.search(environment, CASE, 0.1)
    assert found.n_plans == 3 * (8 * 4 + 3)
    assert found.best_plan > start.scores.mean()
    assert found.best_plan >= found.scores.max()


def test_the_same_seed_finds_the_same(environment):
    first, again = (
        _search(population=4, iterations=2).search(environment, CASE, 0.1) for _ in range(2)
    )
    assert np.array_equal(first.action, again.action)
    assert np.array_equal(first.scores, again.scores)


def test_an_empty_population_is_refused():
    with pytest.raises(ValueError, match="population=0"):
        _search(population=0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="choose from field, shells and mask"):
        _search(kinds=("bricks",))
