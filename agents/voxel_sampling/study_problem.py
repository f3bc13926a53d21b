"""What a sampling study optimizes and judges: rows that count as voxels, and the objective by row.

A case's matrix also holds the ring of normal tissue, for judging. Quarz 2024 optimizes on targets
and organs alone, and a mask without ring rows would leave the ring's whole weight on the few organ
rows that it shares: so the ring carries no objective here.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from engine.optimization.objectives import SeparableObjective
from engine.optimization.problem import PlanningProblem
from engine.patient.structures import RING
from ptenv.cases.case import GROUPS, Case

RING_GROUP = GROUPS.index("ring")


def plannable(case: Case) -> np.ndarray:
    """Rows (n_rows,) bool of targets and organs: the full mask, before equation (1)."""
    return case.group != RING_GROUP


def voxels(case: Case) -> np.ndarray:
    """Rows (n_rows,) bool that samplers choose from: targets and organs after equation (1)."""
    return case.candidates & plannable(case)


@lru_cache(maxsize=1)  # a case may hold gigabytes
def sampled_problem(case: Case) -> PlanningProblem:
    """The case's problem without objectives on the ring."""
    objectives = [o for o in case.problem.objectives if o.structure != RING]
    if len(objectives) == len(case.problem.objectives):
        return case.problem
    return replace(case.problem, objectives=objectives)


def row_penalty(problem: PlanningProblem, dose_gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's share of the objective and its derivative by dose, both (n_rows,) float64.

    ``dose_gy`` (n_rows,) is Gy (RBE) of the course, whatever quantity it was made by.
    """
    penalty, slope = np.zeros((2, len(dose_gy)))
    for objective in problem.objectives:
        if not isinstance(objective, SeparableObjective):
            raise ValueError(f"objective {objective} is no sum over voxels; it has no row's share.")
        region = problem.structures[objective.structure]
        dose = np.asarray(dose_gy, np.float64)[region.rows]
        for term in objective.terms(region.volume, region.distance_mm):
            off = np.maximum(0.0, term.side * (dose - term.level_gy))
            penalty[region.rows] += objective.weight * term.weight * off**2
            slope[region.rows] += 2.0 * objective.weight * term.weight * term.side * off
    return penalty, slope
