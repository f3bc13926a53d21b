import gymnasium as gym
import pytest
from stable_baselines3 import PPO

import ptenv  # noqa: F401  (registers the ids)
from agents.rl.trained import TrainedAgent, save_agent
from agents.trained import trained_agents

MINI = "ptenv/VoxelMask-mini-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    env = gym.make(MINI, action="field")
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    settings = {"action": "field", "observation": "compact"}
    return save_agent(model, tmp_path_factory.mktemp("runs") / "mine", settings)


def test_an_agent_is_not_played_where_actions_have_another_length(folder):
    env = gym.make("ptenv/VoxelMask-oneshot-mini-v0", action="field")
    with pytest.raises(ValueError, match=r"\(23,\).*this environment has .*\(21,\)"):
        TrainedAgent(str(folder)).bind(env)


def test_a_single_path_is_one_agent(folder):
    assert list(trained_agents(str(folder))) == list(trained_agents([str(folder)])) == ["mine"]
