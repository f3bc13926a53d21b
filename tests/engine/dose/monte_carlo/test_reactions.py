"""Nuclear reactions: two bodies conserve energy and momentum, and events are the tables'."""

from dataclasses import replace

import numpy as np
import pytest
from numba import njit

from engine.dose.monte_carlo._random import start_stream
from engine.dose.monte_carlo._reactions import LOCAL_MM, react
from engine.dose.monte_carlo._transport import CHARGE2_OVER_MASS, MASS, energy_at
from engine.dose.monte_carlo.tables import Processes, physics_tables
from engine.physics.constants import ATOMIC_MASS_UNIT_MEV, PROTON_MASS_MEV
from engine.physics.materials import WATER, Material
from engine.physics.nuclear_tables import load_nuclear_tables
from engine.physics.stopping_power import energy_at_range

OFF = Processes(*[False] * 5)
SLOW_MEV = 0.03  # by which a slow particle's range, in steps of 0.25 MeV, tells its energy wrong
TABLES = load_nuclear_tables()


@njit
def reactions(n, e, physics):
    """Some reactions of protons along z: per event (n, 8) survived, direction and energy after,
    local, neutral, number of secondaries; per secondary event, kind, energy, direction (m, 6)."""
    events, secondaries, m = np.empty((n, 8)), np.empty((20 * n, 6)), 0
    place, state, stream = np.zeros(6), np.zeros(2), np.zeros(1, np.uint64)
    stack = np.zeros((64, 10))
    for i in range(n):
        start_stream(stream, np.uint64(11), np.uint64(i))
        place[:] = 0.0
        place[5] = 1.0
        state[1] = e
        survived, found, local, neutral = react(place, state, 0, 0, stack, 0, stream, physics)
        events[i, 0] = 1.0 if survived else 0.0
        events[i, 1:4] = place[3:]
        events[i, 4], events[i, 5], events[i, 6], events[i, 7] = state[1], local, neutral, found
        for j in range(found):
            kind = int(stack[j, 7])
            mev = MASS[kind] * energy_at(
                stack[j, 6], physics.inverse_root_step, physics.energy_of_root
            )
            secondaries[m, 0], secondaries[m, 1], secondaries[m, 2] = i, kind, mev
            secondaries[m, 3:] = stack[j, 3:6]
            m += 1
    return events, secondaries[:m]


def momentum(mev, direction):
    return np.sqrt(mev * (mev + 2 * PROTON_MASS_MEV))[:, None] * direction


@pytest.fixture(scope="module")
def proton_proton():
    physics = physics_tables((WATER,), 75.0, replace(OFF, proton_proton=True))
    return {e: reactions(40_000, e, physics) for e in (20.0, 100.0, 200.0)}


@pytest.mark.parametrize("e", [20.0, 100.0, 200.0])
def test_two_protons_share_energy_and_momentum_of_one(proton_proton, e):
    events, secondaries = proton_proton[e]
    assert np.all(events[:, 0] == 1.0) and np.all(events[:, 6] == 0.0)
    both = events[:, 7] == 1.0
    np.testing.assert_allclose(events[both, 4] + secondaries[:, 2], e, atol=SLOW_MEV)
    np.testing.assert_allclose((events[:, 4] + events[:, 5])[~both], e, rtol=1e-12)
    total = momentum(events[both, 4], events[both, 1:4]) + momentum(
        secondaries[:, 2], secondaries[:, 3:]
    )
    before = np.sqrt(e * (e + 2 * PROTON_MASS_MEV))
    at_most = SLOW_MEV * np.sqrt(PROTON_MASS_MEV / (2.0 * 1.8))  # p dp = M dE at 1.8 MeV
    np.testing.assert_allclose(total, np.broadcast_to((0, 0, before), total.shape), atol=at_most)


