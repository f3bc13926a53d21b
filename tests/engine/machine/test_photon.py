import numpy as np
import pytest

from engine.machine.photon import generic_photon, square_field_gy
from engine.machine.photon_kernels import pencil_fit, separated_kernel


@pytest.mark.parametrize("z, a, b, c, d", [
    (1.0, 0.01903, 4.87835, 2e-5, 0.06268), (5.0, 0.01633, 4.8373, 9e-5, 0.12592),
    (10.0, 0.01242, 4.78599, 1.4e-4, 0.12876), (20.0, 0.00732, 4.68336, 1.2e-4, 0.09739),
])  # fmt: skip
def test_the_fit_gives_the_published_check_values(z, a, b, c, d):
    """Nyholm et al. 2006, TPR20,10 = 0.67."""
    fit = pencil_fit(0.67, np.array([z]))
    np.testing.assert_allclose([fit.amplitude[0], fit.scatter_amplitude[0]], [a, c], atol=5.1e-6)
    np.testing.assert_allclose([fit.rate[0], fit.scatter_rate[0]], [b, d], atol=5e-5)


def test_three_components_rebuild_the_kernel():
    kernel = separated_kernel(0.68)
    assert kernel.singular_value[3] < 2e-4
    n = kernel.pixel_kernel.shape[1]
    count = np.where(np.arange(n) == 0, 1.0, 2.0)
    inside = 0.5 * np.hypot(*np.meshgrid(np.arange(n), np.arange(n))) <= 50.0
    whole = np.einsum("iuv,u,v->i", kernel.pixel_kernel * inside, count, count)
    depth = np.array([20, 50, 100, 200, 300])
    rebuilt = kernel.depth_component[depth] @ whole
    expected = pencil_fit(0.68, 0.1 * depth).cumulative(np.array([5.0]))[:, 0]
    np.testing.assert_allclose(rebuilt, expected, rtol=2e-3)


def test_depth_dose_and_field_sizes_are_those_of_a_6_mv_beam():
    """Parallel 10 × 10 cm² field: TPR20,10 0.673, PDD(10) 66.1 %, PDD(20) 37.4 %, maximum at
    1.5 cm; output at 10 cm depth 0.932 (5 cm) and 1.081 (20 cm): the fit's own, recomputed."""
    machine, depth = generic_photon(), np.arange(0.0, 300.0)
    dose = square_field_gy(machine, 100.0, depth, profile=False)
    assert dose[200] / dose[100] == pytest.approx(0.673, abs=2e-3)
    pdd = dose * (1000.0 / (1000.0 + depth)) ** 2
    assert abs(pdd.argmax() - 15.0) <= 2.0
    assert 100.0 * pdd[100] / pdd.max() == pytest.approx(66.1, abs=0.5)
    assert 100.0 * pdd[200] / pdd.max() == pytest.approx(37.4, abs=0.5)
    at = np.array([100.0])
    output = [square_field_gy(machine, s, at, profile=False)[0] / dose[100] for s in (50.0, 200.0)]
    np.testing.assert_allclose(output, [0.932, 1.081], atol=4e-3)


def test_dose_falls_steadily_beyond_the_fitted_depths():
    depth = np.arange(350.0, 700.0, 10.0)
    dose = square_field_gy(generic_photon(), 100.0, depth)
    assert np.all(np.diff(dose) < 0)
    assert np.all(dose > 0)


def test_a_bixel_has_its_fluence_and_ends_at_the_reach():
    machine = generic_photon()
    table = machine.bixel_table(5.0, 40.0)
    at = machine.depth_at(np.array([100.0]))[0]
    dose = table @ at
    assert dose[0, 0] == dose.max()
    assert np.all(dose >= 0)
    assert not dose[-1].any()
    assert not dose[:, -2:].any()
    wide = machine.bixel_table(10.0, 40.0) @ at
    corner = sum(dose[abs(i), abs(j)] for i in (-5, 5) for j in (-5, 5))  # ± 2.5 mm
    assert corner == pytest.approx(wide[0, 0], rel=2e-3)


def test_impossible_beams_are_refused():
    with pytest.raises(ValueError, match="tpr_20_10"):
        generic_photon(0.9)
    with pytest.raises(ValueError, match="reach_mm"):
        generic_photon().bixel_table(5.0, 0.0)
    with pytest.raises(ValueError, match="width_mm"):
        generic_photon().bixel_table(-5.0, 40.0)
