"""Dose-volume histograms of the plans that an agent's pictures show."""

from collections.abc import Sequence
from dataclasses import replace

from agents.environments import AnyEnvironment
from agents.evaluation import Trials, evaluate_case
from engine.evaluation.dvh import Dvh
from ptenv.cases.case import BODY


def final_histograms(
    environment: AnyEnvironment, agent, cases: Sequence[str], trials: Trials
) -> dict[str, dict[str, Dvh]]:
    """Per case the histograms, Gy (RBE) over the course, of each structure.

    Plays the episode of each picture once more: same budget, same seed, the same plan.
    """
    found: dict[str, dict[str, Dvh]] = {}

    def keep(name: str, state) -> None:
        found[state.case.case_id] = histograms(state)

    drawn = replace(trials, budgets=(trials.drawn_budget,), n_samplings=1)
    for index, case in enumerate(cases):
        evaluate_case(environment, {"agent": agent}, case, index, drawn, keep)
    return found


def histograms(state) -> dict[str, Dvh]:
    """Histograms of an episode's final plan, without the body; of an arc the nominal scenario's."""
    case = state.case
    dose_gy = state.dose_gy if hasattr(state, "dose_gy") else _nominal_dose(state)
    if dose_gy is None:
        return {}
    return {n: dvh for n, dvh in case.evaluation.dvh(dose_gy).items() if n != BODY}


def _nominal_dose(state):
    """Row doses (n_rows,) of an arc's plan; None where the episode ended with a sketch of one."""
    if state.plan is None or state.terminal != "plan":
        return None
    return state.case.quantity.value(state.plan.dose_gy)[0]
