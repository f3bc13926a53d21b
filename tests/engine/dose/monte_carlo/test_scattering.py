"""Multiple scattering: soft Gaussian and hard events together are the exact distribution.

The reference is the small-angle form of Goudsmit and Saunderson (Bethe, Phys. Rev. 89 (1953)
1256): P(θ < t) = t ∫ J₁(ηt) exp(Ω(η)) dη, where screened Rutherford scattering off nuclei has
Ω = −(χ_c²/χ_a²) (1 − ηχ_a K₁(ηχ_a)), less what single events beyond the largest angle L would add,
χ_c² ∫_L 2 (1 − J₀(ηθ)) θ⁻³ dθ, and electrons, whose angles are tiny, −χ_el² η²/4.
"""

import numpy as np
import pytest
from numba import njit
from scipy.special import j0, j1, k1

from engine.dose.monte_carlo._random import normal_quantiles, start_stream
from engine.dose.monte_carlo._transport import scatter, turn_by
from engine.dose.monte_carlo.tables import Processes, physics_tables
from engine.patient.tissues import MATERIALS
from engine.physics.constants import PROTON_MASS_MEV
from engine.physics.materials import WATER

LIMIT_RAD = 0.15
N = 200_000
COULOMB, SCREENING, ELECTRONS = 1, 2, 3  # columns of ``Physics.media``


@njit
def deflections(n, n_steps, e, path_mm, coulomb, logarithm, limit2, quantiles):
    """Directions (n, 3) of particles along z after a path in some steps, without energy loss."""
    out, stream, place = np.empty((n, 3)), np.zeros(1, np.uint64), np.zeros(6)
    for i in range(n):
        start_stream(stream, np.uint64(1), np.uint64(i))
        place[3], place[4], place[5] = 0.0, 0.0, 1.0
        for _ in range(n_steps):
            scatter(place, e, path_mm / n_steps, 1.0, coulomb, logarithm, limit2, stream, quantiles)
        out[i] = place[3:]
    return out


@njit
def turned(direction, cosine, azimuth):
    place = np.zeros(6)
    place[3:] = direction
    turn_by(place, cosine, azimuth)
    return place[3:].copy()


def row(material, energy_mev):
    """The material's columns at an energy, float64."""
    tables = physics_tables((material,), 75.0, Processes(nuclear_elastic=False))
    return tables.media[0, int(energy_mev)].astype(float)


def beyond(eta):
    """∫ 2 (1 − J₀(ηθ)) θ⁻³ dθ from LIMIT_RAD on, (n,): η² times a function of ηL."""
    t = np.geomspace(1e-7, 1e4, 20_001)
    steps = 2.0 * (1.0 - j0(t)) / t**2 * np.log(t[1] / t[0])  # over ln t
    rest = np.cumsum(steps[::-1])[::-1]
    return eta**2 * np.interp(np.log(eta * LIMIT_RAD), np.log(t), rest)


def exact(t_rad, energy_mev, path_mm, columns):
    """P(θ < t), by numerical integration."""
    m = PROTON_MASS_MEV
    pv = energy_mev * (energy_mev + 2.0 * m) / (energy_mev + m)
    pc2 = energy_mev * (energy_mev + 2.0 * m)
    chi2, screening2 = columns[COULOMB] * path_mm / pv**2, np.exp(columns[SCREENING]) / pc2
    top = 12.0 / np.sqrt(chi2)
    eta = np.linspace(1e-6, 1.0, 100_001) * top
    x = eta * np.sqrt(screening2)
    exponent = -chi2 / screening2 * (1.0 - x * k1(x)) - chi2 * columns[ELECTRONS] * eta**2 / 4.0
    exponent += chi2 * beyond(eta)
    return np.array([t * np.trapezoid(j1(eta * t) * np.exp(exponent), eta) for t in t_rad])


