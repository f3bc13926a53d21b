"""The import contracts are complete: what a person adds is under one of them.

``lint-imports`` (in ``make test``) checks the contracts; here stands what they cannot say.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS = PROJECT["importlinter"]["contracts"]


def _packages_in(folder: Path) -> set[str]:
    return {p.parent.name for p in folder.glob("*/__init__.py")}


def test_every_dose_engine_is_under_the_independence_contract():
    listed = next(c["modules"] for c in CONTRACTS if c["type"] == "independence")
    assert {f"engine.dose.{name}" for name in _packages_in(ROOT / "engine" / "dose")} == set(listed)


def test_every_package_of_the_wheel_is_in_the_layers():
    packages = PROJECT["hatch"]["build"]["targets"]["wheel"]["packages"]
    layers = next(c["layers"] for c in CONTRACTS if c["type"] == "layers" and "containers" not in c)
    assert set(packages) == {*layers, "conf", "hydra_plugins"}  # namespace of Hydra plugins


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_importing_ptenv_loads_nothing_that_learns_or_draws():
    loaded = _modules_after("import ptenv")
    assert not loaded & {"torch", "stable_baselines3", "hydra", "omegaconf", "wandb", "matplotlib"}


def test_the_plan_command_starts_without_torch():
    loaded = _modules_after("import scripts.cli, scripts.plan")
    assert not loaded & {"torch", "stable_baselines3", "wandb"}
