"""Every configuration file fits the code: it composes, its targets exist, its keys are arguments.

Files are found by themselves; a new one needs no line here. Commands whose script is not there
yet have no configuration to check.
"""

import inspect
from functools import cache
from pathlib import Path

import pytest
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from scripts import cli
from scripts.configuration import WrongCall, composed, missing_keys

CONF = Path(__file__).resolve().parents[2] / "conf"
COMMANDS = sorted(cli.commands())
CHOICES = sorted(p.relative_to(CONF).with_suffix("").as_posix() for p in CONF.glob("*/*.yaml"))
GIVEN = {  # what has no default, so that a file can be composed
    "patient.path": "patient.zip",
    "calibration.points": [[-1000, 0.0], [0, 1.0], [3000, 2.6]],
    "calibration.path": "rsp.npy",
    "openkbp": "openkbp",
}
NEEDS_DATA = ("calibration/rsp_map",)  # a volume; tests/engine/io reads one
NEEDS_NO_DATA = ("calibration", "dose", "geometry.beams", "geometry.settings", "machine",
                 "optimization.solver")  # fmt: skip


@cache  # composing takes a third of a second, and there are a hundred choices
def _has_group(command: str, group: str) -> bool:
    return group in composed(command, []) or group == "experiment"


def _with_choice(choice: str) -> DictConfig:
    """The first command that knows the group, with this choice and with what has no default."""
    group, name = choice.split("/")
    for command in COMMANDS:
        if _has_group(command, group):
            try:
                cfg = composed(command, [f"{group}={name}"])
            except WrongCall:  # an experiment is of one command, which this is not
                if group != "experiment":
                    raise
                continue
            for key in missing_keys(cfg):
                OmegaConf.update(cfg, key, GIVEN[key])
            return cfg
    raise AssertionError(f"no command has the group {group!r} of conf/{choice}.yaml")


def _targets(node, path=""):
    """Every node with a ``_target_`` and where it stands."""
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        yield path, node
    for key, value in node.items():
        yield from _targets(value, f"{path}.{key}" if path else key)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_with_its_defaults(command):
    assert composed(command, [])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_with_targets_that_exist_and_keys_that_are_arguments(choice):
    cfg = _with_choice(choice)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    found = list(_targets(resolved))
    assert found
    for path, node in found:
        arguments = inspect.signature(get_object(node["_target_"])).parameters
        keys = {key for key in node if not key.startswith("_")}
        takes_any = any(a.kind is a.VAR_KEYWORD for a in arguments.values())
        assert takes_any or keys <= set(arguments), f"{path} of conf/{choice}.yaml"
        if not node.get("_partial_"):
            required = {n for n, a in arguments.items() if a.default is a.empty and a.kind < 2}
            assert required <= keys, f"{path} of conf/{choice}.yaml"


@pytest.mark.parametrize("choice", [c for c in CHOICES if c not in NEEDS_DATA])
def test_every_choice_that_needs_no_data_instantiates(choice):
    cfg, group = _with_choice(choice), choice.split("/")[0]
    for path in NEEDS_NO_DATA:
        if path.split(".")[0] == group and OmegaConf.select(cfg, path) is not None:
            assert instantiate(OmegaConf.select(cfg, path), _convert_="all") is not None
