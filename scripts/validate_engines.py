"""Every dose engine through its checks: those of all engines, and those of its own.

What is an engine's own is in ``scripts/validate_NAME.py``, NAME being its file in ``conf/dose``,
and found by itself: a function of that name yields its checks, ``tank`` those in a tank where it
treats no spots of protons, ``for_checks`` returns the engine as all checks run it, with fewer
histories for instance. Module and functions may be left out.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace

from engine.dose.engine import DoseEngine
from scripts.validate_check import Check
from scripts.validate_tank import tank

Checks = Callable[[DoseEngine], Iterator[Check]]


def engine_targets(name: str) -> dict[str, Checks]:
    """Groups of checks of the engine that ``conf/dose`` calls ``name``, in the report's order."""
    own = _own(name, name)
    groups = {f"Engine {name}, in a tank": _own(name, "tank") or tank}
    return groups if own is None else groups | {f"Engine {name}, its own": own}


def for_checks(name: str, engine: DoseEngine) -> DoseEngine:
    """The engine as the checks run it."""
    own = _own(name, "for_checks")
    return engine if own is None else own(engine)


def grouped(group: str, checks: Iterator[Check]) -> list[Check]:
    """The checks under the name of their group."""
    return [replace(check, group=group) for check in checks]


def _own(name: str, function: str) -> Callable | None:
    module = f"scripts.validate_{name}"
    if importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), function, None)
