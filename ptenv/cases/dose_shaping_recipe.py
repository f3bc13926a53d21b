"""Which dose-shaping case: a patient, beams, where the plan starts, and the goals of episodes."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np

from engine.geometry.plan import Beam
from engine.machine.library import load_machine
from engine.machine.photon import square_field_gy
from engine.patient.patient import Patient
from ptenv.cases.digests import digest_of_content
from ptenv.cases.patients import name_without_path, named_patient, patient_content
from ptenv.cases.recipe import machine_content, make_plain

FORMAT = 4  # of what a dose-shaping case holds; a change of numbers behind it counts it up
MODALITIES = ("photon", "proton")
STARTS = ("other_goals", "open_fields", "yesterday")
BEAMS = {"photon": tuple(40.0 * k for k in range(9)), "proton": (60.0, 180.0, 300.0)}

_BOUNDS = {
    "ct_spacing_mm": (0.5, 8.0), "dose_grid_mm": (0.5, 20.0), "ring_mm": (1.0, 100.0),
    "bixel_mm": (1.0, 20.0), "margin_mm": (0.0, 50.0), "reach_mm": (5.0, 200.0),
    "layer_spacing_mm": (0.5, 50.0), "lateral_cutoff": (1e-6, 0.1), "n_goals": (2, 64),
    "goal_decades": (0.0, 3.0), "start_evaluations": (1, 10_000),
    "converged_evaluations": (2, 10_000), "direct_evaluations": (5, 10_000),
    "quality_evaluations": (1, 10_000), "shift_mm": (0.0, 10.0), "weight_loss": (0.0, 0.2),
}  # fmt: skip
_COUNTS = (
    "n_goals", "start_evaluations", "converged_evaluations", "direct_evaluations",
    "quality_evaluations",
)  # fmt: skip
_OPTIONAL = ("layer_spacing_mm", "target_volume_cm3", "gantry_deg")
_LISTS = ("target_volume_cm3", "gantry_deg")


@lru_cache(maxsize=1)
def photon_content() -> str:
    """What stands for the photon beam in a key: its tables, rounded beyond what a build of the
    linear algebra may differ by."""
    machine, digest = load_machine("generic_photon"), sha256()
    depth = np.arange(0.0, 300.0, 10.0)
    fields = [square_field_gy(machine, side_mm, depth) for side_mm in (10.0, 100.0)]
    for table in (*fields, machine.fluence, machine.fluence_radius_mm, [machine.source_fwhm_mm]):
        digest.update(" ".join(f"{value:.4g}" for value in np.asarray(table)).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class DoseShapingRecipe:
    """Settings of a dose-shaping case; lengths in mm, angles IEC 61217.

    ``modality`` "photon" (bixels of ``bixel_mm``, nine fields) or "proton" (spots as far apart,
    three fields). ``n_goals`` weightings of the goals are drawn per case, each group of objectives
    times 10^x with x uniform within ± ``goal_decades``. ``start`` of an episode is the plan for
    another of these weightings after ``start_evaluations``, open fields that fill the target, or
    "yesterday": the plan for the episode's own goals on an anatomy that lay ``shift_mm`` aside on
    every axis and was heavier by ``weight_loss`` of all depths. ``direct_evaluations`` of the
    solver from the same start are kept to compare with.
    """

    patient: str
    modality: str = "photon"
    start: str = "other_goals"
    ct_spacing_mm: float = 3.0  # of procedural patients
    target_volume_cm3: tuple[float, float] | None = None  # of procedural patients
    level: str | None = None  # of procedural patients: L0 … L4
    dose_grid_mm: float = 4.0
    ring_mm: float = 15.0
    gantry_deg: tuple[float, ...] | None = None
    bixel_mm: float = 5.0
    margin_mm: float = 5.0
    reach_mm: float = 50.0  # photons: scatter from farther bixels is left out
    layer_spacing_mm: float | None = None  # protons
    lateral_cutoff: float = 0.01  # protons
    n_goals: int = 8
    goal_decades: float = 1.0
    start_evaluations: int = 60
    converged_evaluations: int = 300
    direct_evaluations: int = 100
    quality_evaluations: int = 60
    shift_mm: float = 3.0
    weight_loss: float = 0.03

    def __post_init__(self):
        make_plain(self, _BOUNDS, _COUNTS, _OPTIONAL, _LISTS)
        for name, known in (("modality", MODALITIES), ("start", STARTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose from {list(known)}."
                )
        if self.target_volume_cm3 is not None and len(self.target_volume_cm3) != 2:
            raise ValueError(f"target_volume_cm3={self.target_volume_cm3} must be (low, high).")
        if self.gantry_deg is not None and not self.gantry_deg:
            raise ValueError("gantry_deg is empty; give at least one field, or None.")
        for angle in self.gantry_deg or ():
            Beam(angle)  # refuses what is no angle, before a patient is read

    @property
    def machine(self) -> str:
        return f"generic_{self.modality}"

    @property
    def beams(self) -> list[Beam]:
        return [Beam(g) for g in self.gantry_deg or BEAMS[self.modality]]

    def key(self) -> str:
        """Hash of all that the case depends on: settings, files of patient and machine, FORMAT."""
        content = {
            "format": FORMAT, "kind": "dose shaping", **asdict(self),
            "patient": patient_content(self.patient),
            "machine": machine_content() if self.modality == "proton" else photon_content(),
        }  # fmt: skip
        return digest_of_content(content)

    @property
    def case_id(self) -> str:
        """Name of the case without a path."""
        return name_without_path(self.patient)

    def read_patient(self) -> Patient:
        return named_patient(
            self.patient, self.ct_spacing_mm, self.level, self.target_volume_cm3
        )
