"""Privileged search on an arc."""

import numpy as np
import pytest

from agents.baselines.annealing import Annealing
from agents.baselines.arc_view import ArcView
from agents.baselines.layer_rules import DynamicProgramming, Sawtooth
from agents.baselines.layer_search import LayerSearch


def test_the_search_finds_a_plan_as_good_as_it_says(arc_environment, arc_case):
    environment, case = arc_environment(), arc_case()
    found = LayerSearch(steps=6).search(environment, "nasopharynx-00000", 1.5)
    assert 3 < found.n_plans <= 9
    assert case.sequencing.time_s(found.action) <= 1.5 * case.sequencing.floor_s + 1e-3
    worst = case.optimize(found.action[:, None]).worst
    assert case.anchors.score(worst, 1.5, "plan") == pytest.approx(found.best_plan)
    assert found.best_plan >= -1e-6, "dynamic programming is among the starts"
    again = LayerSearch(steps=6).search(environment, "nasopharynx-00000", 1.5)
    np.testing.assert_array_equal(again.action, found.action)


def test_searches_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="steps=0"):
        LayerSearch(steps=0)
    with pytest.raises(ValueError, match="annealings=-1"):
        LayerSearch(annealings=-1)


def test_the_search_may_begin_with_the_best_of_several_annealings(arc_environment):
    """One step that is hardly ever kept: what it ends with is what it began with."""
    environment = arc_environment()
    found = LayerSearch(steps=1, annealings=4).search(environment, "nasopharynx-00000", 1.5)
    assert found.n_plans in (6, 7)

    env = environment.make(case="nasopharynx-00000", limit=1.5)
    env.reset(seed=0)
    state, rng = env.unwrapped.state, np.random.default_rng(0)
    view, anchors = ArcView.of(state.case), state.case.anchors
    rules = (Sawtooth(), DynamicProgramming(), *[Annealing()] * 4)
    starts = [rule(view, state.limit_s, rng) for rule in rules]
    worst = [state.case.optimize(view.as_choice(s), "plan").worst for s in starts]
    scores = [anchors.score(w, 1.5, "plan") for w in worst]
    assert np.argmax(scores) >= 2, "an annealing is the best of them"
    assert found.best_plan >= max(scores) - 1e-9
