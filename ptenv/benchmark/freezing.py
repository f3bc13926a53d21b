"""Freezing a suite: what its cases are, and between which anchors they score."""

import json
from collections.abc import Mapping
from datetime import date
from hashlib import sha256
from pathlib import Path

import numpy as np

from ptenv.benchmark.platforms import platform_of_here, software
from ptenv.benchmark.suite import SPLITS, SUITES, Data, Suite, Task
from ptenv.cases.library import AnyCase

NOT_CONTENT = ("recipe", "key", "anchors")  # of a case's description: paths, versions, scores


def digest_of_case(case: AnyCase) -> str:
    """SHA-256 of all that a case holds: arrays, and the numbers of its description."""
    description, arrays = case.as_entry()
    plain = {k: v for k, v in description.items() if k not in NOT_CONTENT}
    digest = sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data.cast("B"))
    return digest.hexdigest()


def frozen_case(task: Task, case: str, data: Data) -> dict:
    """A case as a suite keeps it."""
    loaded = task.load(case, data)
    unsound = [b for b in task.budgets if not loaded.anchors.is_sound(_budget(task, b))]
    return {
        "key": loaded.key, "sha256": digest_of_case(loaded),
        "anchors": json.loads(json.dumps(loaded.anchors.as_dict())), "unsound": unsound,
    }  # fmt: skip


def freeze(
    suite: Suite, definition: Path, data: Data, headroom: Mapping[str, Mapping],
    cases: Mapping[tuple[str, str], dict],
) -> dict:  # fmt: skip
    """The content of a suite's JSON file, from ``frozen_case`` of every (task, case)."""
    tasks = {
        task.name: {"cases": {c: cases[task.name, c] for c in names_of(task)
                              if (task.name, c) in cases}}
        for task in suite.tasks
    }  # fmt: skip
    text = definition.read_text(encoding="utf-8")
    return {
        "name": suite.name, "version": suite.version,
        "definition_sha256": sha256(text.encode()).hexdigest(),
        "notes": {
            "frozen_on": date.today().isoformat(), "software": software(),
            "platform": platform_of_here(), "headroom": dict(headroom),
        },
        "tasks": tasks,
    }  # fmt: skip


def names_of(task: Task) -> list[str]:
    """All cases that a task judges on."""
    return [case for split in SPLITS for case in task.cases[split]]


def known_headroom() -> dict[str, dict]:
    """Headroom tables by environment id, of the frozen suites that come with ptenv."""
    found: dict[str, dict] = {}
    for path in sorted(SUITES.glob("*.json")):
        found |= json.loads(path.read_text(encoding="utf-8"))["notes"]["headroom"]
    return found


def refuse_other_content(definition: Path, content: Mapping) -> None:
    """Raise where a version was frozen with other cases: it may only gain some."""
    path = definition.with_suffix(".json")
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["version"] != content["version"]:
        return
    for task, of in before["tasks"].items():
        for case, was in of["cases"].items():
            now = content["tasks"].get(task, {}).get("cases", {}).get(case)
            if now is None or now["key"] != was["key"]:
                raise ValueError(
                    f"version {before['version']} is frozen with another {case} of {task}; raise "
                    f"the version in {definition}."
                )


def write_frozen(content: Mapping, definition: Path) -> Path:
    """Write a suite's JSON file beside its definition."""
    path = definition.with_suffix(".json")
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)
    return path


def _budget(task: Task, budget: float) -> float:
    return int(budget) if task.family.budget == "goals" else budget

