"""What a network sees and learns from of one arc."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from engine.geometry.arc import ArcGeometry
from engine.optimization.layer_sequencing import LayerSequencing

FULL_DEPTH_MM = 300.0  # a water-equivalent depth of 1 in the network's eyes
POINTS = 200  # target points of an example
DEPTH_STEP_MM = 1.0  # of the depth doses


@dataclass(frozen=True, eq=False)
class ArcExample:
    """Arrays of one arc, float32 but for ``valid``; G angles, E layers, P target points.

    ``target`` and ``spared`` (G, E) are spot counts by the largest of ``target``, all of them and
    those that spare the organ; ``wed`` (G,) the largest depth of the target by 300 mm.
    """

    target: np.ndarray
    spared: np.ndarray
    wed: np.ndarray
    valid: np.ndarray
    switch_s: np.ndarray  # (E, E)
    beam_on_s: np.ndarray  # (G, E)
    gantry_s: np.ndarray  # (G,)
    depth_mm: np.ndarray  # (G, P)
    range_mm: np.ndarray  # (E,)
    half_width_mm: np.ndarray  # (E,) of the Bragg peaks
    depth_dose: np.ndarray  # (E, n) in water, 1 mm apart, peaks 1

    @classmethod
    def of(
        cls, geometry: ArcGeometry, counts: dict[str, np.ndarray], sequencing: LayerSequencing,
        spared: str = "target-Brainstem",
    ) -> "ArcExample":  # fmt: skip
        """From an arc's matrices, as cases have them."""
        if spared not in counts:
            raise ValueError(f"spared={spared!r} is no spot-count matrix of {list(counts)}.")
        top = max(float(counts["target"].max()), 1.0)
        depth_mm = geometry.coverage.depth_mm
        every = max(1, depth_mm.shape[1] // POINTS)
        arrays = (
            counts["target"] / top, counts[spared] / top,
            np.nan_to_num(geometry.wed_mm[:, 1]) / FULL_DEPTH_MM, sequencing.valid,
            sequencing.switch_s, sequencing.beam_on_s, sequencing.gantry_s,
            depth_mm[:, ::every][:, :POINTS], geometry.coverage.range_mm,
            geometry.coverage.half_width_mm, _depth_dose(geometry),
        )  # fmt: skip
        return cls(*(np.asarray(a, bool if a is sequencing.valid else np.float32) for a in arrays))

    @classmethod
    def of_case(cls, case, spared: str = "target-Brainstem") -> "ArcExample":
        return cls.of(case.geometry, case.counts, case.sequencing, spared)

    @property
    def shape(self) -> tuple[int, int]:
        return self.target.shape


def _depth_dose(geometry: ArcGeometry) -> np.ndarray:
    """Depth doses (E, n) of the arc's layers in water, by their peaks, to 30 cm and a bit."""
    machine = geometry.machine
    dose = machine.depth_dose_mev_cm2_g[geometry.layers]
    known = machine.depth_step_mm * np.arange(dose.shape[1]) + _shifted(geometry)
    wanted = np.arange(0.0, FULL_DEPTH_MM + 50.0, DEPTH_STEP_MM)
    return np.stack([np.interp(wanted, known, d / d.max(), right=0.0) for d in dose])


def _shifted(geometry: ArcGeometry) -> float:
    """Depth in mm at which a range shifter lets the beam begin, 0 or less."""
    return float(geometry.range_mm[0] - geometry.machine.range_mm[geometry.layers[0]])


Batch = dict[str, torch.Tensor]


def collated(examples: Sequence[ArcExample]) -> Batch:
    """A batch of arcs of one size; points are repeated where arcs have fewer than others."""
    shapes = {e.shape for e in examples}
    if len(shapes) != 1:
        raise ValueError(f"arcs have sizes {sorted(shapes)}; a batch holds one size.")
    most = max(e.depth_mm.shape[1] for e in examples)
    batch = {}
    for f in fields(ArcExample):
        arrays = [getattr(e, f.name) for e in examples]
        if f.name == "depth_mm":
            arrays = [a[:, np.arange(most) % a.shape[1]] for a in arrays]
        batch[f.name] = torch.from_numpy(np.stack(arrays))
    return batch
