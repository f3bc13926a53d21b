"""What nuclear interactions of protons leave in water, along depth and across it.

Products of non-elastic reactions, both protons of p–p scattering, and primaries scattered off
nuclei beyond 5° with their recoils run straight from where they are made, with the angles and
energies of ``engine.physics.nuclear``, and lose energy by their stopping power. What a ray leaves
at a depth lies on a ring. Kernels of one event, with lengths in shares of the residual range of
the proton that makes it, hardly change with its energy: they are built once, for energies each
10 MeV, and superposed along the beam. At every depth the energy within circles is then written as
Gaussians of fixed widths. Nothing is fitted to a Monte Carlo.

Secondary protons react in turn, their products stay on their way (as in
``engine.machine.commissioning``), and are turned once by elastic or p–p scattering, as scattered
primaries are by a second elastic scattering. Multiple scattering broadens rings by what it exceeds
the primaries' own. Alphas and recoils stay where they are made; neutrons and γ leave. Scattered
primaries are absorbed by non-elastic and p–p events, whose products are put on the beam's axis.
Not modelled: a second turn, reactions of deuterons, flight of alphas (a millimeter, which the
first centimeter of depth shows), range straggling other than the primaries'.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls

from engine.dose.yoda._secondaries_kernels import (
    depth_rays,
    ring_rays,
    superpose_circles,
    superpose_depth,
)
from engine.machine.commissioning import (
    core_variance_mm2,
    detour_factor,
    projected_range_mm,
)
from engine.physics.materials import I_WATER_EV, LIMITS_I_WATER_EV, water
from engine.physics.nuclear import (
    Secondaries,
    charged_share,
    elastic_secondaries,
    interactions_per_mm,
    non_elastic_secondaries,
    proton_proton_secondaries,
)
from engine.physics.stopping_power import csda_range_mm, energy_at_range, mass_stopping_power
from engine.physics.straggling import range_straggling_mm

STEP_MM = 0.5
LIMITS_MEV = (10.0, 250.0)
SIGMA_MM = (0.0, 1.5, 4.0, 9.0, 19.0, 40.0)
EVENT_MEV = np.arange(10.0, 251.0, 10.0)  # energies of the kernels
TABLE_STEP_MM = 0.02  # over residual range
DEPTH_CELLS, CIRCLE_CELLS = 200, 60  # of the kernels per range
CIRCLE_SHARE = np.geomspace(1e-3, 1.0, 49)  # radii of the kernels' circles over range
BACK_SHARE = 0.3  # of the residual range that kernels cover upstream
COARSE_CELLS = 80  # along depth, in which widths are found
RADII_MM = np.geomspace(1.0, 120.0, 16)  # of the circles that Gaussians are to match
SUM_WEIGHT = 1e3  # of the energy's conservation among them
BEYOND_MM = 30.0  # depths after the range
GROWTH_POWER = 1.1  # scattering power over residual range, as (pv)² of a range
TURN_MEV = np.concatenate([np.arange(7.0, 20.0, 2.0), np.arange(20.0, 251.0, 5.0)])
TURN_RAYS = 16  # per table of angles
EVENT_RAYS = 128  # of p–p and elastic events: each angle has a peak of its own
FEW_TURNS = 4  # of each of these
PROCESSES = ("non-elastic", "proton-proton", "nuclear-elastic")


@dataclass(frozen=True, eq=False)
class SecondaryDose:
    """What products of one energy's protons leave in water, per incident proton.

    Arrays run along water-equivalent depth s = step_mm · (0, 1, … n − 1); a cell from s1 to s2
    holds the difference of the cumulative ones. Component j is a Gaussian of ``sigma_mm[j]`` per
    axis, to be convolved with the unscattered primaries' own distribution at the depth of the
    dose. Read-only.
    """

    step_mm: float
    sigma_mm: np.ndarray  # (J,) mm of water
    cumulative_mev: np.ndarray  # (J, n) from the surface on
    proton_cumulative_mev: np.ndarray  # (n,) of that, by protons
    let_cumulative: np.ndarray  # (n,) MeV keV/µm: the protons' dose times their LET
    surviving: np.ndarray  # (n,) primaries without any interaction, of the mean range
    removal_per_mm: np.ndarray  # (301,) at 0, 1, … 300 MeV, all interactions


@dataclass(frozen=True, eq=False)
class _Losses:
    """Integrals over residual range of a ray that ends by some of its interactions."""

    integral: np.ndarray  # (n,) ∫ Σ dr of these
    tables: np.ndarray  # (2, n): ∫ S exp(integral), with what stays on the way, and ∫ S² of it


@dataclass(frozen=True, eq=False)
class _SlowingDown:
    """A proton's residual range from rest, steps of TABLE_STEP_MM, each (n,), and its losses."""

    energy_mev: np.ndarray
    range_mm: np.ndarray
    absorbed: np.ndarray  # ∫ Σ dr, non-elastic and p–p
    removed: np.ndarray  # the same with nuclear elastic
    secondary: tuple[_Losses, _Losses]  # with and without turns by elastic and p–p scattering
    scattered: tuple[_Losses, _Losses]  # with and without a second elastic scattering


