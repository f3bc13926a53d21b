"""Speed of arcs: tracing, choosing, stepping, planning. ``make bench`` prints, nothing gates.

OpenKBP patients are looked for in the folder PTENV_OPENKBP names, else a nasopharynx patient runs.
"""

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import ptenv  # noqa: F401  registers the ids
from agents.baselines.arc_view import ArcView
from agents.baselines.layer_rules import DynamicProgramming
from agents.baselines.particle_swarm import ParticleSwarm
from agents.energy_layers.agent import UnetRule
from engine.geometry.arc import Arc, arc_geometry
from engine.machine.library import load_machine
from engine.patient.phantom_nasopharynx import nasopharynx


def openkbp_case() -> str:
    folder = os.environ.get("PTENV_OPENKBP")
    found = sorted(Path(folder).rglob("pt_203.zip")) if folder else []
    return f"openkbp:{found[0]}" if found else "nasopharynx-00000"


@pytest.fixture(scope="module")
def full():
    env = gym.make("ptenv/EnergyLayer-v0", case=openkbp_case(), limit=1.5)
    env.reset(seed=0)
    return env


def test_geometry_and_counts_of_72_angles_and_102_layers(benchmark):
    patient, machine = nasopharynx(0), load_machine("generic_proton")

    def traced():
        geometry = arc_geometry(patient, machine, Arc(72))
        return geometry.counts(), geometry.counts(without=["Brainstem"]), geometry.n_spots

    counts, spared, _ = benchmark(traced)
    assert counts.shape == (72, 102)
    assert np.all(spared <= counts)


@pytest.mark.parametrize("name", ["ptenv/EnergyLayer-mini-v0", "ptenv/EnergyLayer-v0"])
def test_proxy_episode_of_one_environment(benchmark, name):
    """An episode is 24 or 72 steps."""
    settings = {"case": openkbp_case()} if name.endswith("Layer-v0") else {"n_patients": 1}
    env = gym.make(name, terminal="proxy", **settings)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def episode():
        env.reset()
        over = False
        while not over:
            mask = env.unwrapped.action_masks()
            _, _, over, _, info = env.step(int(rng.choice(np.flatnonzero(mask))))
        return info

    assert benchmark(episode)["delivery_s"] > 0


def test_proxy_steps_of_a_vector_of_eight(benchmark):
    venv = gym.make_vec(
        "ptenv/EnergyLayer-mini-v0", num_envs=8, vectorization_mode="async", terminal="proxy",
        n_patients=1,
    )  # fmt: skip
    venv.reset(seed=0)
    actions = np.full(8, 3)
    benchmark(lambda: venv.step(actions))  # 8 steps
    venv.close()


def test_a_planned_episode_of_72_angles(benchmark, full):
    case = full.unwrapped.state.case
    choice = case.counts["target"].argmax(axis=1)[:, None]
    case.optimize(choice)
    plan = benchmark.pedantic(case.optimize, args=(choice,), rounds=3)
    assert plan.worst > 0


def test_a_step_that_plans_a_mini_arc(benchmark):
    env = gym.make("ptenv/EnergyLayer-mini-v0", n_patients=1)
    env.reset(seed=0)
    case = env.unwrapped.state.case
    choice = case.counts["target"].argmax(axis=1)[:, None]
    assert benchmark(lambda: case.optimize(choice)).worst > 0


@pytest.mark.parametrize("name, rule", [
    ("dynamic programming", DynamicProgramming()), ("particle swarm", ParticleSwarm()),
    ("U-Net", UnetRule("sparc_unet")), ("robust U-Net", UnetRule("sparc_unet_robust")),
], ids=lambda x: x if isinstance(x, str) else "")  # fmt: skip
def test_choosing_the_layers_of_an_arc(benchmark, full, name, rule):
    import torch

    torch.set_num_threads(1)
    view = ArcView.of(full.unwrapped.state.case)
    limit = 1.5 * view.sequencing.floor_s
    rule(view, limit, np.random.default_rng(0))
    sequence = benchmark.pedantic(
        rule, args=(view, limit, np.random.default_rng(0)), rounds=3
    )
    assert view.sequencing.time_s(sequence) <= limit + 1e-3