@pytest.mark.parametrize(
    "material, energy_mev, path_mm, n_steps, apart",
    [
        (WATER, 100.0, 13.0, 10, 0.003),
        (WATER, 100.0, 40.0, 3, 0.003),
        (WATER, 20.0, 0.7, 10, 0.003),
        (WATER, 220.0, 50.0, 5, 0.003),
        (MATERIALS["cortical_bone"], 150.0, 27.0, 3, 0.003),
        (MATERIALS["brass"], 150.0, 27.0, 3, 0.003),
        # One step alone, a seventh of the range: 0.15 hard events do not quite make the shoulder.
        (WATER, 100.0, 13.0, 1, 0.005),
    ],
)
def test_a_few_steps_reproduce_the_exact_distribution(
    material, energy_mev, path_mm, n_steps, apart
):
    columns = row(material, energy_mev)
    found = deflections(
        N, n_steps, energy_mev, path_mm, columns[COULOMB],
        columns[ELECTRONS] - columns[SCREENING], LIMIT_RAD**2, normal_quantiles(),
    )  # fmt: skip
    angle = np.hypot(found[:, 0], found[:, 1])
    typical = np.sqrt(np.median(angle**2))
    t = np.array([0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0]) * typical
    t = t[t < 0.5 * LIMIT_RAD]
    shares = np.array([np.mean(angle < limit) for limit in t])
    expected = exact(t, energy_mev, path_mm, columns)
    np.testing.assert_allclose(shares, expected, atol=apart)
    assert 1.0 - shares[-1] == pytest.approx(1.0 - expected[-1], rel=0.1)  # the tail


def test_the_tail_ends_at_the_cut():
    limit = 0.03
    columns = row(WATER, 100.0)
    found = deflections(
        N, 1, 100.0, 13.0, columns[COULOMB], columns[ELECTRONS] - columns[SCREENING], limit**2,
        normal_quantiles(),
    )  # fmt: skip
    angle = np.arccos(found[:, 2])
    # Rutherford's tail, 1 − P(θ < t) = χ_c²/t², would leave 0.006 beyond; what is there is one
    # event at the limit with the soft part, or several events.
    assert np.mean(angle > 2.0 * limit) < 3e-4
    assert angle.max() < 4.0 * limit


def test_scattering_has_no_preferred_azimuth_and_keeps_directions_of_unit_length():
    columns = row(WATER, 100.0)
    found = deflections(
        N, 1, 100.0, 13.0, columns[COULOMB], columns[ELECTRONS] - columns[SCREENING],
        LIMIT_RAD**2, normal_quantiles(),
    )  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-14)
    azimuth = np.arctan2(found[:, 1], found[:, 0])
    counts, _ = np.histogram(azimuth, 16, (-np.pi, np.pi))
    np.testing.assert_allclose(counts / N, 1.0 / 16, atol=5.0 / np.sqrt(16 * N))


def test_no_coulomb_scattering_leaves_the_direction():
    found = deflections(10, 3, 100.0, 13.0, 0.0, 0.0, LIMIT_RAD**2, normal_quantiles())
    np.testing.assert_array_equal(found, np.broadcast_to((0.0, 0.0, 1.0), (10, 3)))


def test_turning_by_an_angle_turns_by_that_angle_whatever_the_direction():
    random = np.random.default_rng(0)
    directions = random.normal(size=(200, 3))
    directions[:6] = np.vstack([np.eye(3), -np.eye(3)])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for direction in directions:
        cosine, azimuth = random.uniform(-1.0, 1.0), random.uniform(0.0, 2.0 * np.pi)
        after = turned(direction, cosine, azimuth)
        opposite = turned(direction, cosine, azimuth + np.pi)
        assert after @ after == pytest.approx(1.0, abs=1e-14)
        assert after @ direction == pytest.approx(cosine, abs=1e-12)
        np.testing.assert_allclose(after + opposite, 2.0 * cosine * direction, atol=1e-12)
