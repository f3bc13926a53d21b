"""Which energy-layer case: a patient, an arc, and all the settings that its numbers depend on."""

from dataclasses import asdict, dataclass, replace

from engine.geometry.arc import MAX_LAYERS, Arc, ArcSettings
from engine.geometry.scenarios import Scenario, setup_and_range
from engine.patient.patient import Patient, prescribed
from engine.patient.single_target import single_target
from ptenv.cases.digests import digest_of_content
from ptenv.cases.modality import (
    MODALITY_BOUNDS,
    MODALITY_COUNTS,
    MODALITY_OPTIONAL,
    PROTONS,
    check_modality,
)  # fmt: skip
from ptenv.cases.patients import name_without_path, named_patient, patient_content
from ptenv.cases.recipe import machine_content, make_plain

FORMAT = 2  # of what an energy-layer case holds; a change of numbers behind it counts it up

_BOUNDS = {
    "ct_spacing_mm": (0.5, 8.0), "dose_grid_mm": (0.5, 20.0), "ring_mm": (1.0, 100.0),
    "n_angles": (1, 720), "start_deg": (-360.0, 360.0), "span_deg": (1.0, 360.0),
    "n_layers": (1, MAX_LAYERS), "layer_spacing_mm": (0.5, 50.0), "layers_per_angle": (1, 10),
    "spot_spacing_mm": (1.0, 50.0), "lateral_margin_mm": (0.0, 50.0), "n_points": (1, 100_000),
    "lateral_cutoff": (1e-6, 0.1), "shift_mm": (0.0, 10.0), "range_percent": (0.0, 20.0),
    "switch_up_s": (0.0, 60.0), "switch_down_s": (0.0, 60.0), "switch_s_per_mev": (0.0, 5.0),
    "gantry_deg_per_s": (0.1, 60.0), "evaluations": (2, 10_000), "sketch_evaluations": (2, 10_000),
    "bound_evaluations": (2, 10_000), "sketch_rows": (10, 10**6), "bound_layers": (1, MAX_LAYERS),
    "sketch_spacing_mm": (1.0, 50.0), "sketch_cutoff": (1e-6, 0.1), **MODALITY_BOUNDS,
}  # fmt: skip
_COUNTS = (
    "n_angles", "n_layers", "layers_per_angle", "n_points", "evaluations", "sketch_evaluations",
    "bound_evaluations", "sketch_rows", "bound_layers", *MODALITY_COUNTS,
)  # fmt: skip
_OPTIONAL = ("layer_spacing_mm", "target_volume_cm3", "sketch_rows", *MODALITY_OPTIONAL)
_LISTS = ("target_volume_cm3", "limits")


