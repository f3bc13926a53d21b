"""The first policy's action decodes to what it says."""

import numpy as np
import pytest

from agents.rl.first_policy import FirstPolicy

CASE = "head-and-neck-00001"


@pytest.mark.parametrize("kind", ["field", "shells"])
def test_the_action_keeps_the_rate_the_evaluations_and_the_share(environment, kind):
    env = environment.make(case=CASE, action=kind)
    env.reset(seed=0)
    action = FirstPolicy(0.3, 20, 0.75).action(kind, env.action_space.shape[0])
    inner = env.unwrapped
    rates = inner._decoder.rates(action[:-2], inner.state.case, inner.state.signals)
    choice = inner._decoder.decode(action, inner.state.case, inner.state.signals, env.np_random)
    assert rates == pytest.approx(0.3, rel=1e-5)
    assert choice.n_evaluations == 20
    assert choice.work_share == pytest.approx(0.75)


@pytest.mark.parametrize("kind", ["field", "shells"])
def test_one_shot_actions_hold_the_rates_alone(environment, kind):
    from dataclasses import replace

    env = replace(environment, id="ptenv/VoxelMask-oneshot-mini-v0").make(case=CASE, action=kind)
    action = FirstPolicy().action(kind, env.action_space.shape[0])
    assert action.shape == env.action_space.shape
    assert action.dtype == np.float32


@pytest.mark.parametrize(
    "wrong", [{"keep_rate": 0.0}, {"evaluations": 101}, {"work_share": -0.1}, {"pull_exponent": 2}]
)  # fmt: skip
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FirstPolicy(**wrong)


def test_rates_go_with_the_power_of_the_pull(environment):
    env = environment.make(case=CASE, action="field")
    env.reset(seed=0)
    inner = env.unwrapped
    first = FirstPolicy(keep_rate=0.1, pull_exponent=0.5)
    action = first.action("field", env.action_space.shape[0])
    rates = inner._decoder.rates(action[:-2], inner.state.case, inner.state.signals)
    pull = np.clip(inner.state.pull, 1e-2, 1e2)
    assert rates == pytest.approx(np.minimum(0.1 * pull**0.5, 1.0), rel=1e-4)
