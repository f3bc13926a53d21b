"""The interface that every dose engine declares."""

from collections.abc import Sequence
from typing import Literal, Protocol, Self

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient


class DoseEngine(Protocol):
    """Dose of a plan, or of each of its spots, on a dose grid of its own.

    ``scores`` states the medium. Quantities are named: "dose" (physical Gy) at least; an engine
    refuses the names it does not know.
    """

    scores: Literal["dose to water", "dose to medium"]

    def dose(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        beam: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Each quantity of one fraction (nz, ny, nx) float32, summed over all spots or a beam's."""

    def influence(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        voxels: np.ndarray | None = None,
    ) -> InfluenceMatrix:
        """Dose per particle of each spot in ``voxels``: ascending flat indices, or the body."""

    def like(self, medium: KnownMedium, nuclear: bool, scored: str) -> Self:
        """The same engine in a known medium, with nuclear interactions on or off, scoring
        ``scored`` if it can: ask ``scores`` which it does."""
