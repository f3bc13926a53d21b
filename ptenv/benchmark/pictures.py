"""Pictures of an entry's plans, from a replay of one episode per task."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ptenv.benchmark.agreement import Tolerance
from ptenv.benchmark.board_submissions import Submission
from ptenv.benchmark.records import Episode
from ptenv.benchmark.replay import claims_of, replay
from ptenv.benchmark.suite import Data, Suite, Task
from ptenv.rendering import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = 128  # of a picture


@dataclass(frozen=True)
class Picture:
    """A plan's picture: its file, relative to the pages, or why there is none."""

    of: str
    file: str | None
    why_not: str = ""


def draw_entry(
    submission: Submission, suite: Suite, data: Data, folder: Path, name: str
) -> dict[str, Picture]:
    """Pictures by task, drawn into ``folder``/``name`` unless they are there."""
    found = {}
    for task in suite.tasks:
        if task.name in submission.entry.tasks:
            record = median_record(submission, task)
            found[task.name] = _drawn(record, submission.entry.name, suite, data, folder, name)
    return found


def median_record(submission: Submission, task: Task) -> Mapping:
    """The episode of median score (the lower of two) at the middle budget that was judged."""
    of = [r for r in submission.records if r["task"] == task.name]
    budgets = sorted({Episode.of(r).budget for r in of})
    middle = budgets[(len(budgets) - 1) // 2]
    of = [r for r in of if Episode.of(r).budget == middle]
    of.sort(key=lambda r: (r["result"]["score"], Episode.of(r)))
    return of[(len(of) - 1) // 2]


def _drawn(
    record: Mapping, entry: str, suite: Suite, data: Data, folder: Path, name: str
) -> Picture:
    episode = Episode.of(record)
    told = (f"{episode.case}, {suite.task(episode.task).family.budget} {episode.budget:g}, "
            f"run {episode.run}, score {record['result']['score']:.3f}")  # fmt: skip
    file = f"{name}/{episode.task}-{_digest(record)}.png"
    if (folder / file).is_file():
        return Picture(told, file)
    why_not = _draw(record, f"{entry}: {told}", suite, data, folder / file)
    return Picture(told, None if why_not else file, why_not)


def _draw(record: Mapping, title: str, suite: Suite, data: Data, path: Path) -> str:
    """Replay and draw; returns why not. What claims to be another environment is not opened."""
    wrong = claims_of(record, suite)
    if wrong:
        return "; ".join(wrong)
    try:
        again = replay(record, suite, data, Tolerance())
    except (ValueError, OSError) as error:
        return str(error)
    if again.played is None or again.differences:
        return "replay differs: " + "; ".join(again.differences)
    if suite.task(record["task"]).family.weights(again.played.state) is None:
        return "the episode ended without a plan"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    save(_figure(record["env"]["id"], again.played.state, title), aside)
    _shrink(aside)
    aside.replace(path)
    return ""


def _shrink(path: Path) -> None:
    """A picture with a palette: a third of the bytes, for a board holds dozens."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLORS)
    small.save(path, optimize=True)


def _figure(env_id: str, state, title: str) -> "Figure":
    """The environment's own picture; a name's dollar signs are no formulas."""
    title = title.replace("$", r"\$")
    if "VoxelMask" in env_id:
        from ptenv.envs.voxel_mask_render import picture_figure
    elif "EnergyLayer" in env_id:
        from ptenv.envs.energy_layer_render import picture_figure
    else:
        from ptenv.envs.dose_shaping_render import picture_figure
    return picture_figure(state, title=title)


def _digest(record: Mapping) -> str:
    """Of what is drawn: another plan is another file."""
    content = [record["entry"], record["episode"], record["case"], record["actions"],
               record["result"]["score"]]  # fmt: skip
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
