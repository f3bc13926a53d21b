"""One charged particle through one grid of voxels: class II condensed history.

Short steps end at voxel faces and lose the continuous energy. Long steps, a fixed share of the
residual range, have one hinge at a uniformly random place, where the straggling and the soft
scattering of the whole step happen at once, by the material found there. As a hinge lies in a
material as often as the step does, moments come out right in any sequence of materials. Hard
scattering is added at the hinge, event by event.

Lengths are mm from the grid's lower corner, axes x, y, z. ``place`` is (x, y, z, ux, uy, uz),
``state`` (residual range, proton-equivalent energy) in mm of water and MeV. Kinds are 0 proton,
1 deuteron, 2 alpha.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from engine.dose.monte_carlo._random import three_normals, two_uniforms, uniform
from engine.physics.constants import PROTON_MASS_MEV

HINGE_SHARE = 0.17  # of the residual range: 10 % of the energy
HARD_PER_STEP = 0.15  # mean number of hard scatterings of a step
SMOOTH_BELOW_MM = 0.8  # of residual range, 8 MeV: the rest runs straight
QUANTA_PER_MEV = float(1 << 20)
SQUARE_QUANTA = float(1 << 22)  # per MeV²
MIDDLE_OF_STEP = 0.95  # of the energy: where a long step takes its stopping ratio
ROOTS_PER_ROOT_MEV = 120.0  # nodes of ``range_of_root`` per √MeV
NEVER = -1.0  # a residual range that no particle reaches
TWO_PROTONS_MEV = 2.0 * PROTON_MASS_MEV
ONE = np.uint64(1)
FAR = 1e30  # mm
ALIVE, STOPPED, REACTED = 0, 1, 2

# A voxel's record is 32 bytes, so that a step reads one cache line: two int64, energy and squared
# energy of the histories booked; then as int32 the energy and the number of the history that is
# not booked yet; then density, as float32, and material. The same memory is seen as three arrays.
TOTAL, SQUARES = 0, 1  # of the view (n, 4) int64
PENDING, HISTORY, MATERIAL = 4, 5, 7  # of the view (n, 8) int32
DENSITY = 6  # of the view (n, 8) float32
NO_HISTORY = -1

MASS = np.array([1.0, 1.99901, 3.97260])  # in proton masses
CHARGE2_OVER_MASS = np.array([1.0, 1.0 / 1.99901, 4.0 / 3.97260])


class Volume(NamedTuple):
    """A grid to walk through; three views of its voxels' records."""

    longs: np.ndarray
    ints: np.ndarray
    floats: np.ndarray
    shape: tuple  # (nz, ny, nx)
    spacing: tuple  # (z, y, x) in mm


class Physics(NamedTuple):
    """Arrays of ``tables.TransportTables``, and those of the nuclear reactions."""

    energy_of_root: np.ndarray
    let_integral: np.ndarray
    inverse_root_step: float
    hard_limit2: float  # largest squared angle of a single Coulomb scattering
    range_of_root: np.ndarray
    media: np.ndarray
    majorant: np.ndarray
    majorant_depth: np.ndarray
    whole_mev_range: np.ndarray
    reactions: np.ndarray
    slot_row: np.ndarray
    element_mass: np.ndarray
    n_blocks: np.ndarray
    block_energy: np.ndarray
    multiplicity: np.ndarray
    energy_share: np.ndarray
    cosine: np.ndarray
    recoil_share: np.ndarray
    n_elastic_blocks: np.ndarray
    elastic_block_energy: np.ndarray
    elastic_inverse_versine: np.ndarray


class Score(NamedTuple):
    """What is scored in the patient; LET sums are (n_voxels, 2) int64, or empty.

    ``touched`` lists the voxels that got energy since their records were empty; who does not want
    to know gives one place, which is overwritten. ``n_touched`` is (1,).
    """

    let: np.ndarray
    touched: np.ndarray
    n_touched: np.ndarray
    to_water: bool
    with_let: bool
    primaries_only: bool


