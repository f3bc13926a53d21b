"""Histories: a proton leaves its spot, passes the beam's devices, enters the patient, and all that
comes of it is followed to the end.

Spots are rows of float64 columns (see SPOT_COLUMNS). Places are relative to the lower corner of
the volume a particle is in: devices of its beam in the beam's eye view (u, v, t), then the patient
in x, y, z. Gaps between volumes are vacuum. Lengths are mm, energies MeV, angles rad.

``stream``, ``stack``, ``place``, ``state``, ``at`` are working memory that the caller allocates
once; see ``_random``, ``_reactions`` and ``_transport`` for what they hold.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from engine.dose.monte_carlo._random import start_stream, two_normals, uniform
from engine.dose.monte_carlo._reactions import react
from engine.dose.monte_carlo._transport import (
    _INLINE,
    _OPTIONS,
    ALIVE,
    DENSITY,
    HISTORY,
    MASS,
    NO_HISTORY,
    PENDING,
    QUANTA_PER_MEV,
    REACTED,
    SQUARES,
    TOTAL,
    Score,
    Volume,
    add,
    book,
    energy_at,
    flush,
    range_at,
    transport,
)

STACK = 256  # particles that wait at most; further ones are deposited where they are made
SPOT_COLUMNS = (
    "beam", "energy_mev", "energy_std_mev", "u_mm", "v_mm",
    "sigma_mm", "slope_per_mm", "angle_rad",  # angle = slope · offset + a normal of angle_rad
    "second_weight", "second_sigma_mm", "second_slope_per_mm", "second_angle_rad",
)  # fmt: skip
(
    BEAM, ENERGY, ENERGY_STD, U, V, SIGMA, SLOPE, ANGLE, SECOND, SECOND_SIGMA, SECOND_SLOPE,
    SECOND_ANGLE,
) = range(len(SPOT_COLUMNS))  # fmt: skip
GROUP_BITS = 14  # of the number of histories between two reports, see ``dose_block``
GROUP = 1 << GROUP_BITS
PATIENT_VOLUME = 1 << 30  # number of the patient, after any device's
ROULETTE = 1 << 46  # number of a stream that no history has
LOWEST_MEV, HIGHEST_MEV = 1.0, 296.0  # of the energy spectrum
WIDEST = 4.0  # standard deviations of the energy spectrum

# Columns of the balance, int64 quanta of energy.
STARTED, PATIENT, DEVICES, LEFT, NEUTRAL, STRAGGLED = range(6)


class Beams(NamedTuple):
    """Per beam: isocenter and axes u, v, t in the patient (n, 4, 3); plane t where protons start;
    virtual source distances of u and v (n, 2); first device (n + 1,). Devices are flat volumes."""

    frame: np.ndarray
    start_t: np.ndarray
    source_mm: np.ndarray
    first_device: np.ndarray
    device_lower: np.ndarray  # (n_devices, 3) in u, v, t
    device_shape: np.ndarray  # (n_devices, 3) along t, v, u
    device_spacing: np.ndarray
    device_start: np.ndarray  # (n_devices + 1,) first voxel
    device_longs: np.ndarray  # records of all devices' voxels, in the views of ``Volume``
    device_ints: np.ndarray
    device_floats: np.ndarray


@njit(**_OPTIONS)
def emit(spot, start_t, source, place, stream):
    """A proton at its start plane in (u, v, t); returns its energy."""
    sigma, slope, angle = spot[SIGMA], spot[SLOPE], spot[ANGLE]
    if spot[SECOND] > 0.0 and uniform(stream) < spot[SECOND]:
        sigma, slope, angle = spot[SECOND_SIGMA], spot[SECOND_SLOPE], spot[SECOND_ANGLE]
    offset_u, offset_v = two_normals(stream)
    angle_u, angle_v = two_normals(stream)
    offset_u, offset_v = sigma * offset_u, sigma * offset_v
    slope_u = spot[U] / source[0] + slope * offset_u + angle * angle_u
    slope_v = spot[V] / source[1] + slope * offset_v + angle * angle_v
    place[0] = spot[U] * (1.0 + start_t / source[0]) + offset_u
    place[1] = spot[V] * (1.0 + start_t / source[1]) + offset_v
    place[2] = start_t
    norm = 1.0 / math.sqrt(1.0 + slope_u * slope_u + slope_v * slope_v)
    place[3], place[4], place[5] = slope_u * norm, slope_v * norm, norm
    energy = spot[ENERGY]
    if spot[ENERGY_STD] > 0.0:
        shift, _ = two_normals(stream)
        energy += spot[ENERGY_STD] * min(max(shift, -WIDEST), WIDEST)
    return min(max(energy, LOWEST_MEV), HIGHEST_MEV)


@njit(**_OPTIONS)
def to_patient(place, frame, lower):
    """From (u, v, t) to x, y, z relative to the patient grid's lower corner."""
    u, v, t, du, dv, dt = place[0], place[1], place[2], place[3], place[4], place[5]
    for axis in range(3):
        place[axis] = (
            frame[0, axis] + u * frame[1, axis] + v * frame[2, axis] + t * frame[3, axis]
        ) - lower[axis]
        place[3 + axis] = du * frame[1, axis] + dv * frame[2, axis] + dt * frame[3, axis]