@dataclass(frozen=True)
class EnergyLayerRecipe:
    """Settings of an energy-layer case; lengths in mm, angles IEC 61217.

    ``patient`` is "nasopharynx-NUMBER", "head-and-neck-NUMBER", "openkbp:PATH" or "dicom:FOLDER";
    its target of the highest dose is treated alone, on one ``side`` of the neck if wished. Layers
    are the machine's lowest energies (``n_layers``, ``layer_spacing_mm`` apart or every one).
    Scenarios are the nominal one, ± ``range_percent`` and six shifts by ``shift_mm``. ``limits``
    are the delivery times of episodes, as multiples of the least time that the arc takes.
    ``evaluations`` is what a plan's robust optimization may cost. The cheaper ``"sketch"`` plans on
    ``sketch_rows`` sampled voxels (None: all) with spots ``sketch_spacing_mm`` apart: fewer voxels
    alone would let the spots between them do as they please. The bound is a plan of the
    ``bound_layers`` heaviest layers an angle. ``keep_influence`` stores the matrices of all layers,
    for small arcs. ``machine``, ``biology``, ``tissue``, ``rbe``, ``fraction_gy`` and
    ``n_fractions`` as in ``VoxelMaskRecipe``.
    """

    patient: str
    side: str | None = None
    ct_spacing_mm: float = 3.0  # of procedural patients
    target_volume_cm3: tuple[float, float] | None = None  # of procedural head-and-neck patients
    level: str | None = None  # of procedural head-and-neck patients: L0 … L4
    machine: str = PROTONS
    biology: str | None = None
    tissue: str | tuple[float, float, float, float] = "chordoma"
    rbe: float = 1.1
    fraction_gy: float | None = None
    n_fractions: int | None = None
    dose_grid_mm: float = 4.0
    ring_mm: float = 15.0
    n_angles: int = 72
    start_deg: float = 0.0
    span_deg: float = 360.0
    direction: str = "clockwise"
    n_layers: int = MAX_LAYERS
    layer_spacing_mm: float | None = None
    layers_per_angle: int = 1
    spot_spacing_mm: float = 5.0
    lateral_margin_mm: float = 5.0
    n_points: int = 1500
    lateral_cutoff: float = 0.02
    shift_mm: float = 3.0
    range_percent: float = 3.5
    switch_up_s: float = 5.5
    switch_down_s: float = 0.6
    switch_s_per_mev: float = 0.0
    gantry_deg_per_s: float = 6.0
    limits: tuple[float, ...] = (1.1, 1.25, 1.5, 2.0)
    evaluations: int = 40
    sketch_evaluations: int = 30
    bound_evaluations: int = 60
    sketch_rows: int | None = 3000
    sketch_spacing_mm: float = 9.0
    sketch_cutoff: float = 0.03
    bound_layers: int = 3
    keep_influence: bool = False

    def __post_init__(self):
        make_plain(self, _BOUNDS, _COUNTS, _OPTIONAL, _LISTS)
        if not self.limits or not all(1.0 <= f <= 20.0 for f in self.limits):
            raise ValueError(
                f"limits={self.limits} must be multiples of the least delivery time, 1 … 20."
            )
        if len(set(self.limits)) < len(self.limits):
            raise ValueError(f"limits={self.limits} names one limit twice.")
        if self.target_volume_cm3 is not None and len(self.target_volume_cm3) != 2:
            raise ValueError(f"target_volume_cm3={self.target_volume_cm3} must be (low, high).")
        if self.side not in (None, "left", "right"):
            raise ValueError(f"side={self.side!r} is unknown; left, right or None for both.")
        object.__setattr__(self, "keep_influence", bool(self.keep_influence))
        check_modality(self)
        self.arc  # noqa: B018  refuses what is no arc, before a patient is read

    def key(self) -> str:
        """Hash of all that the case depends on: settings, files of patient and machine, FORMAT."""
        content = {
            "format": FORMAT, "kind": "energy layer", **asdict(self),
            "patient": patient_content(self.patient), "machine": machine_content(self.machine),
        }  # fmt: skip
        return digest_of_content(content)

    @property
    def case_id(self) -> str:
        """Name of the case without a path."""
        return name_without_path(self.patient)

    @property
    def arc(self) -> Arc:
        return Arc(self.n_angles, self.start_deg, self.span_deg, self.direction)

    @property
    def arc_settings(self) -> ArcSettings:
        return ArcSettings(
            n_layers=self.n_layers, layer_spacing_mm=self.layer_spacing_mm,
            spot_spacing_mm=self.spot_spacing_mm, lateral_margin_mm=self.lateral_margin_mm,
            n_points=self.n_points,
        )  # fmt: skip

    @property
    def sketch_settings(self) -> ArcSettings:
        spacing = self.sketch_spacing_mm
        return replace(self.arc_settings, spot_spacing_mm=spacing, lateral_margin_mm=spacing)

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        return setup_and_range(self.shift_mm, self.range_percent)

    def read_patient(self) -> Patient:
        """The patient with the one target that is treated."""
        patient = named_patient(
            self.patient, self.ct_spacing_mm, self.level, self.target_volume_cm3
        )
        return prescribed(single_target(patient, self.side), self.fraction_gy, self.n_fractions)
