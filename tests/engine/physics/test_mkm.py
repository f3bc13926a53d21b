import numpy as np
import pytest

from engine.physics.ions import stopping_power_mev_cm2_g
from engine.physics.mkm import Mkm
from engine.physics.tracks import ION_CHARGES, kiefer_chatterjee

HSG = Mkm()


def direct_alpha(model: Mkm, charge: int, energy_mev: float) -> float:
    """Sums over radii and impact parameters, straight from the dose; slow and plain."""
    track, disc = kiefer_chatterjee(charge, energy_mev), model.domain_radius_um
    ratio2 = (model.nucleus_radius_um / disc) ** 2
    z0 = ratio2 / np.sqrt(model.beta_0_per_gy2 * (1.0 + ratio2))
    edges = np.concatenate([[0.0], np.geomspace(1e-5, disc + track.reach_um, 6000)])
    r = 0.5 * (edges[1:] + edges[:-1])
    ring = track.dose_gy(r) * np.pi * np.diff(edges**2)
    gaps = np.geomspace(1e-5, disc, 300)
    b_edges = np.concatenate([disc - gaps[::-1], [disc], disc + gaps, np.linspace(0.65, 8.0, 400)])
    b = 0.5 * (b_edges[1:] + b_edges[:-1])
    z = np.empty_like(b)
    for i, impact in enumerate(b):
        cosine = (r**2 + impact**2 - disc**2) / (2.0 * r * impact)
        z[i] = np.sum(ring * np.arccos(np.clip(cosine, -1.0, 1.0))) / np.pi**2 / disc**2
    saturated = z0**2 * -np.expm1(-((z / z0) ** 2))
    mean = np.sum(saturated * np.pi * np.diff(b_edges**2)) / float(track.within_gy_um2())
    return model.alpha_0_per_gy + model.beta_0_per_gy2 * mean


@pytest.mark.parametrize("charge, energy_mev", [(1, 2.0), (2, 20.0), (6, 3.0), (6, 60.0)])
def test_initial_slope_matches_direct_sums(charge, energy_mev):
    expected = direct_alpha(HSG, charge, energy_mev)
    found = HSG.alpha_per_gy(charge, np.array([energy_mev]))
    assert found == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("charge", ION_CHARGES)
def test_fast_ions_tend_to_the_slope_of_vanishing_let(charge):
    alpha = HSG.alpha_per_gy(charge, np.array([100.0, 200.0, 500.0]))
    assert np.all(np.diff(alpha) < 0.0) and np.all(alpha > HSG.alpha_0_per_gy)
    assert HSG.alpha_per_gy(1, np.array([500.0])) == pytest.approx(HSG.alpha_0_per_gy, rel=0.03)


def test_carbon_is_most_effective_near_150_kev_um():
    energy = np.geomspace(1.0, 400.0, 400)
    most = energy[np.argmax(HSG.alpha_per_gy(6, energy))]
    let_kev_um = 0.1 * float(stopping_power_mev_cm2_g(6, most))
    # measured for these cells: Furusawa et al., Radiat. Res. 154 (2000) 485
    assert 100.0 < let_kev_um < 200.0


def test_saturation_sets_in_at_the_published_lineal_energy():
    # Kase et al. 2006: r_d = 0.42 µm, R_n = 4.1 µm, β = 0.05 /Gy² go with y0 = 150 keV/µm.
    kase = Mkm(0.13, 0.05, 0.42, 4.1)
    assert kase._saturation_gy * np.pi * 0.42**2 / 0.1602177 == pytest.approx(150.0, rel=0.01)


def test_larger_nuclei_saturate_later():
    wide, energy = Mkm(nucleus_radius_um=8.0), np.array([1.0, 5.0, 100.0])
    gain = wide.alpha_per_gy(6, energy) / HSG.alpha_per_gy(6, energy)
    assert np.all(gain > 1.0) and np.all(np.diff(gain) < 0.0)


def test_quadratic_term_is_the_same_for_all_ions():
    energy = np.array([[1.0, 10.0], [100.0, 400.0]], dtype=np.float32)
    for charge in ION_CHARGES:
        assert np.all(HSG.beta_per_gy2(charge, energy) == 0.0615)
        assert HSG.alpha_per_gy(charge, energy).shape == (2, 2)


def test_models_of_equal_parameters_are_equal_and_hashable():
    assert Mkm() == HSG and hash(Mkm()) == hash(HSG) and Mkm(0.2) != HSG


def test_ions_and_energies_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="charge=0 has no track"):
        HSG.beta_per_gy2(0, np.array([10.0]))
    with pytest.raises(ValueError, match="energy_mev=700.0"):
        HSG.alpha_per_gy(6, np.array([700.0]))


@pytest.mark.parametrize("field", ["alpha_0_per_gy", "domain_radius_um", "alpha_x_per_gy"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, None])
def test_impossible_parameters_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} must be positive"):
        Mkm(**{field: value})