def test_two_protons_part_at_nearly_a_right_angle(proton_proton):
    events, secondaries = proton_proton[200.0]
    fast = events[events[:, 7] == 1.0]
    angle = np.degrees(np.arccos(np.sum(fast[:, 1:4] * secondaries[:, 3:], axis=1)))
    # 90° at low energy; at 200 MeV the equal split opens to 2 atan √(2/(γ + 1)) = 87.1°
    gamma = 1.0 + 200.0 / PROTON_MASS_MEV
    least = 2.0 * np.degrees(np.arctan(np.sqrt(2.0 / (gamma + 1.0))))
    assert angle.min() == pytest.approx(least, abs=0.05)
    assert angle.max() < 90.01


@pytest.mark.parametrize("e", [20.0, 100.0, 200.0])
def test_all_splits_between_two_protons_are_alike(proton_proton, e):
    # isotropic in the center of mass: the energy of each is uniform in the laboratory
    after = np.sort(proton_proton[e][0][:, 4])
    expected = e * (0.5 + 0.5 * (np.arange(after.size) + 0.5) / after.size)
    np.testing.assert_allclose(after, expected, atol=0.01 * e)


@pytest.mark.parametrize("symbol, e", [("O", 30.0), ("O", 150.0), ("C", 100.0), ("Ca", 60.0)])
def test_elastic_scattering_is_that_of_two_bodies_by_the_tables_angles(symbol, e):
    physics = physics_tables(
        (Material("pure", 1.0, {symbol: 1.0}),), 75.0, replace(OFF, nuclear_elastic=True)
    )
    n = 200_000
    events, secondaries = reactions(n, e, physics)
    assert secondaries.size == 0 and np.all(events[:, 0] == 1.0)
    after, recoil = events[:, 4], events[:, 5]
    np.testing.assert_allclose(after + recoil, e, rtol=1e-12)
    # The recoil's momentum, from its energy, is what the proton lost.
    row = TABLES.symbols.index(symbol)
    target = TABLES.mass_u[row] * ATOMIC_MASS_UNIT_MEV
    lost = momentum(np.full(n, e), np.array([[0.0, 0.0, 1.0]])) - momentum(after, events[:, 1:4])
    expected = np.sqrt(recoil * (recoil + 2.0 * target))
    np.testing.assert_allclose(np.linalg.norm(lost, axis=1), expected, rtol=2e-3, atol=0.05)
    # Its mean: the table's mean versine, by Simpson over the same quantiles, two blocks by chance.
    blocks = TABLES.elastic_block_energy_mev[row, : TABLES.n_elastic_blocks[row]]
    at = np.clip(np.searchsorted(blocks, e), 1, len(blocks) - 1)
    share = np.clip((e - blocks[at - 1]) / (blocks[at] - blocks[at - 1]), 0.0, 1.0)
    means = [versine(TABLES.elastic_inverse_versine[row, b]) for b in (at - 1, at)]
    p2 = e * (e + 2 * PROTON_MASS_MEV)
    s = PROTON_MASS_MEV**2 + target**2 + 2 * target * (e + PROTON_MASS_MEV)
    mean = p2 * target / s * ((1 - share) * means[0] + share * means[1])
    error = recoil.std() / np.sqrt(n)
    assert recoil.mean() == pytest.approx(mean, abs=4.0 * error)


def versine(quantiles):
    """Mean of 1/v over a table of v at the probabilities (k/128)²."""
    root = (np.arange(200_000) + 0.5) / 200_000
    v = np.interp(128.0 * root, np.arange(129), quantiles)
    return np.average(1.0 / v, weights=root)


