"""The README's example is what it shows, and its commands exist."""

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import ptenv  # noqa: F401  (registers the environments)
from ptenv.benchmark.play import play

README = Path(__file__).parents[1] / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_runs_and_prints_a_score(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path))
    (example,) = python_blocks()
    exec(compile(example, str(README), "exec"), {"__name__": "__main__"})
    assert "score" in capsys.readouterr().out


def test_its_agent_plays_an_episode(tmp_path, monkeypatch):
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path))
    blocks = re.findall(r"```py\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (agent,) = [block for block in blocks if "def predict" in block]
    written = {}
    exec(compile(agent, str(README), "exec"), written)
    made = written["Half"]()
    env = gym.make(made.env_ids[0], case="head-and-neck-00007")
    played = play(made, env, seed=0)
    assert len(played.actions) > 1 and np.isfinite(played.infos[-1]["score"])


def test_every_command_it_names_exists():
    text = README.read_text(encoding="utf-8")
    called = re.findall(r"\bptenv ([a-z]+)(?: ([a-z]+))?\b(?= |`|$)", text, re.MULTILINE)
    commands = {f"{a}_{b}" if a == "benchmark" and b else a for a, b in called} - {"benchmark"}
    scripts = Path(README.parent / "scripts")
    missing = [c for c in commands if not (scripts / f"{c}.py").exists()]
    assert commands
    assert not missing


@pytest.mark.parametrize("target", ["docs/plan.png", "LICENSE", "CHANGELOG.md", "CITATION.cff"])
def test_what_it_links_to_is_there(target):
    assert target in README.read_text(encoding="utf-8")
    assert (README.parent / target).exists()