@dataclass(frozen=True, eq=False)
class _EventKernels:
    """Of one event of each of the ``PROCESSES``, in shares of the interacting proton's energy.

    Cumulative along depth, from BACK_SHARE of the residual range upstream of the event.
    """

    depth: np.ndarray  # (3, n_energies, 3, n_edges): all rays, protons, protons × LET
    circles: np.ndarray  # (3, n_energies, n_circles, n_edges) all rays within circles
    local: np.ndarray  # (3, n_energies) what stays on the spot


def secondary_dose(
    energy_mev: float, energy_std_mev: float = 0.0, i_water_ev: float = I_WATER_EV
) -> SecondaryDose:
    """What products leave of protons of 10 to 250 MeV with a Gaussian spread of energy.

    The first call in a process builds the kernels, half a second; every other takes a few ms.
    """
    _refuse_outside("energy_mev", energy_mev, LIMITS_MEV, "the nuclear data end there")
    _refuse_outside("energy_std_mev", energy_std_mev, (0.0, 0.1 * energy_mev), "1 % is usual")
    _refuse_outside("i_water_ev", i_water_ev, LIMITS_I_WATER_EV, "75 and 78 eV are usual")
    return _secondary_dose(float(energy_mev), float(energy_std_mev), float(i_water_ev))


def _refuse_outside(name: str, value: float, limits: tuple[float, float], why: str) -> None:
    low, high = limits
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r} must lie in {low:g} … {high:g}; {why}.")


@lru_cache(maxsize=512)
def _secondary_dose(energy_mev: float, energy_std_mev: float, i_ev: float) -> SecondaryDose:
    material = water(i_ev)
    mean_mm = projected_range_mm(energy_mev, material)
    spread_mm = _range_spread_mm(energy_mev, energy_std_mev, i_ev)
    n = int(np.ceil((mean_mm + max(BEYOND_MM, 6.0 * spread_mm)) / STEP_MM))
    emitted = _emitted(mean_mm, detour_factor(energy_mev), STEP_MM, i_ev)
    kernels = _event_kernels(i_ev)
    cells = np.zeros((3, n))
    superpose_depth(
        *emitted.of_rays, kernels.depth, _zero(DEPTH_CELLS), DEPTH_CELLS, STEP_MM, cells
    )
    cells[0, : emitted.local.size] += emitted.local
    cells = gaussian_filter1d(cells, spread_mm / STEP_MM, mode="nearest")
    shares = _shares(mean_mm, detour_factor(energy_mev), i_ev)
    middle = (np.arange(n) + 0.5) * STEP_MM
    coarse = (np.arange(COARSE_CELLS) + 0.5) * mean_mm / COARSE_CELLS
    components = np.array([np.interp(middle, coarse, share) for share in shares]) * cells[0]
    depth_mm = STEP_MM * np.arange(n + 1)
    return SecondaryDose(
        STEP_MM, _read_only(np.array(SIGMA_MM)), _read_only(_cumulative(components)),
        _read_only(_cumulative(cells[1])), _read_only(_cumulative(cells[2])),
        _read_only(_surviving(mean_mm, depth_mm, detour_factor(energy_mev), i_ev)),
        _removal_per_mm(i_ev),
    )  # fmt: skip


