"""Evaluate voxel samplers as Quarz 2024 does: table 2, figures, robustness, any samplers.

Writes into the folder ``output``: table_2 (txt, csv, md), organs (txt, csv), ks.txt, figure_4.png,
figure_5.png, figure_2_best.png and _worst.png, patients.txt, episodes.csv and .jsonl, plans/ (what
is drawn), config.yaml, record.json. A folder that holds part of the same study is continued.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from agents.voxel_sampling import study_tables as tables
from agents.voxel_sampling.study import PLANS, as_line, read_rows, study
from agents.voxel_sampling.study_plans import check_samplers, n_plans, n_steps
from agents.voxel_sampling.study_report import Report
from engine.parallel import threads
from ptenv.cases.patients import name_without_path
from ptenv.processes import preload_workers
from scripts.comparison import EPISODES, build_cases, write_csv
from scripts.nameless import nameless
from scripts.record import output_folder, save_record, stage

SAME = ("env", "samplers", "agents", "trials", "timing")  # what a continued study must share
LINE_EVERY_S = 20.0  # of progress


def run(cfg: DictConfig) -> float:
    """One study; returns the last sampler's median ΔD95, for sweeps."""
    folder = output_folder()
    environment = instantiate(cfg.env, _convert_="all")
    trials = instantiate(cfg.trials, _convert_="all")
    samplers = _samplers(cfg)
    check_samplers(samplers)
    models = _models(cfg, samplers)
    known = _rows_so_far(cfg, folder, n_plans(samplers, trials))
    save_record(cfg, folder)
    cases = environment.chosen_cases(cfg.cases, cfg.split, cfg.n_cases)
    _refuse_learned(samplers, cases)
    # clocks that are compared must not share the cores with other plans
    workers = 1 if cfg.timing else cfg.workers or threads()
    preload_workers("agents.voxel_sampling.study")

    build_cases(environment, cases, workers, "Cases")
    before = list(dict.fromkeys(row["case"] for row in known))
    left = [case for case in cases if case not in before]
    with stage("Plans") as notes:
        told = _Progress(len(left) * n_steps(samplers, trials), len(before))
        found = study(environment, samplers, left, trials, workers, told,
                      lambda rows: _keep(rows, folder), folder / PLANS)  # fmt: skip
        notes.append(f"{len(found)} plans, {workers} process{'es' if workers > 1 else ''}")
    order = dict.fromkeys([*cases, *before])
    rows = [r for case in order for r in (*known, *found) if r["case"] == case]
    _write_rows(rows, folder)
    with stage("Tables, pictures"):
        text = Report(folder, environment, cfg.heuristic, models, _timed(cfg, workers)).write(rows)
    print(f"\n{text}\n\nWritten to {folder}/")
    return tables.spread(rows, list(samplers)[-1], "delta_d95_percent").median


def _samplers(cfg: DictConfig) -> dict:
    samplers = dict(instantiate(cfg.samplers, _convert_="all"))
    if cfg.agents:
        samplers = _trained(list(cfg.agents)) | samplers
    if not samplers:
        raise ValueError("agents=[] and no samplers: there is nothing to study; name one.")
    return samplers


def _trained(paths: list[str]) -> dict:
    from agents.trained import trained_agents  # takes torch

    agents = trained_agents(paths)
    others = [name for name, agent in agents.items() if not hasattr(agent, "rows")]
    if others:
        raise ValueError(f"agents={others} choose no voxels; name folders of sampling networks.")
    return agents


def _refuse_learned(samplers: Mapping, cases: Sequence[str]) -> None:
    """Nobody is judged on the patients it learned from."""
    named = {name_without_path(case): case for case in cases}
    for name, sampler in samplers.items():
        seen = [case for learned, case in named.items() if learned in _learned_on(sampler)]
        if seen:
            raise ValueError(f"cases={seen} are among those that {name} learned on; name others.")


def _learned_on(sampler) -> tuple[str, ...]:
    return getattr(sampler, "learned_on", ())


def _models(cfg: DictConfig, samplers: Mapping) -> list[str]:
    """Samplers that are drawn and choose the best and worst patient: trained ones, or those named.

    Without any of them it is all but the heuristic.
    """
    unknown = [m for m in cfg.models or () if m not in samplers]
    if unknown:
        raise ValueError(f"models={unknown} are no samplers; choose from {list(samplers)}.")
    if cfg.heuristic is not None and cfg.heuristic not in samplers:
        raise ValueError(
            f"heuristic={cfg.heuristic!r} is no sampler; choose from {list(samplers)}, or null."
        )
    trained = [n for n in samplers if n not in cfg.samplers]
    return list(cfg.models or trained or [n for n in samplers if n != cfg.heuristic])


# ------------------------------------------------------------------ what a stopped run leaves


def _rows_so_far(cfg: DictConfig, folder: Path, per_case: int) -> list[dict]:
    """Rows of a study that was stopped in this folder; refuses to continue another one."""
    if not (folder / EPISODES).is_file():
        return []
    before = OmegaConf.load(folder / "config.yaml")
    now = OmegaConf.create(OmegaConf.to_yaml(nameless(cfg)))
    other = [key for key in SAME if before.get(key) != now.get(key)]
    if other:
        raise ValueError(
            f"output={folder} holds a study with other {', '.join(other)}; name another folder."
        )
    rows = read_rows(folder / EPISODES, per_case)
    _write_lines(rows, folder)  # without what was cut off
    return rows


def _keep(rows: Sequence[Mapping], folder: Path) -> None:
    with (folder / EPISODES).open("a", encoding="utf-8") as file:
        file.write("".join(f"{as_line(row)}\n" for row in rows))


def _write_rows(rows: Sequence[Mapping], folder: Path) -> None:
    """Rows in the order of the cases, and the long tables."""
    _write_lines(rows, folder)
    write_csv([tables.flat(row) for row in rows], folder / "episodes.csv")
    write_csv(tables.table_2(rows), folder / "table_2.csv")
    write_csv(tables.organs_table(rows), folder / "organs.csv")


def _write_lines(rows: Sequence[Mapping], folder: Path) -> None:
    lines = "".join(f"{as_line(row)}\n" for row in rows)
    (folder / EPISODES).write_text(lines, encoding="utf-8")


def _timed(cfg: DictConfig, workers: int) -> str:
    """How the clocks were read."""
    if cfg.timing:
        return f"Times: one plan at a time, threads: {threads()}."
    return f"Times: plans side by side, processes: {workers}; timing=true takes comparable ones."


class _Progress:
    """A line now and then: plans and scenarios done, and when the rest is expected."""

    def __init__(self, total: int, cases_known: int):
        self.total, self.began, self.spoken = total, time.perf_counter(), float("-inf")
        if cases_known:
            print(f"\n  {cases_known} cases are known from before", end="", flush=True)

    def __call__(self, done: int, case: str) -> None:
        now = time.perf_counter()
        if now - self.spoken < LINE_EVERY_S and done < self.total:
            return
        self.spoken, taken = now, now - self.began
        left = taken / max(done, 1) * (self.total - done)
        until = time.strftime("%H:%M", time.localtime(time.time() + left))
        print(
            f"\n  {done} of {self.total} plans and scenarios ({case}), {_span(taken)} so far, "
            f"{_span(left)} left, until {until}", end="" if done < self.total else "\n", flush=True,
        )  # fmt: skip


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["study", *sys.argv[1:]]))