@njit(**_OPTIONS)
def onward(place, device, beam, beams, lower):
    """From one volume's corner to the next one's; returns the number of the next."""
    if device >= 0:
        for axis in range(3):
            place[axis] += beams.device_lower[device, axis]
    following = device + 1 if device >= 0 else beams.first_device[beam]
    if following < beams.first_device[beam + 1]:
        for axis in range(3):
            place[axis] -= beams.device_lower[following, axis]
        return following
    to_patient(place, beams.frame[beam], lower)
    return PATIENT_VOLUME


@njit(**_OPTIONS)
def _quanta(mev):
    return np.int64(math.floor(mev * QUANTA_PER_MEV + 0.5))


@njit(**_INLINE)
def history(
    number, seed, spot, patient, lower, beams, physics, score, normals, stream, stack, place,
    state, at, balance,
):  # fmt: skip
    """One primary proton of a spot with all its secondaries; ``number`` names its stream."""
    start_stream(stream, seed, np.uint64(number))
    # Voxels tell histories apart by 31 bits: two with the same tag are 2³¹ histories apart.
    tag = np.int32(number & 0x7FFFFFFF)
    beam = int(spot[BEAM])
    energy = emit(spot, beams.start_t[beam], beams.source_mm[beam], place, stream)
    balance[STARTED] += _quanta(energy)
    where = onward(place, -1, beam, beams, lower)
    for axis in range(6):
        stack[0, axis] = place[axis]
    stack[0, 6], stack[0, 7] = range_at(energy, physics.range_of_root), 0.0
    stack[0, 8], stack[0, 9] = where, 0.0
    n = 1
    while n > 0:
        n -= 1
        for axis in range(6):
            place[axis] = stack[n, axis]
        state[0] = stack[n, 6]
        state[1] = energy_at(state[0], physics.inverse_root_step, physics.energy_of_root)
        kind, where, generation = int(stack[n, 7]), int(stack[n, 8]), stack[n, 9]
        n = _follow(
            place, state, kind, where, generation, beam, tag, patient, lower, beams, physics,
            score, normals, stream, stack, n, at, balance,
        )  # fmt: skip


@njit(**_INLINE)
def _follow(
    place, state, kind, where, generation, beam, tag, patient, lower, beams, physics, score,
    normals, stream, stack, n, at, balance,
):  # fmt: skip
    """Follow one particle through all volumes; secondaries are left on the stack."""
    mass = MASS[kind]
    while True:
        in_patient = where == PATIENT_VOLUME
        scores = in_patient and not (score.primaries_only and generation > 0.0)
        before = mass * state[1]
        volume = patient if in_patient else _device(beams, where)
        end, straggled = transport(
            place, state, kind, scores, tag, stream, normals, volume, physics, score, at
        )
        after = mass * state[1] if end == ALIVE or end == REACTED else 0.0
        balance[STRAGGLED] += _quanta(straggled)
        absorbed = before + straggled - after
        survived, local, neutral = True, 0.0, 0.0
        if end == REACTED:
            survived, n, local, neutral = react(
                place, state, at[1], where, stack, n, stream, physics
            )
            if scores and not (score.primaries_only and not survived) and local > 0.0:
                add(patient, score, at[0], _scored(local, at[1], after, score, physics), tag)
        balance[PATIENT if in_patient else DEVICES] += _quanta(absorbed + local)
        balance[NEUTRAL] += _quanta(neutral)
        if end != ALIVE and not (end == REACTED and survived):
            return n
        if end == ALIVE:
            if in_patient:
                balance[LEFT] += _quanta(after)
                return n
            where = onward(place, where, beam, beams, lower)


@njit(**_OPTIONS)
def _device(beams, device):
    """One device as a volume."""
    first, last = beams.device_start[device], beams.device_start[device + 1]
    shape, spacing = beams.device_shape[device], beams.device_spacing[device]
    return Volume(
        beams.device_longs[first:last], beams.device_ints[first:last],
        beams.device_floats[first:last],
        (shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2]),
    )  # fmt: skip


@njit(**_OPTIONS)
def _scored(mev, m, e, score, physics):
    """Energy left on the spot, as the medium's or as water's."""
    return mev / physics.media[m, int(e), 0] if score.to_water else mev


@njit(**_OPTIONS)
def _bits_reversed(i):
    """The 64 bits of i in reverse: over 2⁶⁴, van der Corput's sequence."""
    n = np.uint64(i)
    for shift, mask in (
        (1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F),
        (8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF),
    ):  # fmt: skip
        s, m = np.uint64(shift), np.uint64(mask)
        n = ((n >> s) & m) | ((n & m) << s)
    return n


