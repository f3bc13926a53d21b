"""Which case: an id or a seed and all the settings that its numbers depend on."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from math import isfinite

from engine.geometry.plan import Beam
from engine.machine.library import DATA as MACHINES
from engine.patient.patient import Patient, prescribed
from engine.patient.single_target import single_target
from ptenv.cases.digests import digest_of_content, digest_of_files
from ptenv.cases.modality import (
    MODALITY_BOUNDS,
    MODALITY_COUNTS,
    MODALITY_OPTIONAL,
    PROTONS,
    check_modality,
)  # fmt: skip
from ptenv.cases.patients import name_without_path, named_patient, patient_content

FORMAT = 7  # of what a case holds; a change of numbers anywhere behind it counts it up

# lowest and highest value of every number; None where a setting may be left to its default
_BOUNDS = {
    "ct_spacing_mm": (0.5, 8.0), "dose_grid_mm": (0.5, 20.0), "spot_spacing_mm": (1.0, 50.0),
    "layer_spacing_mm": (0.5, 50.0), "lateral_margin_mm": (0.0, 50.0),
    "lateral_cutoff": (1e-6, 0.1), "ring_mm": (1.0, 100.0), "n_anchor_masks": (1, 1000),
    "converged_evaluations": (1, 10**6), "quality_evaluations": (1, 10**6),
    **MODALITY_BOUNDS,
}  # fmt: skip
_COUNTS = ("n_anchor_masks", "converged_evaluations", "quality_evaluations", *MODALITY_COUNTS)
_OPTIONAL = (
    "layer_spacing_mm", "lateral_margin_mm", "target_volume_cm3", "couch_deg", *MODALITY_OPTIONAL
)  # fmt: skip
_LISTS = ("target_volume_cm3", "gantry_deg", "couch_deg", "budgets")
PATTERNS = ("hexagonal", "square")
PENCIL_BEAM, YODA = ENGINES = ("pencil_beam", "yoda")


@dataclass(frozen=True)
class VoxelMaskRecipe:
    """Settings of a voxel-mask case; lengths in mm, angles IEC 61217.

    ``dose_grid_mm`` sets the voxel density in the target (1.7 mm: 204 per cm³). ``patient`` is
    "head-and-neck-NUMBER" (the number is the seed), "openkbp:PATH" or "dicom:FOLDER".

    ``single_target`` leaves the target of the highest dose alone. Without ``ring_objectives`` the
    ring of normal tissue is judged but not optimized, as in Quarz 2024. With
    ``weight_after_equation_1`` the voxels that a mask keeps of a structure count for all that
    equation (1) left of it, without for the whole structure. ``machine``, ``biology``
    ("lem1", "mkm", "constant", None: physical dose times ``rbe``) and ``tissue`` are the ions and
    what their dose counts for; ``fraction_gy`` (Gy (RBE), of the highest target) and
    ``n_fractions`` replace the patient's own prescription. ``engine`` computes the influence:
    "pencil_beam", or for protons "yoda", a hundred spots a second.
    """

    patient: str
    ct_spacing_mm: float = 2.0  # of procedural patients
    target_volume_cm3: tuple[float, float] | None = None  # of procedural patients
    level: str | None = None  # of procedural patients: L0 … L4
    dose_grid_mm: float = 1.7
    single_target: bool = False
    machine: str = PROTONS
    biology: str | None = None
    tissue: str | tuple[float, float, float, float] = "chordoma"
    rbe: float = 1.1
    fraction_gy: float | None = None
    n_fractions: int | None = None
    engine: str = PENCIL_BEAM
    gantry_deg: tuple[float, ...] = (60.0, 180.0, 300.0)
    couch_deg: tuple[float, ...] | None = None  # None: 0 for every field
    spot_spacing_mm: float = 5.0
    spot_pattern: str = "hexagonal"
    layer_spacing_mm: float | None = None
    lateral_margin_mm: float | None = None
    lateral_cutoff: float = 0.005
    ring_mm: float = 15.0
    ring_objectives: bool = True
    weight_after_equation_1: bool = False
    budgets: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)  # of keep-all at 100 evaluations
    n_anchor_masks: int = 10
    converged_evaluations: int = 300
    quality_evaluations: int = 60

    def __post_init__(self):
        make_plain(self, _BOUNDS, _COUNTS, _OPTIONAL, _LISTS)
        if not self.budgets or not all(0 < b <= 1 for b in self.budgets):
            raise ValueError(f"budgets={self.budgets} must be shares of keep-all's work in (0, 1].")
        if len(set(self.budgets)) < len(self.budgets):
            raise ValueError(f"budgets={self.budgets} names one share twice.")
        if not self.gantry_deg:
            raise ValueError("gantry_deg is empty; give at least one field.")
        if self.target_volume_cm3 is not None and len(self.target_volume_cm3) != 2:
            raise ValueError(f"target_volume_cm3={self.target_volume_cm3} must be (low, high).")
        if self.couch_deg is not None and len(self.couch_deg) != len(self.gantry_deg):
            raise ValueError(
                f"couch_deg={self.couch_deg} must have one angle for each of the gantry's "
                f"{len(self.gantry_deg)}, or be None."
            )
        if self.spot_pattern not in PATTERNS:
            raise ValueError(
                f"spot_pattern={self.spot_pattern!r} is unknown; choose from {list(PATTERNS)}."
            )
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r} is unknown; choose from {list(ENGINES)}.")
        if self.engine == YODA and self.machine != PROTONS:
            raise ValueError(f"engine='yoda' computes protons, the machine is {self.machine!r}.")
        for name in ("single_target", "ring_objectives", "weight_after_equation_1"):
            object.__setattr__(self, name, bool(getattr(self, name)))
        check_modality(self)
        self.beams  # noqa: B018  refuses what is no angle, before a patient is read

    @property
    def beams(self) -> list[Beam]:
        couch = self.couch_deg or (0.0,) * len(self.gantry_deg)
        return [Beam(g, couch_deg=c) for g, c in zip(self.gantry_deg, couch)]

    def key(self) -> str:
        """Hash of all that the case depends on: settings, files of patient and machine, FORMAT."""
        content = {
            "format": FORMAT, **asdict(self), "patient": patient_content(self.patient),
            "machine": machine_content(self.machine),
        }  # fmt: skip
        if self.engine == PENCIL_BEAM:  # keys are older than the choice
            del content["engine"]
        return digest_of_content(content)

    def read_patient(self) -> Patient:
        """The patient with the targets and the prescription of this recipe."""
        patient = named_patient(
            self.patient, self.ct_spacing_mm, self.level, self.target_volume_cm3
        )
        chosen = single_target(patient) if self.single_target else patient
        return prescribed(chosen, self.fraction_gy, self.n_fractions)

    @property
    def case_id(self) -> str:
        """Name of the case without a path."""
        return name_without_path(self.patient)


def machine_content(machine: str = PROTONS) -> str:
    """What stands for a machine in a key: the hash of its file."""
    return digest_of_files(MACHINES / f"{machine}.npz")


def make_plain(recipe, bounds: dict, counts=(), optional=(), lists=()) -> None:
    """Settings as floats, ints and tuples within ``bounds``: 4 and 4.0, (…) and […] are one case.

    ``counts`` are whole numbers, ``optional`` may be None, ``lists`` hold numbers.
    """
    for f in fields(recipe):
        name, value = f.name, getattr(recipe, f.name)
        if value is None and name in optional:
            continue
        if name in lists:
            value = _numbers(name, value)
        elif name in bounds:
            number = _within(name, value, *bounds[name])
            value = int(number) if name in counts else number
        object.__setattr__(recipe, name, value)


def _numbers(name: str, value) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name}={value!r} must be a list of numbers.")
    return tuple(_number(name, v) for v in value)


def _within(name: str, value, low: float, high: float) -> float:
    number = _number(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name}={value} must lie in {low} … {high}.")
    return number


def _number(name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"{name}={value!r} must be a number.")
    return number
