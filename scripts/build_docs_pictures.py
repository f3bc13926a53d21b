"""Draw the picture of every family of environments for docs/environments/.

    python -m scripts.build_docs_pictures

Each is what the mini id itself draws after an episode of a baseline on a validation patient.
"""

from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from matplotlib.image import imsave

import ptenv
from agents.baselines import dose_shaping, energy_layer, layer_rules, voxel_mask

gym.register_envs(ptenv)

PICTURES = Path(__file__).parent.parent / "docs" / "environments"
CASE = "head-and-neck-10001"


class Drawn(NamedTuple):
    """What a picture shows: an id with its budget, and a baseline by name."""

    id: str
    budget: dict
    baseline: str
    agent: object


DRAWN = {
    "voxel_mask": Drawn(
        "ptenv/VoxelMask-mini-v0", {"budget": 0.1}, "importance sampling", voxel_mask.importance()
    ),
    "energy_layer": Drawn(
        "ptenv/EnergyLayer-mini-v0", {"limit": 1.3}, "the sawtooth",
        energy_layer.LayerBaseline(layer_rules.Sawtooth(most=24, margin=0.1)),
    ),
    "dose_shaping": Drawn(
        "ptenv/DoseShaping-mini-v0", {"goals": 1}, "six gentle requests for the heaviest goal",
        dose_shaping.heaviest_goal(0.1, n_requests=6),
    ),
}  # fmt: skip


def picture(drawn: Drawn) -> np.ndarray:
    """(height, width, 3) uint8 after the episode."""
    (budget,) = drawn.budget.values()
    env = gym.make(
        drawn.id, case=CASE, render_mode="rgb_array", **drawn.budget,
        **drawn.agent.settings(budget),
    )  # fmt: skip
    drawn.agent.bind(env, seed=0)
    observation, _ = env.reset(seed=0)
    done = False
    while not done:
        action, _ = drawn.agent.predict(observation, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
    return env.render()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, drawn in DRAWN.items():
        path = PICTURES / f"{name}.png"
        imsave(path, picture(drawn))
        print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