@njit(**_OPTIONS)
def dose_block(
    block, n_blocks, first, n, seed, shift, reaches, spots, longs, ints, floats, shape, spacing,
    lower, beams, physics, to_water, with_let, primaries_only, normals, lets, balances,
):  # fmt: skip
    """Histories first … first + n − 1 of a plan, in this block's share of the spots.

    A history's spot is told by its number: van der Corput's sequence with a shift, through the
    spots' summed shares of the weight ``reaches`` (n_spots,). Any number of histories from 0 on
    so meets every spot in proportion. Within a group, numbers come in the order of the sequence's
    values, so that neighbours in time are neighbours in space; each block takes an interval of it.
    ``first`` is a multiple of GROUP.
    """
    patient = Volume(longs[block], ints[block], floats[block], shape, spacing)
    nowhere = np.zeros(1, np.uint32)
    score = Score(lets[block], nowhere, np.zeros(1, np.int64), to_water, with_let, primaries_only)
    stream, stack = np.zeros(1, np.uint64), np.zeros((STACK, 10))
    place, state, at = np.zeros(6), np.zeros(2), np.zeros(2, np.int64)
    low, high = GROUP * block // n_blocks, GROUP * (block + 1) // n_blocks
    for group in range(first, first + n, GROUP):
        for j in range(low, high):
            number = group + np.int64(_bits_reversed(j) >> np.uint64(64 - GROUP_BITS))
            if number >= first + n:
                continue
            value = shift + float(_bits_reversed(number) >> np.uint64(11)) * 2.0**-53
            value -= math.floor(value)
            spot = min(np.searchsorted(reaches, value, side="right"), spots.shape[0] - 1)
            history(
                number, seed, spots[spot], patient, lower, beams, physics, score, normals, stream,
                stack, place, state, at, balances[block],
            )  # fmt: skip
    flush(patient)


@njit(**_OPTIONS)
def spots_block(
    first, last, n, keys, cutoff, least_density, spots, longs, ints, floats, shape, spacing, lower,
    beams, physics, to_water, primaries_only, normals, gy_per_mev, row_of_voxel,
):  # fmt: skip
    """Dose per particle of the spots first … last − 1, by ``n`` histories each.

    Returns starts (last − first + 1,), rows and Gy (n_entries,) in rising rows for every spot,
    and the spots' largest doses. Entries below ``cutoff`` of the largest, in voxels no thinner
    than ``least_density``, are kept with a chance of their share of it, at that value. Each spot
    has a seed of its own, ``keys`` (n_spots,). Records must be empty, and are left so.
    """
    patient = Volume(longs, ints, floats, shape, spacing)
    touched = np.empty(gy_per_mev.shape[0] + 1, np.uint32)
    n_touched, balance = np.zeros(1, np.int64), np.zeros(6, np.int64)
    score = Score(np.zeros((0, 2), np.int64), touched, n_touched, to_water, False, primaries_only)
    stream, stack = np.zeros(1, np.uint64), np.zeros((STACK, 10))
    place, state, at = np.zeros(6), np.zeros(2), np.zeros(2, np.int64)
    starts, tops = np.zeros(last - first + 1, np.int64), np.zeros(last - first, np.float32)
    rows, values = np.empty(1024, np.uint32), np.empty(1024, np.float32)
    n_entries = 0
    for spot in range(first, last):
        for number in range(n):
            history(
                number, keys[spot], spots[spot], patient, lower, beams, physics, score, normals,
                stream, stack, place, state, at, balance,
            )  # fmt: skip
        start_stream(stream, keys[spot], np.uint64(ROULETTE))
        found = np.sort(touched[: n_touched[0]])
        n_touched[0] = 0
        largest = 0.0
        for voxel in found:
            book(patient, voxel)
            gy = longs[voxel, TOTAL] * gy_per_mev[voxel] / (n * QUANTA_PER_MEV)
            if floats[voxel, DENSITY] >= least_density:
                largest = max(largest, gy)
        tops[spot - first] = largest
        least = cutoff * largest
        for voxel in found:
            row = row_of_voxel[voxel]
            gy = longs[voxel, TOTAL] * gy_per_mev[voxel] / (n * QUANTA_PER_MEV)
            longs[voxel, TOTAL] = 0
            longs[voxel, SQUARES] = 0
            ints[voxel, PENDING] = 0
            ints[voxel, HISTORY] = NO_HISTORY
            if 0.0 < gy < least:
                gy = least if uniform(stream) * least < gy else 0.0
            if row < 0 or gy <= 0.0:
                continue
            if n_entries == rows.shape[0]:
                rows, values = _doubled(rows), _doubled(values)
            rows[n_entries], values[n_entries] = row, gy
            n_entries += 1
        starts[spot - first + 1] = n_entries
    return starts, rows[:n_entries].copy(), values[:n_entries].copy(), tops


@njit(**_OPTIONS)
def _doubled(array):
    longer = np.empty(2 * array.shape[0], array.dtype)
    longer[: array.shape[0]] = array
    return longer
