"""A spread-out Bragg peak in one dimension: the layers' weights that make one RBE-weighted dose.

Every layer is the planar integral of a machine's kernel, so the field is wide and flat.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from engine.machine.biology import layer_biology
from engine.machine.depth_kernels import layer_kernel
from engine.machine.ion import IonMachine
from engine.physics.biology import BiologicalModel
from engine.physics.constants import GY_MM2_PER_MEV_CM2_G
from engine.physics.rbe_dose import rbe_weighted_dose

BEYOND_MM = 1.5  # the last layers' ranges may exceed the target's end
TAIL_MM = 30.0  # of depth behind the target
IONS_PER_MM2 = 1e6  # that a weight of 1 stands for


@dataclass(frozen=True, eq=False)
class Layers:
    """Dose, α·dose and √β·dose of layers at weight 1: ``tables`` (3, n_depths, n_layers)."""

    depth_mm: np.ndarray
    tables: np.ndarray
    model: BiologicalModel
    inside: np.ndarray  # (n_depths,) bool, the target
    level_gy: float  # RBE-weighted, of one fraction

    def cost(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Squared deviation from the level, summed over the target, and its gradient."""
        _, a, b = self.tables @ weights
        found, slope = rbe_weighted_dose(a + b * b, self.model)
        miss = np.where(self.inside, found - self.level_gy, 0.0)
        pull = 2.0 * miss * slope
        return float(miss @ miss), self.tables[1].T @ pull + self.tables[2].T @ (2.0 * b * pull)


@dataclass(frozen=True, eq=False)
class SpreadOutPeak:
    """Physical and RBE-weighted dose (n,) of one fraction along depth in water."""

    depth_mm: np.ndarray
    dose_gy: np.ndarray
    weighted_gy: np.ndarray

    @property
    def rbe(self) -> np.ndarray:
        return self.weighted_gy / self.dose_gy

    def at(self, depth_mm: float) -> tuple[float, float]:
        """Physical dose in Gy and RBE."""
        i = int(np.argmin(np.abs(self.depth_mm - depth_mm)))
        return float(self.dose_gy[i]), float(self.rbe[i])


def layers_for(
    machine: IonMachine,
    model: BiologicalModel,
    begin_mm: float,
    end_mm: float,
    level_gy: float = 3.0,
) -> Layers:
    """The machine's layers whose ranges lie in a target, on its steps of depth."""
    chosen = np.flatnonzero(
        (machine.range_mm >= begin_mm) & (machine.range_mm <= end_mm + BEYOND_MM)
    )
    depth = machine.depth_step_mm * np.arange(int((end_mm + TAIL_MM) / machine.depth_step_mm))
    tables = np.zeros((3, depth.size, chosen.size))
    for j, i in enumerate(map(int, chosen)):
        dose = layer_kernel(machine, i).depth_dose_mev_cm2_g[: depth.size]
        tables[:, : dose.size, j] = dose * GY_MM2_PER_MEV_CM2_G * IONS_PER_MM2
        tables[1:, : dose.size, j] *= layer_biology(machine, i, model)[:, : depth.size]
    inside = (depth >= begin_mm) & (depth <= end_mm)
    return Layers(depth, tables, model, inside, level_gy)


def spread_out_peak(layers: Layers) -> SpreadOutPeak:
    """The dose of the weights, 0 or more, that come nearest to the level."""
    n = layers.tables.shape[2]
    bounds = [(0.0, None)] * n
    found = minimize(layers.cost, np.full(n, 0.5), jac=True, bounds=bounds, method="L-BFGS-B")
    dose, a, b = layers.tables @ found.x
    return SpreadOutPeak(layers.depth_mm, dose, rbe_weighted_dose(a + b * b, layers.model)[0])
