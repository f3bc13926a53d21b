"""Who is treated: CT, structures and prescription on one grid."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from engine.patient.grid import Grid

Role = Literal["target", "organ", "external", "support"]
ROLES = ("target", "organ", "external", "support")


def without_side(name: str) -> str:
    """A TG-263 name without its side: Parotid_L and Parotid_R are Parotid."""
    return name[:-2] if name.endswith(("_L", "_R")) else name


@dataclass(frozen=True, eq=False)
class PartialVolume:
    """The share (nz, ny, nx) float32 of every voxel that lies inside a structure, on the part of
    the CT's grid around it."""

    grid: Grid
    share: np.ndarray

    def cut_of(self, whole: Grid) -> tuple[slice, ...]:
        """Where it lies on the CT's grid."""
        apart_mm = np.subtract(self.grid.origin_mm, whole.origin_mm)
        first = np.rint(apart_mm / np.array(whole.spacing_mm)).astype(int).tolist()
        return tuple(slice(a, a + n) for a, n in zip(first, self.grid.shape))


@dataclass(frozen=True, eq=False)
class Structure:
    """A named region, TG-263 name, boolean mask (nz, ny, nx).

    ``material`` overrides the CT inside the mask with a material of
    ``engine.patient.tissues.MATERIALS`` ("water" for a water tank). ``partial`` tells more than the
    mask of a structure of few voxels, whose contours are known: doses are judged by it.
    """

    name: str
    mask: np.ndarray
    role: Role
    material: str | None = None
    partial: PartialVolume | None = None

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(
                f"role={self.role!r} of {self.name!r} is unknown; choose from {ROLES}."
            )
        if np.asarray(self.mask).dtype != bool or np.ndim(self.mask) != 3:
            raise ValueError(f"mask of {self.name!r} must be a boolean volume (nz, ny, nx).")


@dataclass(frozen=True, eq=False)
class Patient:
    """CT in HU, structures by name, and a prescription in Gy (RBE) over the whole course.

    ``hu`` is (nz, ny, nx) float32. Exactly one structure has the role "external"; beyond it there
    is vacuum, unless a "support" structure fills the place. At least one structure is a target
    and every prescription names a target.
    """

    name: str
    grid: Grid
    hu: np.ndarray
    structures: Mapping[str, Structure]
    prescription_gy: Mapping[str, float]  # Gy (RBE) over the course, by target name
    n_fractions: int
    source: str = ""  # where it came from: "procedural:head_and_neck:7", "openkbp:pt_1", …

    def __post_init__(self):
        self._check_image()
        self._check_structures()
        self._check_prescription()
        object.__setattr__(self, "structures", MappingProxyType(dict(self.structures)))
        object.__setattr__(self, "prescription_gy", MappingProxyType(dict(self.prescription_gy)))

    def _check_image(self) -> None:
        if self.hu.shape != self.grid.shape:
            raise ValueError(f"hu has shape {self.hu.shape}, the grid {self.grid.shape}.")
        if not np.all(np.isfinite(self.hu)):
            raise ValueError("hu holds NaN or infinite values; repair the CT before planning.")

    def _check_structures(self) -> None:
        for name, structure in self.structures.items():
            if structure.name != name:
                raise ValueError(f"structures[{name!r}] is named {structure.name!r}; use one name.")
            if structure.mask.shape != self.grid.shape:
                raise ValueError(
                    f"structure {structure.name!r} has shape {structure.mask.shape}, "
                    f"the CT {self.grid.shape}; resample it to the CT's grid."
                )
        n_external = sum(s.role == "external" for s in self.structures.values())
        if n_external != 1:
            raise ValueError(f"{n_external} structures have the role 'external'; give exactly one.")
        if not self.targets:
            raise ValueError(
                f"patient {self.name!r} has no target; give a structure with role 'target'."
            )

    def _check_prescription(self) -> None:
        for target, dose_gy in self.prescription_gy.items():
            if target not in self.structures or self.structures[target].role != "target":
                raise ValueError(
                    f"prescription names {target!r}, which is no target; targets: {self.targets}."
                )
            if not (np.isfinite(dose_gy) and dose_gy > 0):
                raise ValueError(
                    f"prescription of {target!r} is {dose_gy} Gy (RBE); give a positive dose."
                )
        missing = [t for t in self.targets if t not in self.prescription_gy]
        if missing:
            raise ValueError(f"targets {missing} have no prescription; give one in Gy (RBE).")
        if self.n_fractions != int(self.n_fractions) or self.n_fractions < 1:
            raise ValueError(f"n_fractions={self.n_fractions} must be a whole number from 1 on.")

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, highest prescription first."""
        names = [s.name for s in self.structures.values() if s.role == "target"]
        return tuple(sorted(names, key=lambda n: -self.prescription_gy.get(n, 0.0)))

    @property
    def organs(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.structures.values() if s.role == "organ")

    @property
    def external(self) -> Structure:
        return next(s for s in self.structures.values() if s.role == "external")

    def mask(self, name: str) -> np.ndarray:
        """Mask (nz, ny, nx) of one structure."""
        if name not in self.structures:
            known = list(self.structures)
            raise KeyError(f"structure {name!r} is unknown; this patient has {known}.")
        return self.structures[name].mask

    def target_union(self) -> np.ndarray:
        """Mask (nz, ny, nx) of all targets together."""
        return np.logical_or.reduce([self.structures[t].mask for t in self.targets])

    def with_structures(self, *structures: Structure) -> "Patient":
        """A copy with structures added or replaced."""
        return replace(self, structures={**self.structures, **{s.name: s for s in structures}})

    def __getstate__(self):  # mapping proxies do not pickle
        return {
            **self.__dict__,
            "structures": dict(self.structures),
            "prescription_gy": dict(self.prescription_gy),
        }

    def __setstate__(self, state):
        for key, value in state.items():
            frozen = MappingProxyType(value) if isinstance(value, dict) else value
            object.__setattr__(self, key, frozen)


def prescribed(
    patient: Patient, fraction_gy: float | None = None, n_fractions: int | None = None
) -> Patient:
    """The patient with another dose or number of fractions, where one is given.

    The highest target gets ``fraction_gy`` in Gy (RBE) a fraction, the others keep their ratio
    to it.
    """
    if fraction_gy is not None and not (np.isfinite(fraction_gy) and fraction_gy > 0):
        raise ValueError(f"fraction_gy={fraction_gy} must be positive, or None for the patient's.")
    if n_fractions is not None and not n_fractions >= 1:
        raise ValueError(f"n_fractions={n_fractions} must be 1 or more, or None for the patient's.")
    n_fractions = n_fractions or patient.n_fractions
    highest_gy = patient.prescription_gy[patient.targets[0]]
    course_gy = highest_gy if fraction_gy is None else fraction_gy * n_fractions
    doses = {t: gy * course_gy / highest_gy for t, gy in patient.prescription_gy.items()}
    return replace(patient, prescription_gy=doses, n_fractions=n_fractions)