def _range_spread_mm(energy_mev: float, energy_std_mev: float, i_ev: float) -> float:
    """As ``range_spread_mm`` of ``engine.machine.commissioning``, whose integral takes long."""
    stopping = mass_stopping_power(energy_mev, water(i_ev)) / 10.0
    straggling = np.exp(_log_straggling(i_ev)(np.log(energy_mev)))
    return float(np.hypot(straggling, energy_std_mev / stopping))


@lru_cache(maxsize=4)
def _log_straggling(i_ev: float) -> CubicSpline:
    """Logarithm of the range's straggling (mm) over that of the energy (MeV)."""
    energy = np.geomspace(*LIMITS_MEV, 20)
    return CubicSpline(np.log(energy), np.log(range_straggling_mm(energy, water(i_ev))))


def _cumulative(cells: np.ndarray) -> np.ndarray:
    zero = np.zeros((*cells.shape[:-1], 1))
    return np.concatenate([zero, np.cumsum(cells, axis=-1)], axis=-1)


def _read_only(values: np.ndarray) -> np.ndarray:
    values.setflags(write=False)
    return values


@lru_cache(maxsize=4)
def _removal_per_mm(i_ev: float) -> np.ndarray:
    energy = np.arange(301.0)
    return _read_only(sum(interactions_per_mm(energy, p, water(i_ev)) for p in PROCESSES))


def _surviving(mean_mm: float, depth_mm: np.ndarray, detour: float, i_ev: float) -> np.ndarray:
    table = _slowing_down(i_ev)
    residual = np.maximum(mean_mm - depth_mm, 0.0) / detour
    removed = np.interp(residual, table.range_mm, table.removed)
    return np.exp(removed - np.interp(mean_mm / detour, table.range_mm, table.removed))


@dataclass(frozen=True, eq=False)
class _Emitted:
    """Energy that interacting primaries hand over in cells along depth, (n_emitting,) each."""

    weights: np.ndarray  # (3, n_emitting) MeV per primary, by process
    reach_mm: np.ndarray
    lower: np.ndarray
    fraction: np.ndarray
    local: np.ndarray  # MeV on the spot

    @property
    def of_rays(self):
        return self.weights, self.reach_mm, self.lower, self.fraction


def _emitted(mean_mm: float, detour: float, step_mm: float, i_ev: float) -> _Emitted:
    """Interactions of protons of the mean range in cells of ``step_mm``, by their middles."""
    table, kernels = _slowing_down(i_ev), _event_kernels(i_ev)
    middle = (np.arange(int(np.ceil(mean_mm / step_mm))) + 0.5) * step_mm
    reach = mean_mm - middle[middle < mean_mm]
    path = np.append(reach, mean_mm) / detour
    energy = np.interp(path[:-1], table.range_mm, table.energy_mev)
    kept, unscattered = (
        np.exp(along[:-1] - along[-1])
        for along in (np.interp(path, table.range_mm, v) for v in (table.absorbed, table.removed))
    )
    rates = [interactions_per_mm(energy, p, water(i_ev)) for p in PROCESSES]
    weights = np.array(rates) * [kept, kept, unscattered] * energy * step_mm / detour
    position = (energy - EVENT_MEV[0]) / (EVENT_MEV[1] - EVENT_MEV[0])
    position = np.clip(position, 0.0, EVENT_MEV.size - 1.001)
    lower = position.astype(np.int64)
    local = sum(w * np.interp(energy, EVENT_MEV, k) for w, k in zip(weights, kernels.local))
    return _Emitted(weights, reach, lower, position - lower, local)


