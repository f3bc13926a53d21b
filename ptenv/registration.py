"""Environment ids; ``import ptenv`` registers them."""

from gymnasium.envs.registration import register, registry

ENTRY = "ptenv.envs.voxel_mask:VoxelMaskEnv"
SOLVED = 1.2  # a return: from the start's score, about −0.2, to keep-all's, 1
MINI = {"preset": "mini", "n_patients": 64, "volume_size": (32, 48, 48)}

IDS = {
    "ptenv/VoxelMask-v0": (8, {}),
    "ptenv/VoxelMask-mini-v0": (8, MINI),
    "ptenv/VoxelMask-oneshot-v0": (1, {"oneshot": True}),
    "ptenv/VoxelMask-oneshot-mini-v0": (1, {"oneshot": True, **MINI}),
}


def register_all() -> None:
    """Register every id once."""
    for name, (rounds, settings) in IDS.items():
        if name not in registry:
            # A one-shot episode terminates by itself; a limit of one step would also truncate it.
            limit = rounds if rounds > 1 else None
            register(
                name, entry_point=ENTRY, kwargs=dict(settings), max_episode_steps=limit,
                reward_threshold=SOLVED, nondeterministic=False,
            )  # fmt: skip
