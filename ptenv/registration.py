"""Environment ids; ``import ptenv`` registers them."""

from typing import NamedTuple

from gymnasium.envs.registration import register, registry

VOXEL_MASK = "ptenv.envs.voxel_mask:VoxelMaskEnv"
ENERGY_LAYER = "ptenv.envs.energy_layer:EnergyLayerEnv"
DOSE_SHAPING = "ptenv.envs.dose_shaping:DoseShapingEnv"
SOLVED_MASK = 1.2  # a return: from the start's score, about −0.2, to keep-all's, 1
SOLVED_LAYERS = 1.0  # a return: the score of a plan that may use all layers
SOLVED_SHAPING = 1.0  # a return: the score of direct optimization with as many dose products
MINI_MASK = {"preset": "mini", "n_patients": 64, "volume_size": (32, 48, 48)}

CARBON_MASK = {"preset": "carbon", "oneshot": True}
MINI_CARBON_MASK = {**MINI_MASK, "preset": "carbon-mini", "oneshot": True}


class Id(NamedTuple):
    """What a registered name makes. An episode that ends by itself has no limit of steps: at its
    last step a limit would truncate it as well."""

    entry_point: str
    settings: dict
    reward_threshold: float
    max_episode_steps: int | None = None


IDS = {
    "ptenv/VoxelMask-v0": Id(VOXEL_MASK, {}, SOLVED_MASK, 8),
    "ptenv/VoxelMask-mini-v0": Id(VOXEL_MASK, MINI_MASK, SOLVED_MASK, 8),
    "ptenv/VoxelMask-oneshot-v0": Id(VOXEL_MASK, {"oneshot": True}, SOLVED_MASK),
    "ptenv/VoxelMask-oneshot-mini-v0": Id(
        VOXEL_MASK, {"oneshot": True, **MINI_MASK}, SOLVED_MASK
    ),
    "ptenv/VoxelMask-oneshot-carbon-v0": Id(VOXEL_MASK, CARBON_MASK, SOLVED_MASK),
    "ptenv/VoxelMask-oneshot-carbon-mini-v0": Id(VOXEL_MASK, MINI_CARBON_MASK, SOLVED_MASK),
    "ptenv/EnergyLayer-v0": Id(ENERGY_LAYER, {}, SOLVED_LAYERS),
    "ptenv/EnergyLayer-2deg-v0": Id(ENERGY_LAYER, {"preset": "2-degree"}, SOLVED_LAYERS),
    "ptenv/EnergyLayer-mini-v0": Id(ENERGY_LAYER, {"preset": "mini"}, SOLVED_LAYERS),
    "ptenv/DoseShaping-v0": Id(DOSE_SHAPING, {}, SOLVED_SHAPING, 30),
    "ptenv/DoseShaping-dvh-v0": Id(DOSE_SHAPING, {"observation": "dvh"}, SOLVED_SHAPING, 30),
    "ptenv/DoseShaping-mini-v0": Id(DOSE_SHAPING, {"preset": "mini"}, SOLVED_SHAPING, 30),
}


def register_all() -> None:
    """Register every id once."""
    for name, made in IDS.items():
        if name not in registry:
            register(
                name, entry_point=made.entry_point, kwargs=dict(made.settings),
                max_episode_steps=made.max_episode_steps,
                reward_threshold=made.reward_threshold, nondeterministic=False,
            )  # fmt: skip
