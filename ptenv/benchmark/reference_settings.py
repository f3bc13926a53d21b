"""How final plans are scored again, and what comes out of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Protocol

from ptenv.cases.digests import digest_of_content

FORMAT = 1  # of what a reference holds; a change of numbers anywhere behind it counts it up
YODA, PENCIL_BEAM, PHOTON_SVD = ENGINES = ("yoda", "pencil_beam", "photon_svd")
_BOUNDS = {
    "dose_grid_mm": (0.5, 20.0), "cutoff": (1e-6, 0.1), "depth_step_mm": (0.1, 2.5),
    "fokker_planck_step_mm": (0.1, 4.0), "reach_mm": (5.0, 200.0),
    "converged_evaluations": (1, 10**6),
}  # fmt: skip

Tell = Callable[[str], None]


def silent(text: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class ReferenceSettings:
    """Engine and grid of the reference; lengths in mm. Plain values: they stand in a suite.

    ``engine`` is "yoda" (protons), "pencil_beam" (ions) or "photon_svd" (photons). ``cutoff`` is
    what of a spot may be left out, as the engine counts it: a share of its largest entry (yoda),
    of its dose at every depth (pencil beam). ``scheme``, ``depth_step_mm`` and
    ``fokker_planck_step_mm`` are yoda's, ``reach_mm`` is the photons'. F* takes
    ``converged_evaluations`` on the reference's own matrix. Without ``keep_matrix`` every plan's
    dose is computed when it is asked for: for arcs whose layers together are too many.
    """

    engine: str
    dose_grid_mm: float
    cutoff: float = 1e-3
    scheme: str = "1+6+6+12"
    depth_step_mm: float = 1.0
    fokker_planck_step_mm: float = 2.0
    reach_mm: float = 100.0
    converged_evaluations: int = 600
    keep_matrix: bool = True

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise ValueError(
                f"engine={self.engine!r} is no reference engine; choose from {list(ENGINES)}."
            )
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not (
                isfinite(value) and low <= value <= high
            ):  # fmt: skip
                raise ValueError(f"{name}={value!r} of a reference must lie in {low:g} … {high:g}.")

    def key(self, case_key: str) -> str:
        """Key of a case's reference in the cache."""
        content = {"format": FORMAT, "kind": "reference", "case": case_key, **asdict(self)}
        return digest_of_content(content)


@dataclass(frozen=True)
class Judged:
    """A final plan by the reference.

    ``score`` and ``raw_score`` are None where there is none, and ``why_not`` then says why.
    ``objective`` is F of the case's own objectives (an arc's in its worst scenario), ``metrics``
    are of the nominal dose.
    """

    score: float | None
    raw_score: float | None
    objective: float
    metrics: dict[str, dict[str, float]]
    why_not: str | None = None


class ReferenceCase(Protocol):
    """What scores final plans of one case again: built once, then kept in the cache."""

    key: str
    case_key: str

    @property
    def nbytes(self) -> int:
        """Bytes of its influence matrices."""

    def anchors_dict(self) -> dict:
        """Plain values of the anchors, scored by the reference like everybody's plans."""

    def judge(self, state) -> Judged:
        """The final state of an episode."""


def refuse_other_case(reference: ReferenceCase, state) -> None:
    if state.case.key != reference.case_key:
        raise ValueError(
            f"state is of case {state.case.case_id} ({state.case.key}), this reference of the case "
            f"{reference.case_key}; ask for the reference of the state's own case."
        )
