"""Checkpoints of a training run: written aside and renamed, so that a kill leaves a whole one."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.rl.trained import DESCRIPTION, load_model, save_agent

KEPT = 2
NORMALIZATION, REPLAY = "vecnormalize.pkl", "replay_buffer.pkl"


def save_checkpoint(
    folder: Path, model: BaseAlgorithm, venv: VecEnv, environment: Mapping[str, str]
) -> Path:
    """Weights, optimizer, reward statistics, replay buffer and step count, as ``step_NUMBER``."""
    final = folder / f"step_{model.num_timesteps:09d}"
    if final.exists():
        return final
    aside = folder / f".writing-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    save_agent(model, aside, dict(environment))
    if isinstance(venv, VecNormalize):
        venv.save(str(aside / NORMALIZATION))
    if isinstance(model, OffPolicyAlgorithm):
        model.save_replay_buffer(aside / REPLAY)
    os.replace(aside, final)
    for old in _steps(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None."""
    steps = _steps(folder)
    return steps[-1] if steps else None


def steps_of(checkpoint: Path) -> int:
    return int(json.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))["n_steps"])


def normalized(venv: VecEnv, checkpoint: Path | None, gamma: float) -> VecNormalize:
    """Rewards scaled by the running spread of returns, going on from a checkpoint's."""
    if checkpoint is not None and (checkpoint / NORMALIZATION).exists():
        return VecNormalize.load(str(checkpoint / NORMALIZATION), venv)
    return VecNormalize(venv, norm_obs=False, norm_reward=True, gamma=gamma)


def resumed(checkpoint: Path, venv: VecEnv) -> BaseAlgorithm:
    """The model of a checkpoint, in an environment that starts new episodes."""
    model = load_model(checkpoint, env=venv)
    if isinstance(model, OffPolicyAlgorithm) and (checkpoint / REPLAY).exists():
        model.load_replay_buffer(checkpoint / REPLAY)
    return model


def _steps(folder: Path) -> list[Path]:
    found = folder.glob("step_*") if folder.is_dir() else []
    return sorted(p for p in found if (p / DESCRIPTION).exists())
