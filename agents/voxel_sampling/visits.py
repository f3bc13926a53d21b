"""A patient's turn in training: voxels drawn by the network, and the plan that they led to.

Masks are drawn ``ahead`` plans before they are learned from, so that processes plan while the
network trains; they are then that many steps old. Everything random follows from the seed and the
number of the turn: a run that goes on from a checkpoint repeats what an unbroken one does.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.plans import Planner, PlanOrder, SamplingPlan
from engine.optimization.voxel_sampling import even_thresholds

Chances = Callable[[CaseVolume], np.ndarray]  # (n,) of a volume's rows to be selected
ORDER, DRAW, PLAN, LABEL, HELD_OUT = range(5)  # streams of randomness
SECONDS = (None, "sample", "mode")


@dataclass(frozen=True, eq=False)
class Draw:
    """Voxels drawn for a turn, with the chances (n,) that they had; one mask (n,) or two."""

    step: int
    case: int
    chances: np.ndarray  # float32
    selected: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Visit:
    """One patient and what became of the draws: what a loss learns from."""

    step: int
    volume: CaseVolume
    chances: np.ndarray
    selected: tuple[np.ndarray, ...]  # bool (n,), as many as plans
    plans: tuple[SamplingPlan, ...]
    seed: int = 0

    def rng(self) -> np.random.Generator:
        """For what a loss draws."""
        return np.random.default_rng([self.seed, LABEL, self.step])

    def figures(self) -> dict[str, float]:
        """Of the first draw and its plan."""
        volume, selected, plan = self.volume, self.selected[0], self.plans[0]
        at = volume.in_target
        cold = plan.dose_gy[volume.rows][at] < 0.985 * volume.prescription_gy[at]
        return {
            "objective": plan.objective,
            "d95_high_percent": next(iter(plan.d95_percent.values())),
            "cold_percent": 100.0 * float(cold.mean()),
            "selected_percent": 100.0 * int(selected.sum()) / volume.n_plannable,
            "selected_target_percent": 100.0 * float(selected[at].mean()),
            "selected_organ_percent": 100.0 * float(selected[~at].mean()) if (~at).any() else 0.0,
            "plan_s": sum(p.seconds for p in self.plans),
        }


@dataclass(frozen=True)
class Turns:
    """How often patients have their turn, and how they are planned.

    Every patient ``per_patient`` times in a row, patients in a new order every epoch.
    ``ring_rate`` of normal tissue's rows join every plan; None: plans have no objectives there.
    ``even``: voxels are drawn with their chances but spread evenly (``even_thresholds``); without,
    independently of each other as in Quarz 2024.
    """

    n_epochs: int = 50
    per_patient: int = 5
    ahead: int = 1
    evaluations: int = 100
    ring_rate: float | None = None
    even: bool = False

    def __post_init__(self):
        for name, least in (("n_epochs", 1), ("per_patient", 1), ("ahead", 0), ("evaluations", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.ring_rate is not None and not 0.0 <= self.ring_rate <= 1.0:
            raise ValueError(f"ring_rate={self.ring_rate} must lie in 0 … 1, or be null.")

    def drawn(
        self, volume: CaseVolume, chances: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Voxels (n,) bool with their chances."""
        if self.even:
            return even_thresholds(volume.places, rng) < chances
        return rng.random(len(chances)) < chances

    def per_epoch(self, n_patients: int) -> int:
        return self.per_patient * n_patients

    def patient(self, step: int, n_patients: int, seed: int) -> int:
        """Whose turn it is."""
        epoch, place = divmod(step, self.per_epoch(n_patients))
        order = np.random.default_rng([seed, ORDER, epoch]).permutation(n_patients)
        return int(order[place // self.per_patient])

    def order(
        self, volume: CaseVolume, selected: np.ndarray, seed: Sequence[int]
    ) -> PlanOrder:
        """The plan of selected voxels (n,)."""
        rng = np.random.default_rng([*seed, PLAN])
        mask = volume.mask(selected, self.ring_rate, rng)
        return PlanOrder.of(
            volume.name, mask, int(rng.integers(2**31)), evaluations=self.evaluations,
            with_ring=self.ring_rate is not None,
        )  # fmt: skip


@dataclass
class Visits:
    """The turns of a run from ``step`` on, in their order; ``second`` is the mask beside the drawn
    one: None, another "sample" or the "mode".

    ``waiting`` are draws whose plans are due: the state of a run beside the network's.
    """

    volumes: Sequence[CaseVolume]
    chances: Chances
    planner: Planner
    turns: Turns
    seed: int
    second: str | None = None
    step: int = 0
    waiting: deque[Draw] = field(default_factory=deque)
    _numbers: deque[tuple[int, ...]] = field(default_factory=deque, init=False)

    def __post_init__(self):
        if self.second not in SECONDS:
            raise ValueError(f"second={self.second!r} is unknown; choose from {SECONDS}.")
        for draw in self.waiting:
            self._order(draw)

    @property
    def total(self) -> int:
        return self.turns.n_epochs * self.turns.per_epoch(len(self.volumes))

    def __len__(self) -> int:
        return self.total - self.step

    def __iter__(self) -> Iterator[Visit]:
        while self.step < self.total:
            while len(self.waiting) <= self.turns.ahead and self._next < self.total:
                self.waiting.append(self._draw(self._next))
                self._order(self.waiting[-1])
            plans = tuple(self.planner.plan(number) for number in self._numbers.popleft())
            draw = self.waiting.popleft()
            self.step += 1
            yield Visit(
                draw.step, self.volumes[draw.case], draw.chances, draw.selected, plans, self.seed
            )

    @property
    def _next(self) -> int:
        return self.step + len(self.waiting)

    def _draw(self, step: int) -> Draw:
        case = self.turns.patient(step, len(self.volumes), self.seed)
        chances = self.chances(self.volumes[case])
        rng = np.random.default_rng([self.seed, DRAW, step])
        volume = self.volumes[case]
        selected = [self.turns.drawn(volume, chances, rng)]
        if self.second == "sample":
            selected.append(self.turns.drawn(volume, chances, rng))
        elif self.second == "mode":
            selected.append(chances > 0.5)
        return Draw(step, case, chances, tuple(selected))

    def _order(self, draw: Draw) -> None:
        volume = self.volumes[draw.case]
        self._numbers.append(
            tuple(
                self.planner.order(self.turns.order(volume, s, [self.seed, draw.step, i]))
                for i, s in enumerate(draw.selected)
            )
        )

    # ------------------------------------------------------------------ to and from checkpoints

    def state(self) -> dict:
        """The next turn, and what was drawn for it and those after it; masks as bits."""
        waiting = [
            {"step": d.step, "case": d.case, "chances": d.chances.copy(),
             "selected": [np.packbits(s) for s in d.selected]}
            for d in self.waiting
        ]  # fmt: skip
        return {"step": self.step, "waiting": waiting}


def drawn_before(state: dict) -> deque[Draw]:
    """The draws of ``Visits.state``."""
    return deque(
        Draw(
            d["step"], d["case"], d["chances"],
            tuple(np.unpackbits(s, count=len(d["chances"])).astype(bool) for s in d["selected"]),
        )
        for d in state["waiting"]
    )  # fmt: skip


def held_out_visits(
    volumes: Sequence[CaseVolume], chances: Chances, planner: Planner, turns: Turns, seed: int
) -> list[Visit]:
    """One sampling of each patient, with the same seed always."""
    drawn = []
    for i, volume in enumerate(volumes):
        p = chances(volume)
        selected = turns.drawn(volume, p, np.random.default_rng([seed, HELD_OUT, i]))
        number = planner.order(turns.order(volume, selected, [seed, HELD_OUT, i]))
        drawn.append((volume, p, selected, number))
    return [Visit(0, v, p, (s,), (planner.plan(number),), seed) for v, p, s, number in drawn]
