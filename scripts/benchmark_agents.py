"""The agent that a call of ``ptenv benchmark`` names: a rule, trained folders, or a file."""

from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from agents.energy_layers.agent import is_unet
from agents.entries import FileSource, RuleSource, TrainedSource
from agents.voxel_sampling.agent import is_pnet
from ptenv.benchmark.entry import AgentSource
from scripts.configuration import CONF, listed

BASELINES = {  # file of conf/baselines by family
    "VoxelMask": "voxel_mask", "EnergyLayer": "energy_layer", "DoseShaping": "dose_shaping",
}  # fmt: skip


def agent_source(named: str | ListConfig) -> AgentSource:
    """A baseline's name, FILE.py:NAME, a folder of ``ptenv train``, or a list of folders."""
    paths = listed(named)
    if not paths:
        raise ValueError("agents=[] names nobody; give a baseline, FILE.py:NAME or folders.")
    if len(paths) == 1 and ".py:" in paths[0]:
        path, _, name = paths[0].rpartition(":")
        return FileSource(path, name)
    if len(paths) == 1 and not Path(paths[0]).exists():
        rules = _rules(paths[0])
        if rules:
            return _rule_source(paths[0], rules)
    for path in paths:
        if not (Path(path).is_dir() or is_unet(path) or is_pnet(path)):
            raise ValueError(
                f"agents={path} is no baseline, no FILE.py:NAME and no folder; baselines are "
                f"{sorted(_all_rules())}."
            )
    return TrainedSource(tuple(paths))


def _rules(name: str) -> dict[str, DictConfig]:
    """The settings of a baseline by family; those of all families may share a name."""
    found = {}
    for family, file in BASELINES.items():
        known = OmegaConf.load(CONF / "baselines" / f"{file}.yaml")
        if name in known:
            found[family] = known[name]
    return found


def _all_rules() -> set[str]:
    return {
        name
        for file in BASELINES.values()
        for name in OmegaConf.load(CONF / "baselines" / f"{file}.yaml")
    }


def _rule_source(name: str, rules: dict[str, DictConfig]) -> RuleSource:
    made = {f: partial(instantiate, cfg, _convert_="all") for f, cfg in rules.items()}
    text = {f: OmegaConf.to_yaml(cfg, resolve=True, sort_keys=True) for f, cfg in rules.items()}
    return RuleSource(name, made, text)