def _shares(mean_mm: float, detour: float, i_ev: float) -> np.ndarray:
    """Shares of the Gaussians (J, COARSE_CELLS) in cells from the surface to the mean range."""
    step = mean_mm / COARSE_CELLS
    emitted = _emitted(mean_mm, detour, step, i_ev)
    radii = np.append(RADII_MM, 1e6)
    within = np.zeros((radii.size, COARSE_CELLS))
    superpose_circles(
        *emitted.of_rays, _event_kernels(i_ev).circles, _zero(CIRCLE_CELLS), CIRCLE_CELLS, step,
        radii, *_circle_axis(), within,
    )  # fmt: skip
    within += emitted.local
    variance = 2.0 * np.maximum(np.array(SIGMA_MM), 1e-6) ** 2
    basis = -np.expm1(-(radii[:, None] ** 2) / variance)
    weight = np.append(np.ones(RADII_MM.size), SUM_WEIGHT)
    basis = basis * weight[:, None]
    found = np.array([nnls(basis, row / row[-1] * weight)[0] for row in within.T])
    return (found / found.sum(axis=1, keepdims=True)).T


@lru_cache(maxsize=4)
def _slowing_down(i_ev: float) -> _SlowingDown:
    material = water(i_ev)
    longest = float(csda_range_mm(LIMITS_MEV[1] + 1.0, material))
    r = TABLE_STEP_MM * np.arange(int(longest / TABLE_STEP_MM) + 2)
    energy = energy_at_range(r, material)
    stopping = mass_stopping_power(np.maximum(energy, 1e-4), material) / 10.0
    lost = np.diff(energy, prepend=0.0)
    let = lost * 0.5 * (stopping + np.concatenate([[0.0], stopping[:-1]]))
    rates = [interactions_per_mm(energy, p, material) for p in PROCESSES]
    products = rates[0] * energy * charged_share(energy)

    def losses(rate: np.ndarray, on_the_way: np.ndarray) -> _Losses:
        integral = _running(rate)
        tables = np.cumsum(np.array([lost, let]) * np.exp(integral), axis=1)
        tables[0] += _running(on_the_way * np.exp(integral))
        return _Losses(integral, tables)

    removal, nothing = sum(rates), np.zeros_like(r)
    secondary = losses(removal, products), losses(rates[0], products)
    scattered = losses(removal, nothing), losses(rates[0] + rates[1], nothing)
    absorbed = scattered[1].integral
    return _SlowingDown(energy, r, absorbed, _running(removal), secondary, scattered)


def _running(values: np.ndarray) -> np.ndarray:
    steps = 0.5 * TABLE_STEP_MM * (values[1:] + values[:-1])
    return np.concatenate([[0.0], np.cumsum(steps)])


def _circle_axis() -> tuple[float, float]:
    log = np.log(CIRCLE_SHARE)
    return float(log[0]), float(log[1] - log[0])


@lru_cache(maxsize=4)
def _event_kernels(i_ev: float) -> _EventKernels:
    n = EVENT_MEV.size
    depth = np.zeros((3, n, 3, 2 * DEPTH_CELLS + 1))
    circles = np.zeros((3, n, 2 * CIRCLE_CELLS + 1, CIRCLE_SHARE.size + 1))
    local = np.zeros((3, n))
    turns = _turns(("nuclear-elastic", "proton-proton"), i_ev)
    again = _turns(("nuclear-elastic",), i_ev)
    table = _slowing_down(i_ev)
    for i, energy in enumerate(EVENT_MEV):
        events = [
            _Event(energy, table, *_scattering(i_ev), depth[k, i], circles[k, i]) for k in range(3)
        ]
        protons, deuterons = (non_elastic_secondaries(energy, p) for p in ("proton", "deuteron"))
        elastic = elastic_secondaries(energy, n=EVENT_RAYS)
        collision = proton_proton_secondaries(energy, n=EVENT_RAYS)
        events[0].protons(protons, table.secondary, turns, 1)
        events[0].deuterons(deuterons)
        events[1].protons(collision, table.secondary, turns, FEW_TURNS)
        events[2].protons(elastic, table.scattered, again, FEW_TURNS)
        local[:, i] = protons.local_mev / energy, 0.0, elastic.local_mev / energy
    within = np.cumsum(circles, axis=-1).swapaxes(-1, -2)
    return _EventKernels(
        _from_back(_cumulative(depth), DEPTH_CELLS), _from_back(_cumulative(within), CIRCLE_CELLS),
        local,
    )  # fmt: skip


def _from_back(cumulative: np.ndarray, cells: int) -> np.ndarray:
    """Without the edges farther upstream, where hardly a ray goes."""
    return np.ascontiguousarray(cumulative[..., cells - round(BACK_SHARE * cells) :])


