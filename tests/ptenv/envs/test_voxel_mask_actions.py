import numpy as np
import pytest

from ptenv.cases.case import GROUPS
from ptenv.envs.voxel_mask_actions import (
    DECADES,
    N_SHELLS,
    SHELL_EDGES_MM,
    ActionDecoder,
    RowSignals,
    row_role,
    shell_index,
)


def decoder(kind="shells", oneshot=False, max_rows=1):
    return ActionDecoder(kind, oneshot, max_rows, 12)


def no_signals(case):
    """A last plan that violates nothing anywhere, and in which all rows pull alike."""
    n_rows = case.influence.n_rows
    return RowSignals(np.zeros(n_rows), np.ones(n_rows))


def decode(action, case, kind="shells", oneshot=False, seed=0):
    quiet = no_signals(case)
    rng = np.random.default_rng(seed)
    return decoder(kind, oneshot).decode(np.asarray(action, np.float32), case, quiet, rng)


def test_shells_are_counted_from_the_surface(case):
    shell = shell_index(case) % N_SHELLS
    near, far = SHELL_EDGES_MM
    np.testing.assert_array_equal(shell == 0, case.depth_mm < near)
    np.testing.assert_array_equal(shell == 2, case.depth_mm >= far)
    np.testing.assert_array_equal(shell_index(case) // N_SHELLS, case.group)


def test_each_shell_has_its_own_rate(case):
    action = np.full(23, -1.0)
    cell = int(np.bincount(shell_index(case)).argmax())
    action[cell] = 1.0
    rates = decoder().rates(action[:21], case, None)
    there = shell_index(case) == cell
    assert np.all(rates[there] == 1.0)
    assert rates[~there] == pytest.approx(10.0**-DECADES)


def test_only_candidates_are_drawn(case):
    mask = decode(np.ones(23), case).mask
    np.testing.assert_array_equal(mask, case.candidates)


@pytest.mark.parametrize("value, evaluations, share", [(-1, 1, 0.0), (0, 10, 0.5), (1, 100, 1.0)])
def test_evaluations_run_on_a_log_scale(case, value, evaluations, share):
    action = np.zeros(23)
    action[-2:] = value
    chosen = decode(action, case)
    assert (chosen.n_evaluations, chosen.work_share) == (evaluations, share)


def test_one_shot_actions_hold_rates_alone(case):
    assert decoder(oneshot=True).space.shape == (len(GROUPS) * N_SHELLS,)
    chosen = decode(np.zeros(21), case, oneshot=True)
    assert (chosen.n_evaluations, chosen.work_share) == (100, 1.0)


def test_field_coefficients_of_a_role_move_its_rates_alone(case):
    plain = decoder("field").rates(np.zeros(21), case, no_signals(case))
    assert plain == pytest.approx(0.1)
    coefficients = np.zeros(21)
    coefficients[0] = 0.5  # constant of the targets: 0.5 × 2 decades up
    rates = decoder("field").rates(coefficients, case, no_signals(case))
    target = row_role(case) == 0
    assert rates[target] == pytest.approx(1.0)
    assert rates[~target] == pytest.approx(0.1)


def test_field_rates_go_with_the_power_of_the_pull(case):
    pull = np.linspace(0.1, 5.0, case.influence.n_rows)
    signals = no_signals(case)._replace(pull=pull)
    coefficients = np.zeros(21)
    coefficients[6::7] = 0.5
    rates = decoder("field").rates(coefficients, case, signals)
    np.testing.assert_allclose(rates, np.minimum(0.1 * np.sqrt(pull), 1.0), rtol=1e-6)


def test_field_rates_follow_violation_and_stay_rates(case):
    coefficients = np.zeros(21)
    coefficients[5::7] = 1.0
    violation = np.linspace(0, 1, case.influence.n_rows)
    signals = no_signals(case)._replace(violation=violation)
    rates = decoder("field").rates(coefficients, case, signals)
    assert np.all(np.diff(rates) >= 0)
    everywhere = signals._replace(violation=np.ones_like(violation))
    extreme = decoder("field").rates(np.ones(21), case, everywhere)
    assert extreme.max() <= 1.0
    assert decoder("field").rates(-np.ones(21), case, signals).min() >= 10.0**-DECADES


def test_an_action_that_keeps_nothing_is_marked(case):
    for seed in range(30):
        chosen = decode(np.full(23, -1.0), case, seed=seed)
        assert chosen.invalid == (not chosen.mask.any())


@pytest.mark.parametrize(
    "kind, action, message",
    [
        ("shells", np.full(23, np.nan), "holds NaN or infinite values; give −1 … 1"),
        ("shells", np.full(23, np.inf), "holds NaN or infinite"),
        ("shells", np.array([None] * 23), "action of type object holds no numbers"),
        ("shells", np.zeros(22), r"action has shape \(22,\); 'shells' actions have \(23,\)"),
        ("field", np.zeros((1, 20)), r"action has shape \(1, 20\)"),
        ("mask", np.zeros(4), r"action has shape \(4,\); 'mask' actions have \(5,\)"),
        ("mask", np.full(5, 2), "must hold 0 and 1 only"),
        ("mask", np.full(5, np.nan), "must hold 0 and 1 only"),
    ],
)
def test_actions_that_mean_nothing_are_refused(case, kind, action, message):
    with pytest.raises(ValueError, match=message):
        decoder(kind, max_rows=5).decode(action, case, None, np.random.default_rng(0))
