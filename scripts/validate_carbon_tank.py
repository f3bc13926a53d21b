"""Carbon ions in a water tank by an engine whose matrix knows biology: effects, and a plan.

α and √β of single spots are held against the curves that the engine is given; a cube in water is
then planned as a patient is, and lies beside the same target in one dimension.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from engine.dose.engine import DoseEngine
from engine.dose.quantities import biological_dose
from engine.evaluation.dvh import Dvh
from engine.geometry.plan import Beam
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.biology import layer_biology
from engine.machine.depth_kernels import layer_kernel
from engine.machine.ion import IonMachine
from engine.machine.library import load_machine
from engine.optimization.objectives import UniformDose
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.regions import regions_on
from engine.optimization.solvers import LBFGSB
from engine.patient.phantoms import water_tank
from scripts.validate_carbon import chordoma
from scripts.validate_check import Check
from scripts.validate_spread_out_peak import layers_for, spread_out_peak
from scripts.validate_tank import one_spot, spot_label

CARBON_MEV = (150.0, 250.0, 350.0)  # per nucleon
EFFECT = 0.01  # of α and √β, which the matrix holds in 16 bits
TAIL_MM = 10.0  # behind the range
CUBE_MM, MIDDLE_MM, VOXEL_MM = 30.0, 100.0, 2.5  # of the target, its depth, the tank's voxels
AROUND_MM = 20.0  # of water beside the target
FRACTION_GY = 3.0  # RBE-weighted
EVALUATIONS = 60
COVERED, HOT = 0.03, 0.05  # of the prescription that D95 may miss, and D2
BROAD_RBE = 0.03  # a field of 30 mm against one without end
SPOTS = SpotSettings(spot_spacing_mm=4.0, pattern="square")


def carbon_effects(engine: DoseEngine) -> Iterator[Check]:
    """α and √β on the axis of single spots, in the plateau, the peak and the tail."""
    engine, machine = replace(engine, biology=chordoma()), load_machine("generic_carbon")
    for index in map(machine.energy_index, CARBON_MEV):
        length = float(machine.range_mm[index])
        depth, alpha, root_beta = _on_axis(engine, machine, index)
        peak = int(np.argmax(layer_kernel(machine, index).depth_dose_mev_cm2_g))
        places = {
            "half the range": 0.5 * length,
            "the peak": peak * machine.depth_step_mm,
            f"{TAIL_MM:g} mm behind": length + TAIL_MM,
        }
        for place, at in places.items():
            row = int(np.argmin(np.abs(depth - at)))
            known = _voxel_means(machine, index, float(depth[row]), float(depth[1] - depth[0]))
            where = f"at {place}, {spot_label(machine, index)}"
            for name, reference, ours in zip(("α", "√β"), known, (alpha[row], root_beta[row])):
                yield Check("", f"{name} of the matrix {where}", "1/Gy", reference, float(ours),
                            EFFECT, True, "curves of the layer")  # fmt: skip


def _on_axis(
    engine: DoseEngine, machine: IonMachine, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth in mm of voxels of 1 mm along a spot, and α and √β there, each (n,)."""
    tank_mm = float(machine.range_mm[index]) + 2.0 * TAIL_MM
    patient = water_tank((3.0, np.ceil(tank_mm), 3.0), 1.0, 2.0)
    grid = patient.grid
    plan = one_spot(machine, index, Beam(0.0, (0.0, 0.0, 0.0)))
    influence = engine.influence(patient, plan, grid)
    volumes = [influence.volume(p) for p in influence.products(np.ones(1))]
    dose, a, b = (v[grid.shape[0] // 2, :, grid.shape[2] // 2].astype(float) for v in volumes)
    return grid.axes_mm()[1] - grid.lower_mm[1], a / dose, b / dose


def _voxel_means(
    machine: IonMachine, index: int, depth_mm: float, thickness_mm: float
) -> tuple[float, float]:
    """α and √β of the layer, dose-averaged over a voxel's thickness."""
    kernel, curves = layer_kernel(machine, index), layer_biology(machine, index, chordoma())
    z = machine.depth_step_mm * np.arange(curves.shape[1])
    fine = depth_mm + thickness_mm * (np.arange(100) + 0.5) / 100.0 - 0.5 * thickness_mm
    dose = np.interp(fine, z, kernel.depth_dose_mev_cm2_g)
    alpha, root_beta = (np.average(np.interp(fine, z, c), weights=dose) for c in curves)
    return float(alpha), float(root_beta)


def carbon_plan(engine: DoseEngine) -> Iterator[Check]:
    """3 Gy (RBE) by LEM I in a cube in water, one field: coverage, and RBE as in one dimension."""
    model, machine = chordoma(), load_machine("generic_carbon")
    products, target, depth_mm, off_axis_mm = _planned(replace(engine, biology=model), machine)
    weighted = biological_dose(model, 1).of_products(products)
    inside = Dvh(weighted[target] / FRACTION_GY, np.full(np.count_nonzero(target), 1.0))
    for name, percent, tolerance in (("D95", 95.0, COVERED), ("D2", 2.0, HOT)):
        yield Check("", f"{name} of a cube in water over 3 Gy (RBE), carbon", "", 1.0,
                    float(inside.dose_at_percent(percent)), tolerance, False,
                    "as prescribed")  # fmt: skip
    begin, end = MIDDLE_MM - 0.5 * CUBE_MM, MIDDLE_MM + 0.5 * CUBE_MM
    broad = spread_out_peak(layers_for(machine, model, begin, end, FRACTION_GY))
    for place, at in (("middle", MIDDLE_MM), ("distal end", end - VOXEL_MM)):
        near = np.argsort(np.abs(depth_mm - at) + off_axis_mm, kind="stable")[:8]
        ours = float(weighted[near].mean() / products[0, near].mean())
        known = float(np.interp(depth_mm[near].mean(), broad.depth_mm, broad.rbe))
        yield Check("", f"RBE at the {place} of a cube in water, carbon", "", known, ours,
                    BROAD_RBE, True, "the same in one dimension")  # fmt: skip


def _planned(
    engine: DoseEngine, machine: IonMachine
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Products of the plan (3, n_rows), which rows are target, their depth and distance to the
    axis in mm."""
    width = CUBE_MM + 2.0 * AROUND_MM
    patient = water_tank((width, 2.0 * MIDDLE_MM, width), VOXEL_MM, CUBE_MM)
    grid = patient.grid
    plan = place_spots(patient, machine, [Beam(0.0)], SPOTS)
    influence = engine.influence(patient, plan, grid)
    regions = regions_on(influence.voxels, {"PTV": patient.mask("PTV")})
    quantity = biological_dose(engine.biology, 1)
    wish = UniformDose("PTV", FRACTION_GY)
    problem = PlanningProblem(influence, regions, [wish], quantity)
    weights = LBFGSB(max_evaluations=EVALUATIONS).solve(problem, initial_weights(problem)).weights
    x, y, z = grid.points_mm(influence.voxels).T
    target = patient.mask("PTV").ravel()[influence.voxels]
    return influence.products(weights), target, y - grid.lower_mm[1], np.hypot(x, z)
