"""What a benchmark must know of each family of environments."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from engine.machine.library import load_machine
from ptenv.cases.anchors import Anchors
from ptenv.cases.dose_shaping_case import ShapingAnchors
from ptenv.cases.energy_layer_case import LayerAnchors

MOST_UNDELIVERABLE = 0.02  # of the particles: what spots below the machine's least may carry
ROUNDING = 1e-6  # of seconds and MeV, that a limit forgives


class Family(Protocol):
    """Arguments, anchors and limits of one kind of environment.

    ``budget`` is the argument of ``make`` that a suite sets beside the case, ``free`` are those
    that an agent chooses, ``cost`` says what ``info["cost"]`` counts. Where an episode ``parts``
    from its like after a rounding, as when a request goes to another worst voxel, replay on another
    processor can be compared by the mean of many alone.
    """

    budget: str
    free: tuple[str, ...]
    cost: str
    parts: bool

    def anchors(self, plain: Mapping):
        """Frozen anchors of a case."""

    def score(self, anchors, budget: float, result: Mapping) -> float:
        """The score of a final objective and cost between frozen anchors."""

    def weights(self, state) -> np.ndarray | None:
        """Particles per fraction (n_spots,) of the final plan; None where there is none."""

    def engine_calls(self, state, infos: Sequence[Mapping]) -> float:
        """Evaluations of the optimizer, or dose products, that the episode's plans took."""

    def broken_limits(self, state) -> list[str]:
        """What the final plan asks of the machine or of the episode that it must not."""


class VoxelMaskFamily:
    """Voxel masks: work is nonzeros touched × evaluations."""

    budget = "budget"
    free = ("action", "observation", "reward", "volume_size", "max_rows", "mask_evaluations")
    cost = "work (nonzeros × evaluations)"
    parts = False

    @staticmethod
    def anchors(plain: Mapping) -> Anchors:
        return Anchors.from_dict(plain)

    @staticmethod
    def score(anchors: Anchors, budget: float, result: Mapping) -> float:
        return anchors.score(result["objective"], budget)

    @staticmethod
    def weights(state) -> np.ndarray:
        return np.asarray(state.weights)

    @staticmethod
    def engine_calls(state, infos: Sequence[Mapping]) -> float:
        return float(sum(info["n_evaluations"] for info in infos))

    @classmethod
    def broken_limits(cls, state) -> list[str]:
        broken = undeliverable(cls.weights(state), state.case.plan["machine"])
        broken += beyond_energies(state.case.plan["spot_energy"], state.case.plan["machine"])
        used = state.work_budget - state.work_left
        if used > state.work_budget:
            broken.append(f"{used} units of work were spent, {state.work_budget} were allowed")
        return broken


class EnergyLayerFamily:
    """Energy layers of an arc: cost is delivery time."""

    budget = "limit"
    free = ("reward",)
    cost = "delivery (s)"
    parts = False

    @staticmethod
    def anchors(plain: Mapping) -> LayerAnchors:
        return LayerAnchors.from_dict(plain)

    @staticmethod
    def score(anchors: LayerAnchors, budget: float, result: Mapping) -> float:
        return anchors.score(result["objective"], budget, "plan")

    @staticmethod
    def weights(state) -> np.ndarray | None:
        return None if state.plan is None else np.asarray(state.plan.weights)

    @staticmethod
    def engine_calls(state, infos: Sequence[Mapping]) -> float:
        return 0.0 if state.plan is None else float(state.plan.n_evaluations)

    @classmethod
    def broken_limits(cls, state) -> list[str]:
        if state.plan is None:
            return ["the arc ended without a plan"]
        machine = state.case.settings.machine
        broken = undeliverable(cls.weights(state), machine)
        used = state.case.energy_mev[np.unique(state.choice[state.choice >= 0])]
        broken += beyond_energies(used, machine, are_energies=True)
        if state.delivery_s > state.limit_s + ROUNDING:
            broken.append(f"delivery takes {state.delivery_s:.2f} s of {state.limit_s:.2f} allowed")
        return broken


class DoseShapingFamily:
    """Dose shaping: cost is dose products."""

    budget = "goals"
    free = ("action", "observation", "reward", "volume_size")
    cost = "dose products"
    parts = True

    @staticmethod
    def anchors(plain: Mapping) -> ShapingAnchors:
        return ShapingAnchors.from_dict(plain)

    @staticmethod
    def score(anchors: ShapingAnchors, budget: float, result: Mapping) -> float:
        return anchors.score(result["objective"], int(budget), result["cost"])

    @staticmethod
    def weights(state) -> np.ndarray:
        return np.asarray(state.plan.weights)

    @staticmethod
    def engine_calls(state, infos: Sequence[Mapping]) -> float:
        return float(state.products)

    @classmethod
    def broken_limits(cls, state) -> list[str]:
        broken = undeliverable(cls.weights(state), state.case.plan["machine"])
        broken += beyond_energies(state.case.plan["spot_energy"], state.case.plan["machine"])
        if state.n_requests > state.most_requests:
            broken.append(f"{state.n_requests} requests were made, {state.most_requests} allowed")
        return broken


FAMILIES: dict[str, Family] = {
    "VoxelMask": VoxelMaskFamily(), "EnergyLayer": EnergyLayerFamily(),
    "DoseShaping": DoseShapingFamily(),
}  # fmt: skip


def family_of(env_id: str) -> Family:
    """The family of a registered id: the part of its name before the first hyphen."""
    return FAMILIES[family_name(env_id)]


def family_name(env_id: str) -> str:
    """Key of FAMILIES of a registered id."""
    name = env_id.removeprefix("ptenv/").partition("-")[0]
    if name not in FAMILIES:
        raise ValueError(f"env_id={env_id!r} is of no known family; known are {list(FAMILIES)}.")
    return name


def undeliverable(weights: np.ndarray, machine: str) -> list[str]:
    """Why a machine cannot deliver particles per spot (n_spots,); nothing where it can."""
    if not np.all(np.isfinite(weights)):
        return ["spot weights hold values that are no numbers"]
    if np.any(weights < 0):
        return [f"spot weights are negative, the lowest {float(weights.min()):.3g}"]
    least = load_machine(machine).min_spot_weight
    total = float(weights.sum(dtype=np.float64))
    low = float(weights[weights < least].sum(dtype=np.float64))
    if total > 0 and low > MOST_UNDELIVERABLE * total:
        return [
            f"{100 * low / total:.1f} % of the particles lie in spots below the {least:.3g} that "
            f"{machine} can deliver, {100 * MOST_UNDELIVERABLE:g} % are allowed"
        ]
    return []


def beyond_energies(spots: np.ndarray, machine: str, are_energies: bool = False) -> list[str]:
    """Why a machine has not the energies of some spots: MeV, or indices of its own energies."""
    energies = np.atleast_1d(load_machine(machine).energy_mev)
    if are_energies:
        outside = (spots < energies[0] - ROUNDING) | (spots > energies[-1] + ROUNDING)
    else:
        outside = (spots < 0) | (spots >= len(energies))
    n = int(np.count_nonzero(outside))
    return [f"{n} spots or layers have energies that {machine} lacks"] if n else []