_OPTIONS = dict(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
# Passing a bundle of arrays to a compiled function counts references to each, atomically: what is
# called for every particle is therefore written out where it is called. (numba's cache of a caller
# does not see that such a function in another file has changed: delete __pycache__ after edits.)
_INLINE = dict(_OPTIONS, inline="always")


@njit(**_OPTIONS)
def energy_at(r, root_step_inverse, energy_of_root):
    """Proton-equivalent energy of a residual range."""
    root = math.sqrt(r) * root_step_inverse
    whole = int(root)
    i = np.uint64(whole)
    low = energy_of_root[i]
    return low + (root - whole) * (energy_of_root[i + ONE] - low)


@njit(**_OPTIONS)
def range_at(e, range_of_root):
    """Residual range of a proton-equivalent energy, from a table even in the energy's root."""
    root = math.sqrt(e) * ROOTS_PER_ROOT_MEV
    i = int(root)
    low = range_of_root[i]
    return low + (root - i) * (range_of_root[i + 1] - low)


@njit(**_INLINE)
def add(volume, score, voxel, mev, history):
    """Energy to a voxel's record; what one history brings counts as one for the squares."""
    quanta = np.int32(mev * QUANTA_PER_MEV + 0.5)
    ints = volume.ints
    last = ints[voxel, HISTORY]
    if last == history:
        ints[voxel, PENDING] += quanta
        return
    # Without a branch, which here would cost more than the rest of the step.
    n = score.n_touched[0]
    score.touched[min(n, score.touched.shape[0] - 1)] = voxel
    score.n_touched[0] = n + np.int64(last == NO_HISTORY)
    book(volume, voxel)
    ints[voxel, PENDING] = quanta
    ints[voxel, HISTORY] = history


@njit(**_INLINE)
def book(volume, voxel):
    """Add what is pending to the sums."""
    pending = volume.ints[voxel, PENDING]
    mev = float(pending) * (1.0 / QUANTA_PER_MEV)
    volume.longs[voxel, TOTAL] += np.int64(pending)
    volume.longs[voxel, SQUARES] += np.int64(mev * mev * SQUARE_QUANTA + 0.5)


@njit(**_OPTIONS)
def flush(volume):
    """Book what the last history of every voxel left pending."""
    for voxel in range(volume.ints.shape[0]):
        if volume.ints[voxel, HISTORY] != NO_HISTORY:
            book(volume, voxel)
            volume.ints[voxel, PENDING] = 0
            volume.ints[voxel, HISTORY] = NO_HISTORY


@njit(**_INLINE)
def turn(place, cosine, sine_x, sine_y):
    """Turn the direction by sines along two axes across it, and cosine along it."""
    ux, uy, uz = place[3], place[4], place[5]
    sign = math.copysign(1.0, uz)
    a = -1.0 / (sign + uz)
    b = ux * uy * a
    vx = cosine * ux + sine_x * (1.0 + sign * ux * ux * a) + sine_y * b
    vy = cosine * uy + sine_x * sign * b + sine_y * (sign + uy * uy * a)
    vz = cosine * uz - sine_x * sign * ux - sine_y * uy
    norm = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
    place[3], place[4], place[5] = vx * norm, vy * norm, vz * norm


@njit(**_OPTIONS)
def turn_by(place, cosine, azimuth):
    """Turn the direction by a polar angle and an azimuth in rad."""
    sine = math.sqrt(max(0.0, 1.0 - cosine * cosine))
    turn(place, cosine, sine * math.cos(azimuth), sine * math.sin(azimuth))


@njit(**_INLINE)
def enter(place, size):
    """Move a particle to where it meets the box 0 … size; False if it never does."""
    t_in, t_out = 0.0, FAR
    for axis in range(3):
        x, u = place[axis], place[3 + axis]
        if abs(u) < 1e-12:
            if x < 0.0 or x >= size[axis]:
                return False
            continue
        t0, t1 = -x / u, (size[axis] - x) / u
        if t0 > t1:
            t0, t1 = t1, t0
        t_in, t_out = max(t_in, t0), min(t_out, t1)
    if t_in >= t_out:
        return False
    for axis in range(3):
        place[axis] += t_in * place[3 + axis]
    return True


@njit(**_INLINE)
def next_reaction(r, e, stream, physics):
    """Residual range at which the next candidate for a reaction comes, or NEVER."""
    majorant, majorant_depth = physics.majorant, physics.majorant_depth
    whole_mev_range = physics.whole_mev_range
    i = int(e)
    depth = majorant_depth[i] + majorant[i] * (r - whole_mev_range[i])
    depth += math.log(uniform(stream))
    if depth <= 0.0:
        return NEVER
    low, high = 0, i + 1
    while high - low > 1:
        middle = (low + high) // 2
        if majorant_depth[middle] <= depth:
            low = middle
        else:
            high = middle
    if majorant[low] <= 0.0:
        return NEVER
    return whole_mev_range[low] + (depth - majorant_depth[low]) / majorant[low]


@njit(**_INLINE)
def scatter(place, e, path_mm, mass, coulomb_per_mm, logarithm, limit2, stream, normals):
    """The deflection of a hinge, soft and hard; returns a normal for the straggling.

    ``path_mm`` is the residual range that the step uses, ``coulomb_per_mm`` and ``logarithm`` are
    the material's at e, ``limit2`` is the largest squared angle.
    """
    x, y, other = three_normals(stream, normals)
    coulomb = coulomb_per_mm * path_mm
    if coulomb <= 0.0:
        return other
    pv = e * (e + TWO_PROTONS_MEV) / (e + PROTON_MASS_MEV)
    pc2 = e * (e + TWO_PROTONS_MEV) * mass * mass
    chi2 = coulomb / (pv * pv * mass)
    cut2 = min(chi2 / HARD_PER_STEP, limit2)
    soft2 = chi2 * (math.log(cut2 * pc2) + logarithm - 1.0)
    if soft2 > 0.0:
        sigma = math.sqrt(0.5 * soft2)
        x, y = sigma * x, sigma * y
        turn(place, 1.0 - 0.5 * (x * x + y * y), x, y)
    low, high = 1.0 / limit2, 1.0 / cut2
    mean = chi2 * (high - low)
    if mean > 1e-9:
        # Exponential gaps between events make their number Poisson.
        u, v = two_uniforms(stream)
        left = mean + math.log(u)
        while left > 0.0:
            angle = 1.0 / math.sqrt(low + v * (high - low))
            turn_by(place, math.cos(angle), 2.0 * math.pi * uniform(stream))
            u, v = two_uniforms(stream)
            left += math.log(u)
    return other


@njit(**_INLINE)
def transport(place, state, kind, scores, history, stream, normals, volume, physics, score, at):
    """Follow a particle until it leaves the grid, stops, or reacts; says which.

    ``place`` and ``state`` are updated; ``at`` is set to voxel and material of a reaction. Deposits
    are of the medium, or, for water, divided by F: over the voxel's mass they are the dose to
    water. Also returns what straggling added to the energy, MeV, which no voxel sees.
    """
    shape, spacing = volume.shape, volume.spacing
    energy_of_root, media, majorant = physics.energy_of_root, physics.media, physics.majorant
    reacts = kind == 0 and physics.majorant_depth[-1] > 0.0
    straggled = 0.0
    if not _inside(place, shape, spacing) and not enter(place, _size(shape, spacing)):
        return ALIVE, 0.0
    mass, rate = MASS[kind], CHARGE2_OVER_MASS[kind]
    nx, ny, nz = shape[2], shape[1], shape[0]
    stride_y, stride_z = nx, nx * ny
    inverse = physics.inverse_root_step
    r, e = state[0], state[1]
    event = NEVER
    if reacts:
        event = next_reaction(r, e, stream, physics)
    step_end = r
    step, hinge = 0.0, NEVER
    if r > SMOOTH_BELOW_MM:
        step = HINGE_SHARE * r
        step_end = r - step
        hinge = r - uniform(stream) * step
    x, y, z = place[0], place[1], place[2]
    i = min(max(int(x / spacing[2]), 0), nx - 1)
    j = min(max(int(y / spacing[1]), 0), ny - 1)
    k = min(max(int(z / spacing[0]), 0), nz - 1)
    while True:
        ux, uy, uz = place[3], place[4], place[5]
        tx, dx, di = _to_face(x, ux, i, spacing[2])
        ty, dy, dj = _to_face(y, uy, j, spacing[1])
        tz, dz, dk = _to_face(z, uz, k, spacing[0])
        goal = max(hinge, event, 0.0)
        bin_ = np.uint64(MIDDLE_OF_STEP * e)  # F hardly changes within a step
        voxel = k * stride_z + j * stride_y + i
        path, left = 0.0, False
        while True:
            d = min(tx, ty, tz)
            here = np.uint64(voxel)  # unsigned: no check for indices that count from the end
            ratio = media[np.uint64(volume.ints[here, MATERIAL]), bin_, 0]
            loss = rate * volume.floats[here, DENSITY] * ratio
            r_next = r - loss * d
            arrived = r_next <= goal
            if arrived:
                d = (r - goal) / loss if loss > 0.0 else 0.0
                r_next = goal
            path += d
            if loss > 0.0:
                e_next = energy_at(r_next, inverse, energy_of_root)
                if scores:
                    deposit = mass * (e - e_next)
                    if score.to_water:
                        deposit /= ratio
                    add(volume, score, here, deposit, history)
                    if score.with_let and kind == 0:
                        let = energy_at(r, inverse, physics.let_integral)
                        let -= energy_at(r_next, inverse, physics.let_integral)
                        score.let[here, 0] += np.int64((e - e_next) * QUANTA_PER_MEV + 0.5)
                        score.let[here, 1] += np.int64(let * QUANTA_PER_MEV + 0.5)
                r, e = r_next, e_next
            if arrived:
                tx -= d
                ty -= d
                tz -= d
                break
            if tx <= ty and tx <= tz:
                i += di
                voxel += di
                left = i < 0 or i >= nx
                ty -= tx
                tz -= tx
                tx = dx
            elif ty <= tz:
                j += dj
                voxel += dj * stride_y
                left = j < 0 or j >= ny
                tx -= ty
                tz -= ty
                ty = dy
            else:
                k += dk
                voxel += dk * stride_z
                left = k < 0 or k >= nz
                tx -= tz
                ty -= tz
                tz = dz
            if left:
                break
        x += ux * path
        y += uy * path
        z += uz * path
        if left:
            place[0], place[1], place[2] = x, y, z
            state[0], state[1] = r, e
            return ALIVE, straggled
        if goal <= 0.0:
            return STOPPED, straggled
        m = volume.ints[voxel, MATERIAL]
        bin_ = np.uint64(e)
        if event >= hinge:
            if uniform(stream) * majorant[bin_] < physics.reactions[m, bin_, -1]:
                place[0], place[1], place[2] = x, y, z
                state[0], state[1] = r, e
                at[0], at[1] = voxel, m
                return REACTED, straggled
            event = next_reaction(r, e, stream, physics)
            continue
        normal = scatter(
            place, e, step, mass, media[m, bin_, 1], media[m, bin_, 3] - media[m, bin_, 2],
            physics.hard_limit2, stream, normals,
        )  # fmt: skip
        spread2 = media[m, bin_, 4] * step / mass
        if spread2 > 0.0:
            shifted = max(e + math.sqrt(spread2) * normal, 0.01 * e)
            straggled += mass * (shifted - e)
            e = shifted
            moved = range_at(e, physics.range_of_root)
            shift = moved - r
            r = moved
            step_end = max(step_end + shift, 0.0)
            event = event + shift if event > 0.0 else event
            event = min(event, r)
        hinge = NEVER
        if step_end > SMOOTH_BELOW_MM:
            step = HINGE_SHARE * step_end
            hinge = min(step_end - uniform(stream) * step, r)
            step_end -= step


@njit(**_OPTIONS)
def _inside(place, shape, spacing):
    return (
        0.0 <= place[0] < shape[2] * spacing[2]
        and 0.0 <= place[1] < shape[1] * spacing[1]
        and 0.0 <= place[2] < shape[0] * spacing[0]
    )


@njit(**_OPTIONS)
def _size(shape, spacing):
    return shape[2] * spacing[2], shape[1] * spacing[1], shape[0] * spacing[0]


@njit(**_OPTIONS)
def _to_face(x, u, index, spacing):
    """Path to the next face along one axis, path between faces, and which way the index runs."""
    if abs(u) < 1e-12:
        return FAR, FAR, 0
    inverse = 1.0 / u
    if u > 0.0:
        return max((spacing * (index + 1) - x) * inverse, 0.0), spacing * inverse, 1
    return max((spacing * index - x) * inverse, 0.0), -spacing * inverse, -1
