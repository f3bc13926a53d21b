import numpy as np
import pytest

from engine.patient.ct import density_volume, rsp_volume
from engine.patient.phantoms import half_slab_tank, horseshoe, tg119_c_shape, water_tank
from engine.patient.structures import distance_mm


def volume_cm3(patient, name):
    return patient.mask(name).sum() * patient.grid.voxel_volume_cm3


def test_water_tank_is_water_everywhere():
    tank = water_tank((100.0, 200.0, 120.0), 4.0, 40.0)
    assert tank.grid.shape == (25, 50, 30)
    assert np.all(rsp_volume(tank) == 1.0)
    assert np.all(density_volume(tank) == 1.0)
    np.testing.assert_allclose(tank.grid.center_mm, 0.0, atol=1e-9)
    assert volume_cm3(tank, "PTV") == pytest.approx(64.0, rel=0.2)


def test_half_slab_lies_two_to_three_centimeters_deep_in_one_half():
    # Burlacu et al. 2024: 10 × 10 × 10 cm³, 1 mm voxels, slab of ±1000 HU
    tank = half_slab_tank(1000.0)
    assert tank.grid.shape == (100, 100, 100)
    rsp = rsp_volume(tank)
    assert np.all(rsp[:, :, :50] == 1.0)
    assert np.all(rsp[:, :20] == 1.0)
    assert np.all(rsp[:, 30:] == 1.0)
    slab = rsp[:, 20:30, 50:]
    assert np.all(slab == slab[0, 0, 0])
    assert 1.4 < slab[0, 0, 0] < 1.5  # Schneider 2000 at 1000 HU
    assert np.all(rsp_volume(half_slab_tank(-1000.0, 2.0))[:, 10:15, 25:] < 0.002)


def test_horseshoe_surrounds_its_organ_without_touching_it():
    # Ziegenhein et al. 2016: voxels of 1.952 × 1.952 × 2 mm³, horseshoe of about 12 cm
    phantom = horseshoe()
    assert phantom.grid.spacing_mm == (2.0, 1.952, 1.952)
    points = phantom.grid.points_mm(np.flatnonzero(phantom.mask("PTV")))
    assert np.ptp(points[:, 0]) == pytest.approx(120.0, abs=4.0)
    sphere = 4 / 3 * np.pi * 2.2**3
    assert volume_cm3(phantom, "Core") == pytest.approx(sphere, rel=0.02)
    assert distance_mm(phantom.mask("PTV"), phantom.grid)[phantom.mask("Core")].min() > 3.0
    middle = phantom.grid.shape[0] // 2
    assert not phantom.mask("PTV")[middle, :50, phantom.grid.shape[2] // 2].any()  # open in front


def test_c_shape_has_the_dimensions_of_tg119():
    # AAPM TG-119: core radius 1.0, length 10 cm; PTV radii 1.5 and 3.7, length 8 cm
    phantom = tg119_c_shape(2.0)
    assert volume_cm3(phantom, "Core") == pytest.approx(np.pi * 1.0**2 * 10.0, rel=0.05)
    ring = 0.75 * np.pi * (3.7**2 - 1.5**2) * 8.0
    assert volume_cm3(phantom, "PTV") == pytest.approx(ring, rel=0.03)
    distance = distance_mm(phantom.mask("Core"), phantom.grid)[phantom.mask("PTV")]
    assert distance.min() == pytest.approx(5.0, abs=1.5)
    assert np.all(rsp_volume(phantom)[phantom.external.mask] == 1.0)
    assert phantom.prescription_gy["PTV"] == 50.0


def test_c_shape_takes_a_wider_field_of_view():
    phantom = tg119_c_shape(5.0, field_of_view_mm=(325.0, 500.0, 500.0))
    assert phantom.grid.shape == (65, 100, 100)
    assert volume_cm3(phantom, "External") == pytest.approx(12000.0, rel=0.05)


@pytest.mark.parametrize(
    "build",
    [
        lambda: water_tank(0.0),
        lambda: water_tank(100.0, -1.0),
        lambda: water_tank(100.0, 5.0, target_size_mm=200.0),
        lambda: half_slab_tank(5000.0),
        lambda: tg119_c_shape(arc_deg=400.0),
        lambda: horseshoe(organ_diameter_mm=100.0),
    ],
)
def test_impossible_phantoms_are_refused(build):
    with pytest.raises(ValueError, match="must"):
        build()