@pytest.mark.parametrize("symbol, e", [("O", 50.0), ("O", 150.0), ("O", 170.0), ("Ca", 100.0)])
def test_non_elastic_events_have_the_tables_particles_and_energies(symbol, e):
    physics = physics_tables(
        (Material("pure", 1.0, {symbol: 1.0}),), 75.0, replace(OFF, non_elastic=True)
    )
    n = 60_000
    events, found = reactions(n, e, physics)
    assert np.all(events[:, 0] == 0.0)
    row = TABLES.symbols.index(symbol)
    energies = TABLES.block_energy_mev[row, : TABLES.n_blocks[row]]
    at = np.clip(np.searchsorted(energies, e), 1, len(energies) - 1)
    share = (e - energies[at - 1]) / (energies[at] - energies[at - 1])
    weights = {at - 1: 1.0 - share, at: share}
    charged = sum(w * TABLES.recoil_share[row, b] for b, w in weights.items())
    for kind in range(3):
        # What goes no farther than LOCAL_MM, alphas up to 8 MeV, stays where it is made.
        least = MASS[kind] * float(energy_at_range(LOCAL_MM * CHARGE2_OVER_MASS[kind]))
        number = energy = 0.0
        for b, w in weights.items():
            mev = e * energy_shares(row, b, kind)
            mean = w * TABLES.multiplicity[row, b, kind]
            number += mean * np.mean(mev > least)
            energy += mean * np.mean(mev * (mev > least))
            charged += mean * np.mean(mev) / e
        mine = found[found[:, 1] == kind]
        assert len(mine) / n == pytest.approx(number, rel=0.01, abs=4.0 / np.sqrt(n))
        assert mine[:, 2].sum() / n == pytest.approx(energy, rel=0.03, abs=0.02)
    left = 1.0 - events[:, 6].mean() / e
    assert left == pytest.approx(charged, abs=0.005)
    # what is not neutral is on the stack or on the spot
    on_stack = np.bincount(found[:, 0].astype(int), found[:, 2], n)
    np.testing.assert_allclose(on_stack + events[:, 5] + events[:, 6], e, atol=5 * SLOW_MEV)


def energy_shares(row, block, kind, n=100_000):
    """Energies over the incident one, (n,), evenly through their distribution."""
    quantiles = TABLES.energy_share[row, block, kind].astype(float)
    return np.interp(64.0 * (np.arange(n) + 0.5) / n, np.arange(65), quantiles)


# ICRU 63, as OXYGEN of tests/engine/physics/test_nuclear.py: multiplicity, share of the incident
# energy and energy-weighted mean cosine of the protons of p + O.
@pytest.mark.parametrize("e, multiplicity, share, cosine", [(50.0, 1.21, 0.38, 0.55),
                                                            (100.0, 1.69, 0.42, 0.65),
                                                            (150.0, 1.99, 0.46, 0.71),
                                                            (200.0, 2.17, 0.47, 0.72)])  # fmt: skip
def test_protons_from_oxygen_are_those_of_icru_63(e, multiplicity, share, cosine):
    physics = physics_tables((WATER,), 75.0, replace(OFF, non_elastic=True))
    n = 40_000
    _, found = reactions(n, e, physics)
    protons = found[found[:, 1] == 0]
    assert len(protons) / n == pytest.approx(multiplicity, rel=0.12)  # less those below 2 MeV
    assert protons[:, 2].sum() / n / e == pytest.approx(share, abs=0.015)
    mean = np.average(protons[:, 5], weights=protons[:, 2])
    assert mean == pytest.approx(cosine, abs=0.03)


def test_reactions_of_a_mixture_come_in_proportion_to_their_cross_sections():
    physics = physics_tables((WATER,), 75.0, Processes())
    n = 60_000
    events, _ = reactions(n, 150.0, physics)
    rates = np.diff(physics.reactions[0, 150], prepend=0.0).astype(float)
    rates /= rates.sum()
    survived = events[:, 0] == 1.0
    assert 1.0 - survived.mean() == pytest.approx(rates[0], abs=4 / np.sqrt(n))
    # of those that survive, hydrogen takes up to half the energy, oxygen far less
    hydrogen = survived & (events[:, 4] < 0.8 * 150.0)
    assert hydrogen.mean() == pytest.approx(0.6 * rates[-1], abs=4 / np.sqrt(n))
