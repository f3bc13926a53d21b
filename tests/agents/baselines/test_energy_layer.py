"""Layer baselines: every rule keeps the time, and does what its name says."""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.baselines.annealing import Annealing
from agents.baselines.arc_view import ArcView
from agents.baselines.energy_layer import LayerBaseline, RandomLayers
from agents.baselines.layer_rules import (
    Constant,
    DynamicProgramming,
    EnergyMatrix,
    GreedyCoverage,
    Plateaus,
    Sawtooth,
)  # fmt: skip
from agents.baselines.particle_swarm import ParticleSwarm

RULES = {
    "constant": Constant(), "plateaus": Plateaus(), "sawtooth": Sawtooth(),
    "greedy": GreedyCoverage(), "dynamic programming": DynamicProgramming(),
    "weights": DynamicProgramming((0.0, 1.0)), "swarm": ParticleSwarm(8, 6),
    "matrix": EnergyMatrix(iterations=20, reweightings=2, n_points=60),
    "annealing": Annealing(steps=200), "coverage": Annealing("coverage", steps=60),
    "sketch": Annealing("sketch", steps=3),
}  # fmt: skip


@pytest.fixture(scope="module")
def case(arc_case):
    return arc_case()


@pytest.fixture(scope="module")
def view(case):
    return ArcView.of(case)


@pytest.mark.parametrize("factor", [1.0, 1.2, 3.0])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_the_time_with_valid_layers(view, name, factor):
    limit_s = factor * view.sequencing.floor_s
    sequence = RULES[name](view, limit_s, np.random.default_rng(0))
    assert view.sequencing.time_s(sequence) <= limit_s + 1e-3
    for layer, layers in zip(sequence, view.layers_at):
        assert layer in layers if len(layers) else layer == -1


@pytest.mark.parametrize("name", RULES)
def test_the_same_seed_gives_the_same_sequence(view, name):
    limit_s = 1.5 * view.sequencing.floor_s
    found = [RULES[name](view, limit_s, np.random.default_rng(7)) for _ in range(2)]
    np.testing.assert_array_equal(*found)


def test_a_constant_never_switches_where_one_energy_serves_all(view):
    sequence = Constant()(view, 10.0 * view.sequencing.floor_s, None)
    everywhere = view.valid.all(axis=0)
    if everywhere[sequence[0]]:
        assert view.sequencing.switching_s(sequence) == 0.0
    assert len(set(sequence.tolist())) <= 4


def test_plateaus_grow_in_number_with_time(view):
    def changes(factor):
        sequence = Plateaus()(view, factor * view.sequencing.floor_s, None)
        return int((np.diff(sequence) != 0).sum())

    assert changes(1.05) <= changes(1.5) <= changes(4.0)


def test_a_tooth_falls(view):
    sequence = Sawtooth().sequence(view, 1)
    assert np.corrcoef(np.arange(view.n), view.range_mm[sequence])[0, 1] < -0.5


def test_dynamic_programming_has_the_most_spots(view):
    limit_s = 1.3 * view.sequencing.floor_s
    counts = view.counts()

    def total(sequence):
        return counts[np.arange(view.n), sequence].sum()

    best = total(DynamicProgramming()(view, limit_s, None))
    for name, rule in RULES.items():
        assert total(rule(view, limit_s, np.random.default_rng(1))) <= best, name


def test_annealing_leaves_fewer_cold_spots_than_it_began_with(view):
    from agents.baselines.annealing import _ColdSpots

    limit_s = 1.5 * view.sequencing.floor_s
    cold = _ColdSpots(view)
    began = cold(view.within_limit(Sawtooth()(view, limit_s, None), limit_s))
    found = Annealing(steps=600)(view, limit_s, np.random.default_rng(0))
    assert cold(found) < began


def test_the_swarm_falls_within_its_sectors(view):
    swarm = ParticleSwarm(8, 6, keep_limit=False)
    sequence = swarm(view, np.inf, np.random.default_rng(0))
    up, down, _ = view.sequencing.transitions(sequence)
    assert up <= swarm.most_sectors
    assert up < down


def test_a_sequence_out_of_time_becomes_the_nearest_within(view):
    limit_s = 1.02 * view.sequencing.floor_s
    zigzag = np.array([layers[-1 if d % 2 else 0] for d, layers in enumerate(view.layers_at)])
    assert view.sequencing.time_s(zigzag) > limit_s
    found = view.within_limit(zigzag, limit_s)
    assert view.sequencing.time_s(found) <= limit_s + 1e-3
    easy = view.sequencing.time_s(zigzag)
    np.testing.assert_array_equal(view.within_limit(zigzag, easy), zigzag)


@pytest.mark.parametrize("name", ["sawtooth", "dynamic programming", "annealing"])
def test_several_layers_an_angle_differ_and_keep_the_time(arc_case, name):
    case = arc_case(layers_per_angle=3)
    view = ArcView.of(case)
    limit_s = 1.5 * case.sequencing.floor_s
    choice = view.as_choice(RULES[name](view, limit_s, np.random.default_rng(0)))
    assert choice.shape == (len(case.angles_deg), 3)
    for layers in choice:
        chosen = layers[layers >= 0]
        assert len(set(chosen.tolist())) == len(chosen)
    assert case.sequencing.time_s(choice) <= view.safe(limit_s) + 1e-3
    assert case.coverage.value(choice) > 0.2


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("agent", [LayerBaseline(Sawtooth()), RandomLayers()], ids=["rule", "rnd"])
def test_baselines_play_whole_episodes(arc_environment, agent, layers):
    env = arc_environment(layers_per_angle=layers).make(limit=1.5, terminal="proxy")
    for seed in range(2):
        agent.bind(env, seed)
        observation, _ = env.reset(seed=seed)
        over, invalid = False, 0
        while not over:
            action, state = agent.predict(observation)
            assert state is None
            observation, _, over, _, info = env.step(int(action))
            invalid += info["invalid_action"]
        assert invalid == 0
        assert info["delivery_s"] <= info["limit_s"] + 1e-3


def test_a_batch_is_played_environment_by_environment(arc_environment):
    made = arc_environment()
    venv = DummyVecEnv([lambda: made.make(limit=1.5, terminal="proxy")] * 2)
    venv.seed(0)
    agent = LayerBaseline(GreedyCoverage()).bind(venv)
    observation = venv.reset()
    layers, _ = agent.predict(observation)
    assert layers.shape == (2,)
    venv.step(layers)


def test_a_baseline_wants_its_environment():
    with pytest.raises(RuntimeError, match="bind"):
        LayerBaseline(Sawtooth()).predict({"clock": np.zeros(5), "plane": None})
    with pytest.raises(TypeError, match="no energy-layer environment"):
        RandomLayers().bind(object())


@pytest.mark.parametrize("make", [
    lambda: Annealing("luck"), lambda: Annealing(steps=0), lambda: ParticleSwarm(0),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match="unknown|must be"):
        make()
