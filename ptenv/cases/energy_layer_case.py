"""An energy-layer case: an arc around a patient, and what its scores mean."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from math import log

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.pencil_beam.traced import TracedRows
from engine.dose.quantities import Quantity
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.evaluation.scorecard import ClinicalQuality, metrics_of
from engine.geometry.arc import Arc, ArcGeometry, ArcSettings, PointCoverage
from engine.geometry.plan import Beam
from engine.machine.library import load_machine
from engine.optimization import objectives as objective_kinds
from engine.optimization.arc import ArcPlan, ArcPlanner, KeptLayers, LayerSource, TracedLayers
from engine.optimization.layer_sequencing import LayerSequencing
from engine.optimization.regions import Region
from engine.patient.grid import Grid
from ptenv.cases.anchors import HIGHEST_SCORE, LOWEST_SCORE, SMALLEST_GAP
from ptenv.cases.case import (
    BODY,
    judged_rows,
    quantity_entry,
    quantity_from_entry,
    stored_region,
)  # fmt: skip
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.modality import biology_of

FIDELITIES = ("plan", "sketch")
_RASTER = ("meets", "u_mm", "v_mm")  # what differs between the plan's and the sketch's arc
_MATRIX = tuple(f.name for f in fields(InfluenceMatrix) if f.name != "grid")


@dataclass(frozen=True)
class LayerAnchors:
    """What scores 0 and 1: worst-case objectives F_w, per fidelity ("plan", "sketch").

    ``dynamic`` maps a limit (multiple of the least delivery time) to F_w of exact dynamic
    programming on spot counts at that limit; ``bound`` is F_w of the plan that may use all
    layers. ``reference_metrics`` are the bound plan's.
    """

    dynamic: dict[str, dict[float, float]]
    bound: dict[str, float]
    reference_metrics: dict
    quality: dict  # ClinicalQuality.as_dict()

    @property
    def budgets(self) -> tuple[float, ...]:
        """Limits that scores are defined at."""
        return tuple(self.dynamic["plan"])

    def raw_score(self, worst: float, limit: float, fidelity: str) -> float:
        """log(F_DP/F) / log(F_DP/F_all), not clipped."""
        return log(self.dynamic[fidelity][limit] / worst) / self.gap(limit, fidelity)

    def score(self, worst: float, limit: float, fidelity: str) -> float:
        """0: dynamic programming at the same limit; 1: all layers; −1 … 1.5."""
        return min(max(self.raw_score(worst, limit, fidelity), LOWEST_SCORE), HIGHEST_SCORE)

    def highest(self, limit: float) -> float:
        """The most that a score may be: nothing is known to be better than all layers."""
        return HIGHEST_SCORE

    def gap(self, limit: float, fidelity: str) -> float:
        """log(F_DP/F_all), at least the smallest gap that makes a benchmark."""
        return max(self._log_gap(limit, fidelity), SMALLEST_GAP)

    def is_sound(self, limit: float, fidelity: str = "plan") -> bool:
        """Whether the anchors lie far enough apart to compare agents."""
        return self._log_gap(limit, fidelity) >= SMALLEST_GAP

    def _log_gap(self, limit: float, fidelity: str) -> float:
        return log(self.dynamic[fidelity][limit] / self.bound[fidelity])

    def as_dict(self) -> dict:
        plain = asdict(self)
        plain["dynamic"] = {k: [[a, b] for a, b in v.items()] for k, v in self.dynamic.items()}
        return plain

    @classmethod
    def from_dict(cls, plain: dict) -> "LayerAnchors":
        dynamic = {k: {float(a): b for a, b in v} for k, v in plain["dynamic"].items()}
        return cls(**{**plain, "dynamic": dynamic})


@dataclass(frozen=True, eq=False)
class EnergyLayerCase:
    """Everything an energy-layer episode needs; nothing in it changes, workers share it.

    Copies are the case itself, a pickle is its recipe. ``regions`` are on the rows of ``traced``:
    voxels of the target, of organs with an objective, and of the normal-tissue ring.
    ``sketch_rows`` (n,) are those that the sketch plans on, with the spots of ``sketch_geometry``.
    ``kept`` holds the influence of all layers of a small arc, per fidelity. Counts (G, E) are of
    spots: "target", and "target-ORGAN" without those that cross the organ.
    """

    case_id: str
    key: str
    recipe: dict
    geometry: ArcGeometry
    counts: dict[str, np.ndarray]
    sequencing: LayerSequencing
    traced: TracedRows
    regions: dict[str, Region]
    objectives: tuple
    quantity: Quantity
    sketch_geometry: ArcGeometry
    sketch_rows: np.ndarray
    evaluation: PlanEvaluation
    prescription_gy: dict[str, float]
    volumes_cm3: dict[str, float]
    hu: np.ndarray  # (nz, ny, nx) int16 on the dose grid, for pictures
    kept: dict[str, KeptLayers] | None = None
    anchors: LayerAnchors | None = None

    # ------------------------------------------------------------------ the arc

    @property
    def settings(self) -> EnergyLayerRecipe:
        return EnergyLayerRecipe(**self.recipe)

    @property
    def coverage(self) -> PointCoverage:
        return self.geometry.coverage

    @property
    def wed_mm(self) -> np.ndarray:
        """Least and largest water-equivalent depth of the target, (G, 2)."""
        return self.geometry.wed_mm

    @property
    def energy_mev(self) -> np.ndarray:
        return self.geometry.energy_mev

    @property
    def range_mm(self) -> np.ndarray:
        return self.geometry.range_mm

    @property
    def n_spots(self) -> np.ndarray:
        return self.geometry.n_spots

    @property
    def angles_deg(self) -> np.ndarray:
        return self.geometry.arc.angles_deg

    @property
    def grid(self) -> Grid:
        return self.traced.grid

    @property
    def target(self) -> str:
        return next(iter(self.prescription_gy))

    @property
    def target_voxels_per_cm3(self) -> float:
        return 1.0 / self.grid.voxel_volume_cm3

    @property
    def limits(self) -> tuple[float, ...]:
        return self.anchors.budgets

    @property
    def nbytes(self) -> int:
        kept = sum(k.matrix.nbytes for k in (self.kept or {}).values())
        return kept + 2 * self.traced.z_in_mm.nbytes + 2 * self.geometry.meets.nbytes

    # ------------------------------------------------------------------ plans

    @cached_property
    def planners(self) -> dict[str, ArcPlanner]:
        """Robust optimization of chosen layers: "plan" on all rows, "sketch" on sampled ones."""
        settings, planners = self.settings, {}
        for fidelity in FIDELITIES:
            evaluations = (
                settings.evaluations if fidelity == "plan" else settings.sketch_evaluations
            )
            regions = self.regions if fidelity == "plan" else self.sketch_regions
            objectives = tuple(o for o in self.objectives if o.structure in regions)
            planners[fidelity] = ArcPlanner(
                self.source(fidelity), regions, objectives, self.quantity, evaluations
            )
        return planners

    def source(self, fidelity: str) -> LayerSource:
        if self.kept is not None:
            return self.kept[fidelity]
        return self.traced_layers(fidelity, self.settings.scenarios)

    def traced_layers(self, fidelity: str, scenarios) -> TracedLayers:
        """Influence on the fly for some scenarios."""
        if fidelity == "plan":
            return TracedLayers(self.geometry, self.traced, scenarios)
        rows = replace(
            self.traced.rows(self.sketch_rows), lateral_cutoff=self.settings.sketch_cutoff
        )
        return TracedLayers(self.sketch_geometry, rows, scenarios)

    def optimize(
        self, choice: np.ndarray, fidelity: str = "plan", evaluations: int | None = None
    ) -> ArcPlan:
        """The robust plan of a choice: layer indices (G, m), or a bool matrix (G, E)."""
        chosen = self.chosen_for(choice, fidelity)
        return self.planners[fidelity].optimize(chosen, evaluations=evaluations)

    def chosen_for(self, choice: np.ndarray, fidelity: str) -> np.ndarray:
        """A choice as a bool matrix; on the sketch's wider raster as the nearest valid layers."""
        chosen = self.geometry.chosen(choice)
        if fidelity == "plan":
            return chosen
        valid, moved = self.sketch_geometry.valid, np.zeros_like(chosen)
        for angle, layer in zip(*np.nonzero(chosen)):
            layers = np.flatnonzero(valid[angle])
            if len(layers):
                moved[angle, layers[np.abs(layers - layer).argmin()]] = True
        return moved

    @cached_property
    def sketch_regions(self) -> dict[str, Region]:
        """The regions on the sketch's rows; every structure keeps its total weight."""
        return regions_on_rows(self.regions, self.sketch_rows, self.traced.n_rows)

    def sketch_value(self, choice: np.ndarray) -> float:
        """F_w of a choice on the sketch; lower is better."""
        return self.optimize(choice, "sketch").worst

    def evaluation_of(self, fidelity: str) -> PlanEvaluation:
        """What reads metrics from a plan's dose, on all rows or on the sketch's."""
        return self.evaluation if fidelity == "plan" else self._sketch_evaluation

    @cached_property
    def _sketch_evaluation(self) -> PlanEvaluation:
        judged, regions = self.evaluation, self.sketch_regions
        structures = {
            name: s._replace(rows=regions[name].rows, relative_volume=regions[name].volume)
            for name, s in judged.structures.items()
        }
        return replace(
            judged, structures=structures, n_rows=len(self.sketch_rows), body=structures[BODY]
        )

    def metrics(self, dose_gy: np.ndarray) -> dict[str, dict[str, float]]:
        """Of a dose (n_rows,) in Gy (RBE) over the course."""
        return self.evaluation.evaluate(dose_gy)

    @cached_property
    def metrics_of_nothing(self) -> dict[str, dict[str, float]]:
        """Metrics of a patient without dose: what is reported before there is a plan."""
        return self.metrics(np.zeros(self.traced.n_rows, np.float32))

    @cached_property
    def objective_of_nothing(self) -> float:
        """The objective without dose."""
        total = 0.0
        for o in self.objectives:
            region = self.regions[o.structure]
            nothing = np.zeros(len(region.rows))
            total += o.weight * float(o.value(nothing, region.volume, region.distance_mm))
        return total

    @cached_property
    def quality(self) -> ClinicalQuality:
        return ClinicalQuality.from_dict(self.anchors.quality)

    def with_anchors(self, anchors: LayerAnchors) -> "EnergyLayerCase":
        """The finished case: anchors in, and the goals' metrics among those that are read."""
        goals = ClinicalQuality.from_dict(anchors.quality).scorecard.goals
        evaluation = replace(self.evaluation, metrics=metrics_of(goals))
        return replace(self, anchors=anchors, evaluation=evaluation)

    def __copy__(self) -> "EnergyLayerCase":
        return self

    def __deepcopy__(self, memo: dict) -> "EnergyLayerCase":
        return self

    def __reduce__(self):
        return _recalled, (self.recipe, self.key)

    # ------------------------------------------------------------------ to and from the store

    def as_entry(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Plain description and arrays, for the store."""
        g, s = self.geometry, self.sequencing
        arrays = {
            **{name: getattr(g, name) for name in _RASTER},
            **{f"sketch.{name}": getattr(self.sketch_geometry, name) for name in _RASTER},
            "layers": g.layers, "range_mm": g.range_mm, "wed_mm": g.wed_mm,
            "depth_mm": g.coverage.depth_mm,
            "half_width_mm": g.coverage.half_width_mm, "switch_s": s.switch_s,
            "beam_on_s": s.beam_on_s, "gantry_s": s.gantry_s, "voxels": self.traced.voxels,
            "z_in_mm": self.traced.z_in_mm, "z_out_mm": self.traced.z_out_mm,
            "sketch_rows": self.sketch_rows, "hu": self.hu,
        }  # fmt: skip
        arrays |= {f"counts.{name}": matrix for name, matrix in self.counts.items()}
        for i, region in enumerate(self.regions.values()):
            arrays[f"region{i}.rows"], arrays[f"region{i}.volume"] = region.rows, region.volume
            if region.distance_mm is not None:
                arrays[f"region{i}.distance_mm"] = region.distance_mm
        for name, kept in (self.kept or {}).items():
            arrays |= {f"kept.{name}.{f}": getattr(kept.matrix, f) for f in _MATRIX}
            arrays[f"kept.{name}.block"] = kept.block
        description = {
            "case_id": self.case_id, "key": self.key, "recipe": self.recipe,
            "structures": list(g.structures), "beams": [asdict(b) for b in g.beams],
            "grid": asdict(self.grid), "lateral_cutoff": self.traced.lateral_cutoff,
            "layers_per_angle": s.layers_per_angle, "counts": list(self.counts),
            "regions": list(self.regions),
            "objectives": [[type(o).__name__, asdict(o)] for o in self.objectives],
            "quantity": quantity_entry(self.quantity), "judged": list(self.evaluation.structures),
            "prescription_gy": self.prescription_gy, "volumes_cm3": self.volumes_cm3,
            "kept": list(self.kept or {}), "anchors": self.anchors.as_dict(),
        }  # fmt: skip
        return description, arrays

    @classmethod
    def from_entry(cls, description: dict, arrays: dict[str, np.ndarray]) -> "EnergyLayerCase":
        """A case whose arrays are the store's own, mapped read-only."""
        d, a = description, arrays
        settings, grid = EnergyLayerRecipe(**d["recipe"]), Grid(**d["grid"])
        machine = load_machine(settings.machine)
        geometry = _stored_geometry(d, a, machine, settings.arc, settings.arc_settings, "")
        sketch = _stored_geometry(
            d, a, machine, settings.arc, settings.sketch_settings, "sketch."
        )
        regions = {
            name: stored_region(
                a[f"region{i}.rows"], a[f"region{i}.volume"], a.get(f"region{i}.distance_mm")
            )
            for i, name in enumerate(d["regions"])
        }
        counts = {name: a[f"counts.{name}"] for name in d["counts"]}
        traced = TracedRows(
            machine, geometry.beams, grid, a["voxels"], a["z_in_mm"], a["z_out_mm"],
            d["lateral_cutoff"], biology_of(settings),
        )  # fmt: skip
        evaluation = judged_rows(
            regions, d["judged"], len(a["voxels"]), d["volumes_cm3"], d["prescription_gy"]
        )
        case = cls(
            case_id=d["case_id"], key=d["key"], recipe=d["recipe"], geometry=geometry,
            counts=counts, traced=traced, regions=regions,
            sequencing=LayerSequencing(
                a["switch_s"], a["beam_on_s"], a["gantry_s"], counts["target"] > 0,
                d["layers_per_angle"],
            ),
            objectives=tuple(getattr(objective_kinds, k)(**v) for k, v in d["objectives"]),
            quantity=quantity_from_entry(d["quantity"]), sketch_geometry=sketch,
            sketch_rows=a["sketch_rows"],
            evaluation=evaluation, prescription_gy=d["prescription_gy"],
            volumes_cm3=d["volumes_cm3"], hu=a["hu"],
            kept=_stored_layers(d, a, {"plan": geometry, "sketch": sketch}, traced),
        )  # fmt: skip
        return case.with_anchors(LayerAnchors.from_dict(d["anchors"]))


def regions_on_rows(
    regions: Mapping[str, Region], rows: np.ndarray, n_rows: int
) -> dict[str, Region]:
    """Regions on some rows (n,), ascending; what a structure keeps counts for all of it."""
    place = np.full(n_rows, -1, np.int64)
    place[rows] = np.arange(len(rows))
    found = {}
    for name, region in regions.items():
        kept = place[region.rows] >= 0
        if kept.any():
            distance = None if region.distance_mm is None else region.distance_mm[kept]
            found[name] = Region(place[region.rows[kept]], region.volume[kept], distance)
    return found


def _stored_geometry(
    d: dict, a: dict, machine, arc: Arc, settings: ArcSettings, raster: str
) -> ArcGeometry:
    beams = tuple(Beam(**{**b, "isocenter_mm": tuple(b["isocenter_mm"])}) for b in d["beams"])
    return ArcGeometry(
        machine, arc, settings, beams, a["layers"], a["range_mm"], tuple(d["structures"]),
        a[f"{raster}u_mm"], a[f"{raster}v_mm"], a[f"{raster}meets"], a["wed_mm"],
        PointCoverage(a["depth_mm"], a["range_mm"].astype(np.float32), a["half_width_mm"]),
    )  # fmt: skip


def _stored_layers(d: dict, a: dict, geometry: dict, traced: TracedRows) -> dict | None:
    if not d["kept"]:
        return None
    kept = {}
    for name in d["kept"]:
        matrix = InfluenceMatrix(traced.grid, **{f: a[f"kept.{name}.{f}"] for f in _MATRIX})
        n_rows = traced.n_rows if name == "plan" else len(a["sketch_rows"])
        n_spots = geometry[name].n_spots
        kept[name] = KeptLayers(matrix, a[f"kept.{name}.block"], n_spots, n_rows)
    return kept


def _recalled(recipe: dict, key: str) -> EnergyLayerCase:
    from ptenv.cases.library import recalled_case  # it imports this module

    return recalled_case(recipe, key, EnergyLayerRecipe.__name__)
