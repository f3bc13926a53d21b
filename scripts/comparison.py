"""Agents side by side in a folder: episodes to play again, scores, one table, pictures of cases."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from tqdm import tqdm

from agents.environments import AnyEnvironment, prepare_cases
from agents.evaluation import Trials, by_budget, evaluate, summary
from ptenv.cases.library import load_case
from ptenv.rendering import save, score_table
from scripts.record import stage

EVERY_AGENT = "all"
EPISODES = "episodes.jsonl"
LONG = ("actions", "metrics", "settings")  # columns of the JSON lines that a table cannot hold


@contextmanager
def counted(total: int | None, unit: str):
    """A bar on a terminal, nothing elsewhere; yields what takes the number done."""
    with tqdm(total=total, unit=unit, leave=False, disable=None) as bar:
        yield lambda done: bar.update(done - bar.n)


@dataclass(frozen=True)
class CasePictures:
    """Draws the plans of one agent, one file a case, or of all agents."""

    folder: Path
    agent: str
    judge: type

    def __call__(self, agent: str, state) -> None:
        if self.agent in (agent, EVERY_AGENT):
            budget = self.judge.budget_title(getattr(state, self.judge.budget))
            title = f"{state.case.case_id}: {agent}, {self.judge.budget} {budget}"
            name = state.case.case_id.replace(":", "-")
            name = f"{name} {agent}" if self.agent == EVERY_AGENT else name
            save(self.judge.draw(state, title), self.folder / f"{name}.png")


def build_cases(
    environment: AnyEnvironment, cases: Sequence[str], workers: int, title: str
) -> None:
    """Build what the cache lacks of some cases."""
    with stage(title) as notes, counted(len(cases), "case") as progress:
        prepare_cases(environment, cases, workers, progress)
        notes.append(f"{len(cases)} cases")


def compare(
    environment: AnyEnvironment, agents: Mapping[str, object], cases: Sequence[str], trials: Trials,
    workers: int, folder: Path, picture_of: str | None,
) -> list[dict]:  # fmt: skip
    """Play, write episodes and scores, draw; one row an episode, the reference's rows first."""
    draw: Callable | None = None
    trials = trials.of(environment)
    if picture_of is not None:
        (folder / "pictures").mkdir(exist_ok=True)
        draw = CasePictures(folder / "pictures", picture_of, environment.judge)
    n_episodes = len(cases) * len(agents) * len(trials.budgets) * trials.n_samplings
    with stage("Evaluation") as notes, counted(n_episodes, "episode") as progress:
        (folder / EPISODES).unlink(missing_ok=True)
        played = evaluate(
            environment, agents, cases, trials, workers, progress, draw,
            lambda rows: _append_episodes(rows, folder),
        )  # fmt: skip
        notes.append(f"{len(played)} episodes")
    _write_episodes(played, folder)
    player = environment.make().unwrapped
    judge = environment.judge
    anchors = [{**judge.reference_row(load_case(player.case_recipe(c))), "case": c} for c in cases]
    rows = [*anchors, *played]
    write_csv(summary(rows, list(judge.columns)), folder / "scores.csv")
    (folder / "scores.txt").write_text(f"{tables(rows, judge)}\n", encoding="utf-8")
    judge.report(rows, picture_of, folder)
    return rows


def tables(rows: Sequence[Mapping], judge: type) -> str:
    """The one table, how to read it, and the scores by budget."""
    means = summary(rows, list(judge.columns))
    shown = [{title: row.get(name) for name, title in judge.columns.items()} for row in means]
    played = [row for row in rows if "budget" in row]
    scores = score_table(by_budget(played, judge.budget_title), decimals=3)
    density = ", ".join(f"{d:.0f}" for d in sorted({row["voxels_per_cm3"] for row in played}))
    read_so = f"{judge.explained}\nVoxels per cm³ in the targets: {density}."
    table = score_table(shown, decimals=judge.decimals)
    return f"{table}\n\n{read_so}\n\nscore by {judge.budget}\n{scores}"


def _append_episodes(rows: Sequence[Mapping], folder: Path) -> None:
    """Add a finished case to episodes.jsonl, which holds all that plays episodes again."""
    with (folder / EPISODES).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)


def _write_episodes(rows: Sequence[Mapping], folder: Path) -> None:
    """episodes.jsonl in the order of the cases, and episodes.csv with the figures alone."""
    (folder / EPISODES).unlink(missing_ok=True)
    _append_episodes(rows, folder)
    figures = [{k: v for k, v in row.items() if k not in LONG} for row in rows]
    write_csv(figures, folder / "episodes.csv")


def write_csv(rows: Sequence[Mapping], path: Path) -> None:
    """Rows with whatever columns they have."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _finite(value):
    """The value with null for what is no number: JSON knows no NaN."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value
