"""Train an agent, by episodes or on whole patients, and compare it with baselines.

Writes into the folder ``output``: agent/ (the trained agent), checkpoints/, learning_curve.csv and
.png, log/, scores.txt and .csv, episodes.csv and .jsonl, pictures/, config.yaml, record.json, and
when all is done result.json. A run that was stopped goes on when it is called with the same
``output``, one that ended is not repeated; a sweep (``-m``) does so run by run.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from agents.environments import AnyEnvironment, learned_from
from agents.evaluation import mean_score, summary
from agents.rl.checkpoints import last_checkpoint
from agents.rl.curve import read_curve
from agents.rl.trained import save_agent
from agents.rl.training import train
from agents.trained import trained_agent
from engine.parallel import threads
from ptenv.processes import preload_workers
from ptenv.rendering import learning_curve, save
from scripts.comparison import build_cases, compare, tables
from scripts.histograms import final_histograms
from scripts.record import output_folder, save_record, stage
from scripts.resume import begin, comparable, finish, finished_score, only_run_in

TRAINED = "trained agent"
MUST_AGREE = ("env", "agent", "seed")  # of a run that goes on


def run(cfg: DictConfig) -> float:
    """Train and judge; returns the mean score on the cases that judge, for sweeps."""
    hydra = HydraConfig.get()
    sweeps = hydra.mode == RunMode.MULTIRUN
    return train_and_judge(cfg, output_folder(), list(hydra.overrides.task), sweeps)


def train_and_judge(
    cfg: DictConfig, folder: Path, overrides: list[str], sweeps: bool,
    tell: Callable[[int, float | None], None] = lambda n_steps, score: None,
) -> float:  # fmt: skip
    """The mean score of a run in its folder; what is done already is not done again.

    ``sweeps``: the run is one of many that settings are chosen by, which must not see test cases.
    ``tell`` gets steps and the mean score of the last training episodes.
    """
    with only_run_in(folder):
        _refuse_another_run(cfg, folder)
        score = finished_score(cfg, folder)
        if score is not None:
            print(f"{folder}/ is done: score {score:.3f} (without its result.json it is judged "
                  "again)")  # fmt: skip
            return score
        begin(folder)
        save_record(cfg, folder, overrides)
        score = _train_and_judge(cfg, folder, sweeps, tell)
        finish(folder, score)
    return score


def _train_and_judge(cfg: DictConfig, folder: Path, sweeps: bool, tell: Callable) -> float:
    environment = instantiate(cfg.env, _convert_="all")
    learner = instantiate(cfg.agent, _convert_="all")
    schedule = instantiate(cfg.schedule)
    trials = instantiate(cfg.trials, _convert_="all").of(environment)
    cases = environment.chosen_cases(cfg.cases, cfg.split, cfg.n_cases)
    if sweeps:
        _refuse_test_cases(environment, cases)
    agents = dict(instantiate(cfg.baselines, _convert_="all"))
    logger = instantiate(cfg.logger, _convert_="all")
    workers = cfg.workers or threads()
    preload_workers("agents.rl.training", "agents.evaluation")
    again = "" if sweeps else f" (the same command with output={folder} goes on after a stop)"
    print(f"Writing to {folder}/{again}")

    if hasattr(learner, "learn"):  # on whole patients, without episodes
        build_cases(environment, cases, workers, "Patients to judge on")
        _learn(learner, environment, folder, cfg.seed, logger)
    else:
        build_cases(environment, environment.training_cases(), workers, "Patients to learn on")
        build_cases(environment, cases, workers, "Patients to judge on")
        with stage("Training") as notes, _progress(schedule.n_steps, tell) as progress:
            model = train(learner, environment, schedule, folder, cfg.seed, logger, progress)
            learned = learned_from(environment, cfg.seed)
            save_agent(model, folder / "agent", environment.learner_settings(), learned)
            notes.append(f"{model.num_timesteps} steps of {environment.id}")
    agents[TRAINED] = trained_agent(str(folder))
    rows = compare(environment, agents, cases, trials, workers, folder, TRAINED)
    _draw_curve(folder, rows, environment.judge)
    score = mean_score(rows, TRAINED)
    if hasattr(logger, "show"):
        histograms = final_histograms(environment, agents[TRAINED], cases, trials)
        logger.show(folder, score, histograms)

    print(f"\n{tables(rows, environment.judge)}\n\nWritten to {folder}/")
    return score


def _refuse_test_cases(environment: AnyEnvironment, cases: list[str]) -> None:
    """Settings that were chosen by test cases would be judged by what they were made for."""
    sealed = sorted(set(cases) & set(environment.chosen_cases(None, "test", None)))
    if sealed:
        raise ValueError(
            f"cases={sealed[0]}{' and others' * (len(sealed) > 1)} of split=test cannot choose "
            "settings: sweep over split=validation, then judge what was chosen by one run of "
            "ptenv train split=test."
        )


def _learn(learner, environment, folder: Path, seed: int, logger: Callable) -> None:
    """Train a network on the training patients, with the expected end, and draw its losses."""
    with stage("Patients to learn on") as notes:
        examples = learner.examples(environment)
        notes.append(str(examples))
    with stage("Training") as notes, _steps(learner.unit) as progress:
        learner.learn(examples, folder, seed, progress, logger)
        notes.append(learner.summary(folder))
    curves = learner.curves(folder)
    if curves:
        figure = learning_curve(curves, x_label="epochs", y_label="loss")
        save(figure, folder / "learning_curve.png")


@contextmanager
def _steps(unit: str) -> Iterator[Callable[[str, int, int, float], None]]:
    """A bar per run of training; elsewhere than on a terminal a line every twentieth of it."""
    bars: dict[str, tqdm] = {}
    began: dict[str, tuple[int, float]] = {}  # steps done before, time

    def show(run: str, done: int, total: int, loss: float) -> None:
        if run not in bars:
            bars[run] = tqdm(
                total=total, unit=unit, desc=run, leave=False, disable=None, initial=done - 1
            )
            began[run] = (done, monotonic())
        bar = bars[run]
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(done - bar.n if not bar.disable else 0)
        if bar.disable and done % max(1, total // (4 if unit == "epoch" else 20)) == 0:
            left = _time_left(done - began[run][0], total - done, monotonic() - began[run][1])
            print(f"\n  {run}: {done} of {total} {unit}s, loss {loss:.4f}{left}", end=" ",
                  flush=True)  # fmt: skip

    yield show
    for bar in bars.values():
        bar.close()
    print(flush=True)


def _time_left(n_done: int, n_left: int, seconds: float) -> str:
    """When the rest will be done, at the pace so far."""
    if not n_done or not n_left:
        return ""
    end = datetime.now() + timedelta(seconds=seconds / n_done * n_left)
    return f", ends about {end:%d %b %H:%M}"


def _refuse_another_run(cfg: DictConfig, folder: Path) -> None:
    """A folder with checkpoints is gone on with only by the same agent in the same environment."""
    if cfg.resume not in ("auto", "never"):
        raise ValueError(f"resume={cfg.resume} is unknown; choose auto or never.")
    begun = last_checkpoint(folder / "checkpoints")
    if begun is None and not list(folder.rglob("last.ckpt")):
        return
    if cfg.resume == "never":
        raise ValueError(f"output={folder} holds a run already; name another, or resume=auto.")
    before = OmegaConf.load(folder / "config.yaml")
    if cfg.schedule.n_steps < before.schedule.n_steps:
        raise ValueError(
            f"schedule.n_steps={cfg.schedule.n_steps}, but output={folder} was begun for "
            f"{before.schedule.n_steps}; name another folder, or give that many or more."
        )
    for group in MUST_AGREE:
        if comparable(before)[group] != comparable(cfg)[group]:
            raise ValueError(
                f"output={folder} was begun with another {group} (its config.yaml says which); "
                "name another folder, or give the same settings to go on."
            )


@contextmanager
def _progress(total: int, tell: Callable) -> Iterator[Callable[[int, float | None], None]]:
    """A bar with the mean score of the last episodes; elsewhere than on a terminal ten lines.

    ``tell`` is told the same.
    """
    told = [0]
    with tqdm(total=total, unit="step", leave=False, disable=None) as bar:

        def show(n_steps: int, score: float | None) -> None:
            if score is not None:
                bar.set_postfix(score=f"{score:.3f}", refresh=False)
            bar.update(n_steps - bar.n if not bar.disable else 0)
            tenth = 10 * n_steps // total
            if bar.disable and score is not None and tenth > told[0]:
                told[0] = tenth
                print(f"\n  {n_steps:>7} steps, score {score:6.3f}", end=" ", flush=True)
            tell(n_steps, score)

        yield show
    if told[0]:
        print(flush=True)


def _draw_curve(folder: Path, rows: list[dict], judge: type) -> None:
    """Scores of training episodes beside the best baseline, uniform sampling and the result.

    The curve is of training patients and exploring actions, the lines of those that judge.
    """
    lines = read_curve(folder / "learning_curve.csv")
    if not lines:
        return
    steps, scores = ([line[name] for line in lines] for name in ("n_steps", "score"))
    means = summary(rows, ["score"])
    judged = {r["agent"]: r["score"] for r in means if r["agent"] != judge.reference}
    rivals = {name: score for name, score in judged.items() if name != TRAINED}
    best = sorted(rivals, key=rivals.get)[-1:]
    shown = [TRAINED, *best, *(n for n in ("uniform",) if n in rivals and n not in best)]
    figure = learning_curve({"training episodes": (steps, scores)}, {n: judged[n] for n in shown})
    save(figure, folder / "learning_curve.png")


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
