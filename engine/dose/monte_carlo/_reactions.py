"""What comes out of a nuclear reaction of a proton: non-elastic, elastic off a nucleus or hydrogen.

Secondaries go onto a stack (n, 10): x, y, z, ux, uy, uz, residual range, kind, volume, generation
(0 for a primary). Those too slow to leave their place are returned as energy to deposit on the
spot. ``place`` and ``state`` are those of ``_transport``, energies are MeV; ``e`` is that of a
proton, or of an ion per proton mass.
"""

import math

from numba import njit

from engine.dose.monte_carlo._random import two_uniforms, uniform
from engine.dose.monte_carlo._transport import (
    _OPTIONS,
    CHARGE2_OVER_MASS,
    MASS,
    range_at,
    turn_by,
)
from engine.physics.constants import ATOMIC_MASS_UNIT_MEV, PROTON_MASS_MEV

LOCAL_MM = 0.05  # of water: what goes no farther stays where it is made
QUANTILES = 64  # of secondaries' energies
ELASTIC_QUANTILES = 128  # at even roots of probability
ENERGY_GROUPS = 16  # with an angular distribution of their own
ANGLE_QUANTILES = 16


@njit(**_OPTIONS)
def push(stack, n, place, mev, kind, volume, cosine, azimuth, range_of_root):
    """Put a particle on the stack, turned from ``place``; (new length, energy left on the spot)."""
    e = mev / MASS[kind]
    r = range_at(e, range_of_root)
    if r < LOCAL_MM * CHARGE2_OVER_MASS[kind] or n >= stack.shape[0]:
        return n, mev
    for axis in range(6):
        stack[n, axis] = place[axis]
    turn_by(stack[n], cosine, azimuth)
    stack[n, 6], stack[n, 7], stack[n, 8], stack[n, 9] = r, kind, volume, 1.0
    return n + 1, 0.0


@njit(**_OPTIONS)
def channel(reactions, m, bin_, stream):
    """Index of the process in a material's cumulative rates."""
    last = reactions.shape[2] - 1
    goal = uniform(stream) * reactions[m, bin_, last]
    for c in range(last):
        if goal < reactions[m, bin_, c]:
            return c
    return last


@njit(**_OPTIONS)
def block_at(e, energies, n_blocks, stream):
    """Energy block by chance, so that on average one interpolates between two."""
    if e <= energies[0]:
        return 0
    for b in range(1, n_blocks):
        if e < energies[b]:
            share = (e - energies[b - 1]) / (energies[b] - energies[b - 1])
            return b if uniform(stream) < share else b - 1
    return n_blocks - 1


@njit(**_OPTIONS)
def quantile(table, u, n):
    """Value at a share u of an inverse distribution (n + 1,)."""
    scaled = u * n
    i = min(int(scaled), n - 1)
    return table[i] + (scaled - i) * (table[i + 1] - table[i])


@njit(**_OPTIONS)
def react(place, state, m, volume, stack, n, stream, physics):
    """One reaction of a proton with material ``m``, its process chosen by chance.

    Returns (survived, stack length, energy left on the spot, energy of neutrals and binding).
    """
    e = state[1]
    c = channel(physics.reactions, m, int(e), stream)
    if c == physics.reactions.shape[2] - 1:
        n, local = proton_proton(place, state, volume, stack, n, stream, physics)
        return True, n, local, 0.0
    row = physics.slot_row[m, c // 2]
    if c & 1:
        return True, n, elastic(place, state, row, stream, physics), 0.0
    n, charged, local = non_elastic(place, e, row, volume, stack, n, stream, physics)
    return False, n, local, e - charged


@njit(**_OPTIONS)
def non_elastic(place, e, row, volume, stack, n, stream, physics):
    """Protons, deuterons and alphas of one event; (stack length, charged energy, local energy)."""
    b = block_at(e, physics.block_energy[row], physics.n_blocks[row], stream)
    local = physics.recoil_share[row, b] * e
    charged = local
    for kind in range(3):
        mean = physics.multiplicity[row, b, kind]
        for _ in range(int(mean + uniform(stream))):
            u, v = two_uniforms(stream)
            mev = e * quantile(physics.energy_share[row, b, kind], u, QUANTILES)
            group = min(int(u * ENERGY_GROUPS), ENERGY_GROUPS - 1)
            cosine = quantile(physics.cosine[row, b, kind, group], v, ANGLE_QUANTILES)
            azimuth = 2.0 * math.pi * uniform(stream)
            n, stays = push(
                stack, n, place, mev, kind, volume, cosine, azimuth, physics.range_of_root
            )
            local += stays
            charged += mev
    return n, charged, local


@njit(**_OPTIONS)
def elastic(place, state, row, stream, physics):
    """Scatter off a nucleus beyond 5°; returns the recoil's energy."""
    e = state[1]
    b = block_at(e, physics.elastic_block_energy[row], physics.n_elastic_blocks[row], stream)
    u, v = two_uniforms(stream)
    table = physics.elastic_inverse_versine[row, b]
    versine = 1.0 / quantile(table, math.sqrt(u), ELASTIC_QUANTILES)
    cosine = 1.0 - versine
    # Two bodies: momentum and velocity of the center of mass, then back to the laboratory.
    target = physics.element_mass[row] * ATOMIC_MASS_UNIT_MEV
    p2 = e * (e + 2.0 * PROTON_MASS_MEV)
    total = e + PROTON_MASS_MEV + target
    s = PROTON_MASS_MEV * PROTON_MASS_MEV + target * target + 2.0 * target * (e + PROTON_MASS_MEV)
    p_center2 = p2 * target * target / s
    recoil = p_center2 * versine / target
    recoil = min(recoil, 0.999 * e)
    left = e - recoil
    beta, gamma = math.sqrt(p2) / total, total / math.sqrt(s)
    along = gamma * (
        math.sqrt(p_center2) * cosine
        + beta * math.sqrt(p_center2 + PROTON_MASS_MEV * PROTON_MASS_MEV)
    )
    p_after = math.sqrt(left * (left + 2.0 * PROTON_MASS_MEV))
    turn_by(place, min(max(along / p_after, -1.0), 1.0), 2.0 * math.pi * v)
    state[1] = left
    state[0] = range_at(left, physics.range_of_root)
    return recoil


@njit(**_OPTIONS)
def proton_proton(place, state, volume, stack, n, stream, physics):
    """Isotropic in the center of mass; the slower proton goes to the stack.

    Returns (stack length, energy that the slower one leaves on the spot).
    """
    e = state[1]
    u, v = two_uniforms(stream)
    fast = e * (0.5 + 0.5 * u)
    slow = e - fast
    azimuth = 2.0 * math.pi * v
    n, stays = push(
        stack, n, place, slow, 0, volume, _pp_cosine(slow, e), azimuth + math.pi,
        physics.range_of_root,
    )  # fmt: skip
    turn_by(place, _pp_cosine(fast, e), azimuth)
    state[1] = fast
    state[0] = range_at(fast, physics.range_of_root)
    return n, stays


@njit(**_OPTIONS)
def _pp_cosine(after, before):
    """Angle of a proton that keeps ``after`` of ``before`` MeV in a collision with one at rest."""
    if after <= 0.0:
        return 0.0
    c2 = after * (before + 2.0 * PROTON_MASS_MEV) / (before * (after + 2.0 * PROTON_MASS_MEV))
    return math.sqrt(min(c2, 1.0))
