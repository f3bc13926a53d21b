"""PPO, SAC and DQN learn on dose shaping as configured."""

import pytest
from hydra.utils import instantiate

from agents.environments import DoseShapingEnvironment, EnergyLayerEnvironment
from agents.nets.shaping_features import ShapingExtractor
from agents.rl.trained import TrainedAgent, save_agent
from agents.rl.training import Schedule, train
from scripts.configuration import composed

RECIPE = {
    "ct_spacing_mm": 6.0, "dose_grid_mm": 6.0, "gantry_deg": (0.0, 90.0, 180.0, 270.0),
    "bixel_mm": 8.0, "reach_mm": 25.0, "n_goals": 2, "start_evaluations": 10,
    "converged_evaluations": 40, "direct_evaluations": 25, "quality_evaluations": 10,
}  # fmt: skip
SCHEDULE = Schedule(n_steps=60, n_envs=1, processes=False)
SHORT = {  # enough to update once
    "ppo": ["agent.algorithm.n_steps=32", "agent.algorithm.batch_size=32"],
    "sac": ["agent.algorithm.learning_starts=20", "agent.algorithm.batch_size=8",
            "agent.algorithm.buffer_size=100"],
    "dqn": ["agent.algorithm.learning_starts=20", "agent.algorithm.batch_size=8",
            "agent.algorithm.buffer_size=100"],
}  # fmt: skip


def learner(name):
    cfg = composed("train", ["env=dose_shaping_mini", f"agent={name}", *SHORT[name]])
    return instantiate(cfg.agent, _convert_="all")


@pytest.mark.parametrize("name, action", [
    ("ppo", "goal"), ("ppo", "candidates"), ("ppo", "point"), ("sac", "point"), ("dqn", "goal"),
    ("dqn", "candidates"),
])  # fmt: skip
def test_an_agent_learns_and_plays_from_its_folder(name, action, tmp_path):
    environment = DoseShapingEnvironment(recipe=RECIPE, n_patients=1, action=action)
    logger = instantiate(composed("train", []).logger)
    model = train(learner(name), environment, SCHEDULE, tmp_path, 0, logger)
    assert isinstance(model.policy.features_extractor if name == "ppo" else (
        model.policy.actor.features_extractor if name == "sac" else
        model.policy.q_net.features_extractor
    ), ShapingExtractor)  # fmt: skip
    save_agent(model, tmp_path / "agent", environment.learner_settings())
    agent = TrainedAgent(str(tmp_path))
    env = environment.make_to_play("head-and-neck-10001", 1, agent)
    agent.bind(env)
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.predict(observation)[0])


def test_figures_alone_are_enough(tmp_path):
    environment = DoseShapingEnvironment(recipe=RECIPE, n_patients=1, observation="dvh")
    logger = instantiate(composed("train", []).logger)
    model = train(learner("ppo"), environment, SCHEDULE, tmp_path, 0, logger)
    assert model.observation_space.shape == (91,)


def test_actions_that_an_algorithm_cannot_take_are_refused(tmp_path):
    logger = instantiate(composed("train", []).logger)
    goal = DoseShapingEnvironment(recipe=RECIPE, n_patients=1)
    with pytest.raises(ValueError, match=r"env\.action"):
        train(learner("sac"), goal, SCHEDULE, tmp_path, 0, logger)
    with pytest.raises(ValueError, match="maskable_ppo"):
        EnergyLayerEnvironment().policy_settings()
