"""Interactive dose shaping: change the dose here, keep it everywhere else.

Dose modification and recovery after Ziegenhein, Kamerling, Oelfke, Phys. Med. Biol. 61 (2016)
2427. A modification adds a patch of amplitudes to every beam such that one voxel gets the wanted
dose; recovery then goes from the farthest voxels inwards and undoes, with other amplitudes, what
the patch has spoilt. Amplitudes never become negative.

Printed otherwise in the paper's appendix: a patch is scaled by the change of dose that it makes,
(d_t − d_0)/δd, which is what makes a linear dose meet d_t.
"""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from engine.optimization import _shaping_kernels as kernels
from engine.optimization.shaping_model import Projection, ShapedDose

HALF = np.log(2.0)  # exp(−µ · mean path) = 0.5, equation 3
SHARES = np.array([0.0, 0.125, 0.25, 0.5, 0.75, 1.0], np.float32)  # of a recovery patch
NEARLY = 0.1  # of what a wish missed at first: small wishes are carried out, too
NEGLIGIBLE = 1e-5  # of the prescription: rounding spoils nothing
CLIPPINGS = 12  # tries to make up for amplitudes that met zero


@dataclass(frozen=True)
class Recovery:
    """How a request is carried out; shares are of the prescription.

    ``n_steps`` recovery patches at most, after ``n_modifications`` patches on the requested
    voxels. A row is spoilt when it leaves its ``floor`` … ``ceiling`` (of the shaper) and has moved
    by more than ``slack`` for the worse. ``compromise`` is how much of its change an amplitude
    keeps in recovery where it points right at the request (K = 1): 0 never touches those, 1 does
    not know of the conflict. Patches on the request end ``within`` of it, or within a tenth of
    what was missing; twice that counts as met. ``guarded`` shortens recovery
    patches, or leaves them out, where they would spoil more than they mend (sum of squares over
    the rows); the paper's always bring their voxel back whole.
    """

    n_steps: int = 25
    n_modifications: int = 8
    slack: float = 0.01
    compromise: float = 0.2
    within: float = 0.005
    guarded: bool = False

    def __post_init__(self):
        for name, least in (("n_steps", 0), ("n_modifications", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name}={value!r} must be a whole number, {least} or more.")
        for name in ("slack", "compromise", "within"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} must lie in 0 … 1.")


@dataclass(frozen=True, eq=False)
class ShapedPlan:
    """Weights (n_amplitudes,) float32 and the dose (n_rows,) float32 that they make, Gy of one
    fraction."""

    weights: np.ndarray
    dose: np.ndarray


@dataclass(frozen=True, eq=False)
class Wish:
    """Rows (n,) whose dose should not exceed (``lower``), or not fall below, ``dose`` (n,) Gy of
    one fraction."""

    rows: np.ndarray
    dose: np.ndarray
    lower: bool

    def __post_init__(self):
        rows = np.atleast_1d(np.asarray(self.rows))
        dose = np.broadcast_to(np.asarray(self.dose, np.float32), rows.shape)
        if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "ui":
            raise ValueError("rows of a wish must be a list of one row index or more.")
        if not np.all(np.isfinite(dose)) or dose.min() < 0.0:
            raise ValueError(
                f"dose={dose.min():g} … {dose.max():g} Gy of a wish must be finite and not "
                "negative: no fluence takes dose away."
            )
        object.__setattr__(self, "rows", rows.astype(np.int64))
        object.__setattr__(self, "dose", dose)

    def missing(self, dose: np.ndarray) -> np.ndarray:
        """How far each wanted row is from its wish, (n,) Gy, 0 or more."""
        off = dose[self.rows] - self.dose
        return np.maximum(off if self.lower else -off, 0.0)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The plan after a request. ``modified`` and ``recovered`` are the rows that got a patch, in
    their order; ``missing_gy`` is the largest distance from the wish that is left, ``touched`` the
    matrix entries that were read, ``is_met`` whether the wish is fulfilled."""

    plan: ShapedPlan
    modified: tuple[int, ...]
    recovered: tuple[int, ...]
    missing_gy: float
    touched: int
    is_met: bool


@dataclass(frozen=True, eq=False)
class Shaper:
    """Carries out wishes on a plan.

    ``points_mm`` (n_rows, 3) place the rows. ``floor`` and ``ceiling`` (n_rows,) Gy of one fraction
    are what every row should get at least and at most; −inf and 0 stand for no wish, so that a
    row without a ceiling must not gain at all. ``prescription_gy`` is of one fraction, the highest
    where there are several.
    """

    model: ShapedDose
    points_mm: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    prescription_gy: float
    recovery: Recovery = Recovery()

    def plan(self, weights: np.ndarray) -> ShapedPlan:
        weights = np.asarray(weights, np.float32)
        return ShapedPlan(weights, self.model.dose(weights))

    def apply(self, plan: ShapedPlan, wish: Wish) -> Outcome:
        """Modify the dose in the wanted rows and recover it elsewhere; ``plan`` stays as it is."""
        if wish.rows.min() < 0 or wish.rows.max() >= self.model.n_rows:
            raise ValueError(
                f"rows {wish.rows.min()} … {wish.rows.max()} of the wish must lie in 0 … "
                f"{self.model.n_rows - 1}."
            )
        work = _Work(self, plan, wish)
        work.modify()
        work.recover()
        return work.outcome()

    def weights_of(self, projection: Projection, lower: bool) -> np.ndarray:
        """A = K exp(−µ TPI) of the projected amplitudes (n,), equations 2 and 3.

        Lowering looks at the targets on an amplitude's way, raising at the organs.
        """
        path = self.model.path(organs=not lower)[projection.amplitudes]
        beam = self.model.beam_of[projection.amplitudes]
        k_sum = np.bincount(beam, projection.lateral, self.model.n_beams)
        seen = k_sum > 0
        by_beam = np.bincount(beam, projection.lateral * path, self.model.n_beams)[seen]
        mean = float((by_beam / k_sum[seen]).mean()) if seen.any() else 0.0
        if not mean > 0:
            return projection.lateral
        return projection.lateral * np.exp(-HALF * path / mean)


class _Work:
    """One request under way: copies that patches are added to."""

    def __init__(self, shaper: Shaper, plan: ShapedPlan, wish: Wish):
        self.shaper, self.model, self.wish = shaper, shaper.model, wish
        self.weights, self.dose = plan.weights.copy(), plan.dose.copy()
        self.modified: list[int] = []
        self.recovered: list[int] = []
        self.touched = 0
        tolerance, level = shaper.recovery, shaper.prescription_gy
        slack = np.float32(level * tolerance.slack)
        self.low = np.minimum(plan.dose - slack, shaper.floor).astype(np.float32)
        self.high = np.maximum(plan.dose + slack, shaper.ceiling).astype(np.float32)
        self.aim = plan.dose.copy()  # what recovery brings a row back to
        self._aim_for(wish)
        missing = float(wish.missing(plan.dose).max())
        self.within = min(tolerance.within * level, NEARLY * missing)
        self.is_wish = np.zeros(len(self.dose), bool)
        self.is_wish[wish.rows] = True
        self.forgiven = np.where(self.is_wish, self.within, NEGLIGIBLE * level).astype(np.float32)
        self.hopeless = np.zeros(len(self.dose), bool)
        self.conflict = np.zeros(self.model.n_amplitudes, np.float32)

    def _aim_for(self, wish: Wish) -> None:
        self.aim[wish.rows] = wish.dose
        if wish.lower:
            self.high[wish.rows], self.low[wish.rows] = wish.dose, -np.inf
        else:
            self.low[wish.rows] = wish.dose
            self.high[wish.rows] = np.maximum(self.high[wish.rows], wish.dose)

    def modify(self) -> None:
        """Patches on the requested rows, the worst first, until the wish is met."""
        for _ in range(self.shaper.recovery.n_modifications):
            missing = self.wish.missing(self.dose)
            worst = int(np.argmax(missing))
            if missing[worst] <= self.within or missing[worst] == 0.0:
                break
            row = int(self.wish.rows[worst])
            seen = self.model.projection(row)
            np.maximum.at(self.conflict, seen.amplitudes, seen.lateral.astype(np.float32))
            moved = self._patch(row, float(self.wish.dose[worst]), seen, None)
            self.modified.append(row)
            if not moved:
                break

    def recover(self) -> None:
        """Patches on spoilt rows, from the farthest inwards (close-in order)."""
        n_steps = self.shaper.recovery.n_steps
        if n_steps == 0 or not self.modified:
            return
        distance = self._distance_mm()
        keep = 1.0 - (1.0 - self.shaper.recovery.compromise) * self.conflict
        for step in range(n_steps):
            row = self._next(distance, 1.0 - (step + 1.0) / n_steps)
            if row is None:
                break
            if self._patch(row, float(self.aim[row]), self.model.projection(row), keep):
                self.recovered.append(row)

    def _distance_mm(self) -> np.ndarray:
        """Distance of every row from the nearest modified one, (n_rows,)."""
        nearest = np.full(self.model.n_rows, np.inf, np.float32)
        for row in dict.fromkeys(self.modified):
            off = self.shaper.points_mm - self.shaper.points_mm[row]
            nearest = np.minimum(nearest, np.einsum("rc,rc->r", off, off))
        return np.sqrt(nearest)

    def _next(self, distance: np.ndarray, share: float) -> int | None:
        """The worst of the spoilt rows that lie beyond a share of them, seen by distance.

        The request itself is subject to recovery too: its rows are never too near.
        """
        off = np.empty_like(self.dose)
        kernels.outside(self.dose, self.low, self.high, off)
        spoilt = np.flatnonzero((off > self.forgiven) & ~self.hopeless)
        if not len(spoilt):
            return None
        far, kth = distance[spoilt], int(share * (len(spoilt) - 1))
        front = np.partition(far, kth)[kth]
        outside = spoilt[(far >= front) | self.is_wish[spoilt]]
        return int(outside[np.argmax(off[outside])])

    def _patch(self, row: int, goal: float, seen: Projection, keep: np.ndarray | None) -> bool:
        """Bring one row to a dose; whether any amplitude moved.

        A guarded recovery patch (``keep`` given) is shortened, or left out, where it would spoil
        more than it mends.
        """
        needed = goal - float(self.dose[row])
        lower = needed < 0
        shape = self.shaper.weights_of(seen, lower) * self.model.unit[seen.amplitudes]
        if keep is not None:
            shape = shape * keep[seen.amplitudes]
        change = scaled_patch(shape, seen.gy, self.weights[seen.amplitudes], needed)
        moved = np.flatnonzero(change)
        if not len(moved):
            self.hopeless[row] = True
            return False
        amplitudes, change = seen.amplitudes[moved], change[moved].astype(np.float32)
        effect = np.zeros_like(self.dose)
        self.touched += self.model.add(effect, amplitudes, change)
        guarded = keep is not None and self.shaper.recovery.guarded
        share = self._best_share(effect) if guarded else np.float32(1.0)
        if share == 0.0:
            self.hopeless[row] = True
            return False
        self.dose += share * effect
        after = self.weights[amplitudes] + share * change
        self.weights[amplitudes] = np.maximum(after, np.float32(0.0))
        return True

    def _best_share(self, effect: np.ndarray) -> np.float32:
        """The share of a patch that leaves the least outside the bands."""
        total = np.empty(len(SHARES))
        kernels.harm(self.dose, effect, SHARES, self.low, self.high, total)
        return SHARES[np.argmin(total)]

    def outcome(self) -> Outcome:
        """The plan with its dose computed anew, so that rounding does not pile up."""
        plan = self.shaper.plan(self.weights)
        missing = float(self.wish.missing(plan.dose).max())
        return Outcome(
            plan, tuple(self.modified), tuple(self.recovered), missing,
            self.touched + self.model.n_entries,
            missing <= max(2.0 * self.within, NEGLIGIBLE * self.shaper.prescription_gy),
        )  # fmt: skip


def scaled_patch(
    shape: np.ndarray, gy: np.ndarray, weights: np.ndarray, needed: float
) -> np.ndarray:
    """Change (n,) of amplitudes in proportion to ``shape`` that changes a voxel by ``needed`` Gy.

    ``gy`` (n,) is the voxel's dose per unit; ``weights`` (n,) stay 0 or more: what meets zero stops
    there and the others make up for it, as far as there is fluence left.
    """
    change, shape = np.zeros(len(shape)), np.asarray(shape, np.float64)
    sign, left = np.sign(needed), abs(needed)
    free = shape > 0
    for _ in range(CLIPPINGS):
        if sign < 0:
            free &= weights + change > 0
        slope = float(np.sum(shape[free] * gy[free]))
        if not slope > 0 or left <= 1e-7 * abs(needed):
            break
        step = np.where(free, sign * (left / slope) * shape, 0.0)
        if sign < 0:
            step = np.maximum(step, -(weights + change))
        change += step
        left -= abs(float(np.sum(step * gy)))
    return change