def _zero(cells: int) -> float:
    """Edge at which the events sit."""
    return round(BACK_SHARE * cells) + 0.5


@lru_cache(maxsize=4)
def _scattering(i_ev: float) -> tuple[np.ndarray, float]:
    """Growth of a proton's variance by scattering along its range, and its end's σ over range.

    With a scattering power that falls as residual range^−1.1 (Fermi–Eyges); the end's width is
    that of 100 MeV, which scales with range within 3 %.
    """
    t = np.linspace(0.0, 1.0, 201)
    middle = 0.5 * (t[1:] + t[:-1])
    power = (1.0 - middle) ** -GROWTH_POWER
    arm = np.maximum(t[:, None] - middle, 0.0)
    growth = (arm**2 * power).sum(axis=1)
    range_mm = projected_range_mm(100.0, water(i_ev))
    end = core_variance_mm2(100.0, np.array([range_mm]), i_ev)[0]
    return growth / growth[-1], float(np.sqrt(end)) / range_mm


@dataclass(frozen=True, eq=False)
class _Turns:
    """What scattering makes of a proton at the energies of ``TURN_MEV``."""

    chance: np.ndarray  # (n_energies, n_rays) cumulative, from above 0 to 1
    share: np.ndarray  # (n_energies, n_rays) of the energy
    cosine: np.ndarray  # (n_energies, n_rays)
    number: np.ndarray  # (n_energies,) of protons
    local: np.ndarray  # (n_energies,) share of the energy that stays on the spot


@lru_cache(maxsize=8)
def _turns(processes: tuple[str, ...], i_ev: float) -> _Turns:
    of = {"nuclear-elastic": elastic_secondaries, "proton-proton": proton_proton_secondaries}
    n = 3 * TURN_RAYS  # elastic ones come from one or two tables
    chance, share, cosine = (np.ones((TURN_MEV.size, n)) for _ in range(3))
    number, local = np.zeros(TURN_MEV.size), np.zeros(TURN_MEV.size)
    for i, energy in enumerate(TURN_MEV):
        rates = np.array([float(interactions_per_mm(energy, p, water(i_ev))) for p in processes])
        rates /= rates.sum()
        rays = [of[p](energy, n=TURN_RAYS) for p in processes]
        each = np.concatenate([rate * ray.number for rate, ray in zip(rates, rays)])
        number[i] = each.sum()
        chance[i, : each.size] = np.cumsum(each) / number[i]
        share[i, : each.size] = np.concatenate([ray.energy_mev for ray in rays]) / energy
        cosine[i, : each.size] = np.concatenate([ray.cosine for ray in rays])
        local[i] = sum(rate * ray.local_mev for rate, ray in zip(rates, rays)) / energy
    return _Turns(chance, share, cosine, number, local)


@dataclass(frozen=True, eq=False)
class _Rays:
    """Straight ways, (n,) each but where said."""

    number: np.ndarray
    range_mm: np.ndarray
    start: np.ndarray  # (n, 2) depth and ring
    way: np.ndarray  # (n, 3) along depth, outwards, around
    offset: np.ndarray  # exponent of what is lost before rest
    local: np.ndarray  # energy at the start

    @classmethod
    def from_event(cls, number, range_mm, cosine, offset) -> "_Rays":
        sine = np.sqrt(np.maximum(1.0 - cosine**2, 0.0))
        nothing = np.zeros_like(cosine)
        way = np.stack([cosine, sine, nothing], axis=1)
        return cls(number, range_mm, np.zeros((cosine.size, 2)), way, offset, nothing)

    def repeated(self, times: int) -> "_Rays":
        """Every ray ``times`` times, each a part of it."""
        rays = _Rays(*(np.repeat(v, times, axis=0) for v in vars(self).values()))
        return replace(rays, number=rays.number / times)


