"""Which weights are best: objectives, problems, solvers, and which voxels to look at."""

from engine.optimization.constraints import Constraint
from engine.optimization.head_and_neck import head_and_neck_objectives, head_and_neck_problem
from engine.optimization.objectives import (
    EUD,
    DoseFallOff,
    MaxDose,
    MaxDVH,
    MeanDose,
    MinDose,
    MinDVH,
    Objective,
    UniformDose,
)
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.regions import Region, regions_on
from engine.optimization.solution import Solution
from engine.optimization.solvers import LBFGSB, Solver, filter_spots, solve_deliverable

__all__ = [
    "EUD", "LBFGSB", "Constraint", "DoseFallOff", "MaxDVH", "MaxDose", "MeanDose", "MinDVH",
    "MinDose", "Objective", "PlanningProblem", "Region", "Solution", "Solver", "UniformDose",
    "filter_spots", "head_and_neck_objectives", "head_and_neck_problem", "initial_weights",
    "regions_on", "solve_deliverable",
]  # fmt: skip
