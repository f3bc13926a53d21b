"""The reference of a case: what scores final plans again, by a better engine on a finer grid.

Agents plan with a fast engine on a coarse grid; nobody shall win by what it gets wrong. The score
is the case's own formula, with F, F* and every anchor plan taken from the reference:

- voxel masks: F of the plan on the case's own spots; F* converged on the reference's matrix;
- energy layers: F in the worst of the nine scenarios;
- dose shaping: F of the episode's weighting; F* converged on the reference's matrix.

Protons are computed by "yoda". Carbon ions and photons have no better engine here than their own:
for them the reference is the fine grid with smaller cutoffs, and tells nothing of the engine.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ptenv.benchmark.reference_dose_shaping import dose_shaping_reference
from ptenv.benchmark.reference_energy_layer import energy_layer_reference
from ptenv.benchmark.reference_engines import default_engine, refuse_unfit
from ptenv.benchmark.reference_rows import Shelf
from ptenv.benchmark.reference_settings import (
    Judged,
    ReferenceCase,
    ReferenceSettings,
    Tell,
    silent,
)  # fmt: skip
from ptenv.benchmark.reference_voxel_mask import voxel_mask_reference
from ptenv.cases.case import Case
from ptenv.cases.dose_shaping_case import DoseShapingCase
from ptenv.cases.energy_layer_case import EnergyLayerCase
from ptenv.cases.library import AnyCase
from ptenv.cases.store import CaseStore

__all__ = ["Judged", "ReferenceCase", "ReferenceSettings", "default_reference", "reference_of"]

FINE = 0.6  # of the case's own spacing
FINEST_MM = 1.7  # which no reference goes below, unless the case itself does
ARC_FINE = 0.7  # nine scenarios of all layers must be paid for
IN_MEMORY = 12  # references of this process; their arrays are maps of the cache's files

_memory: "OrderedDict[str, ReferenceCase]" = OrderedDict()


class _Kind(NamedTuple):
    build: Callable
    settings: Callable[[AnyCase], ReferenceSettings]


def default_reference(case: AnyCase) -> ReferenceSettings:
    """The reference that a suite takes for a case."""
    return _kind(case).settings(case)


def reference_of(
    case: AnyCase, settings: ReferenceSettings | None = None, cache: bool = True,
    tell: Tell = silent,
) -> ReferenceCase:  # fmt: skip
    """The reference of a case: from this process's memory, from the disk cache, or built now.

    A build takes seconds to minutes on small cases, hours on large ones; ``tell`` hears of it.
    ``cache=False`` leaves the disk alone.
    """
    settings = default_reference(case) if settings is None else settings
    refuse_unfit(settings, machine_of(case))
    key = settings.key(case.key)
    if key in _memory:
        _memory.move_to_end(key)
        return _memory[key]
    shelf = Shelf(CaseStore() if cache else None)
    _memory[key] = _kind(case).build(case, settings, shelf, tell)
    while len(_memory) > IN_MEMORY:
        _memory.popitem(last=False)
    return _memory[key]


def forget_references() -> None:
    """Drop what this process holds of references; the disk cache stays."""
    _memory.clear()


def machine_of(case: AnyCase) -> str:
    """Name of the machine that treats a case."""
    return case.settings.machine if isinstance(case, EnergyLayerCase) else case.plan["machine"]


def _fine_mm(coarse_mm: float, share: float = FINE) -> float:
    return min(coarse_mm, max(FINEST_MM, round(share * coarse_mm, 1)))


def _mask_settings(case: Case) -> ReferenceSettings:
    return ReferenceSettings(default_engine(machine_of(case)), _fine_mm(case.grid.spacing_mm[0]))


def _shaping_settings(case: DoseShapingCase) -> ReferenceSettings:
    reach = min(2.0 * case.settings.reach_mm, 100.0)
    return ReferenceSettings(
        default_engine(machine_of(case)), _fine_mm(case.grid.spacing_mm[0]), reach_mm=reach
    )


def _arc_settings(case: EnergyLayerCase) -> ReferenceSettings:
    """Fewer beamlets and longer steps than for one scenario; columns are kept where the case
    keeps its own."""
    return ReferenceSettings(
        default_engine(machine_of(case)), _fine_mm(case.grid.spacing_mm[0], ARC_FINE),
        scheme="1+6", depth_step_mm=2.0, fokker_planck_step_mm=4.0,
        keep_matrix=case.kept is not None,
    )  # fmt: skip


_KINDS = {
    Case: _Kind(voxel_mask_reference, _mask_settings),
    EnergyLayerCase: _Kind(energy_layer_reference, _arc_settings),
    DoseShapingCase: _Kind(dose_shaping_reference, _shaping_settings),
}


def _kind(case: AnyCase) -> _Kind:
    if type(case) not in _KINDS:
        raise ValueError(
            f"case={case!r} is of no family that a reference is known for; known are "
            f"{[kind.__name__ for kind in _KINDS]}."
        )
    return _KINDS[type(case)]