@dataclass(frozen=True, eq=False)
class _Event:
    """Where rays of an event leave shares of its energy: (3, n) along depth, (n, n_circles)."""

    energy_mev: float
    table: _SlowingDown
    growth: np.ndarray
    end_share: float
    depth: np.ndarray
    circles: np.ndarray

    def protons(self, rays: Secondaries, losses, turns: _Turns, repeat: int) -> None:
        """Protons up to their first turn, and from there on."""
        ranges = self._range_mm(rays.energy_mev)
        first, last = losses
        offset = np.interp(ranges, self.table.range_mm, first.integral)
        number = rays.number / self.energy_mev
        straight = _Rays.from_event(number, ranges, rays.cosine, offset)
        turned = self._turned(straight.repeated(repeat), losses, turns)
        for ways, tables in ((straight, first.tables), (turned, last.tables)):
            self._add(ways, tables, TABLE_STEP_MM, self.end_share, self.depth)

    def deuterons(self, rays: Secondaries) -> None:
        """A deuteron goes twice as far as a proton of half its energy, and scatters less."""
        ranges = 2.0 * self._range_mm(0.5 * rays.energy_mev)
        number = rays.number / self.energy_mev
        straight = _Rays.from_event(number, ranges, rays.cosine, np.zeros_like(ranges))
        lost, step = 2.0 * self.table.energy_mev[None, :], 2.0 * TABLE_STEP_MM
        self._add(straight, lost, step, self.end_share / np.sqrt(2.0), self.depth[:1])

    def _turned(self, rays: _Rays, losses, turns: _Turns) -> _Rays:
        """One turn of every ray, at a place, by an angle and into an azimuth of a sequence."""
        table, (first, last) = self.table, losses
        place, which, around = _sequence(rays.number.size)
        turning = first.integral - last.integral
        total = np.interp(rays.range_mm, table.range_mm, turning)
        left = np.maximum(total + np.log1p(place * np.expm1(-total)), 0.0)
        range_mm = np.interp(left, turning, table.range_mm)
        energy = np.interp(range_mm, table.range_mm, table.energy_mev)
        row = np.searchsorted(0.5 * (TURN_MEV[1:] + TURN_MEV[:-1]), energy)
        ray = (turns.chance[row] < which[:, None]).sum(axis=1)
        after = self._range_mm(energy * turns.share[row, ray])
        before = np.interp(rays.range_mm, table.range_mm, last.integral)
        before -= np.interp(range_mm, table.range_mm, last.integral)
        number = -np.expm1(-total) * rays.number * np.exp(-before)
        start = rays.start + (rays.range_mm - range_mm)[:, None] * rays.way[:, :2]
        return _Rays(
            number * turns.number[row], after, start,
            _bent(rays.way, turns.cosine[row, ray], 2.0 * np.pi * around),
            np.interp(after, table.range_mm, last.integral), number * turns.local[row] * energy,
        )  # fmt: skip

    def _range_mm(self, energy_mev):
        return np.interp(energy_mev, self.table.energy_mev, self.table.range_mm)

    def _add(self, rays: _Rays, tables, table_step, share, depth) -> None:
        reach = self._range_mm(self.energy_mev)
        of_rays = (rays.number, rays.range_mm, rays.start, rays.way, rays.offset, rays.local)
        depth_rays(*of_rays, tables, table_step, reach / DEPTH_CELLS, depth)
        ring_rays(
            *of_rays, tables[0], table_step, reach / CIRCLE_CELLS, reach, self.growth, share,
            self.end_share, *_circle_axis(), self.circles,
        )  # fmt: skip


def _sequence(n: int) -> np.ndarray:
    """(3, n) numbers of 0 … 1 that fill the cube evenly (Roberts' sequence)."""
    root = 1.2207440846057596  # of x⁴ = x + 1
    return (0.5 + np.outer(root ** -np.arange(1.0, 4.0), np.arange(n))) % 1.0


def _bent(way: np.ndarray, cosine: np.ndarray, azimuth_rad: np.ndarray) -> np.ndarray:
    """Directions (n, 3) in the plane of depth and ring, turned by a polar angle and an azimuth."""
    sine = np.sqrt(np.maximum(1.0 - cosine**2, 0.0))
    inwards, sideways = sine * np.cos(azimuth_rad), sine * np.sin(azimuth_rad)
    along, outwards = way[:, 0], way[:, 1]
    return np.stack(
        [along * cosine - outwards * inwards, outwards * cosine + along * inwards, sideways], axis=1
    )
