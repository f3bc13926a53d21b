from dataclasses import replace

import numpy as np
import pytest

from engine.patient.ct import SchneiderCalibration, density_volume
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.medium import Medium, medium_of, on_grid
from engine.patient.patient import Patient, Structure
from engine.patient.tissue_ladder import InterpolatedCalibration
from engine.patient.tissues import BIN_MATERIALS, MATERIALS

SHAPE = (4, 6, 6)
GRID = Grid.centered(SHAPE, (3.0, 2.0, 2.0))


def box(z=slice(None), y=slice(None), x=slice(None)) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[z, y, x] = True
    return mask


def patient(hu, *structures, external_material=None) -> Patient:
    named = [
        Structure("External", box(y=slice(1, None)), "external", material=external_material),
        Structure("PTV", box(slice(1, 3), slice(2, 4), slice(2, 4)), "target"),
        *structures,
    ]
    hu = np.broadcast_to(np.asarray(hu, np.float32), SHAPE).copy()
    return Patient("box", GRID, hu, {s.name: s for s in named}, {"PTV": 60.0}, 30)


def names(medium: Medium) -> np.ndarray:
    return np.array([m.name for m in medium.materials])[medium.material]


def mass_g(medium: Medium) -> float:
    return float(medium.density_g_cm3.sum(dtype=float)) * medium.grid.voxel_volume_cm3


def random_medium(seed: int = 0) -> Medium:
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.0, 2.0, SHAPE).astype(np.float32)
    return Medium(GRID, density, rng.integers(0, 25, SHAPE).astype(np.uint8), BIN_MATERIALS)


def test_density_and_composition_are_the_calibrations():
    hu = np.random.default_rng(1).uniform(-1000, 3000, SHAPE)
    medium, body = medium_of(patient(hu)), box(y=slice(1, None))
    np.testing.assert_array_equal(medium.density_g_cm3, density_volume(patient(hu)))
    tissues = np.array([m.name for m in BIN_MATERIALS])
    expected = tissues[SchneiderCalibration().composition(hu)]
    assert np.array_equal(names(medium)[body], expected[body])
    assert medium.density_g_cm3.dtype == np.float32
    assert medium.material.dtype == np.uint8


def test_overrides_replace_density_and_composition_the_external_first():
    couch = Structure("Couch", box(y=0, z=slice(0, 2)), "support", "pmma")
    insert = Structure("Insert", box(y=4), "organ", "cortical_bone")
    corner = Structure("Corner", box(y=4, x=0), "organ", "titanium")
    medium = medium_of(patient(0.0, couch, insert, corner, external_material="water"))
    assert np.all(names(medium)[:, 3] == "water")
    assert np.all(names(medium)[:, 4, 1:] == "cortical_bone")
    assert np.all(names(medium)[:, 4, 0] == "titanium")
    assert np.all(names(medium)[:2, 0] == "pmma")
    assert np.all(medium.density_g_cm3[:2, 0] == np.float32(1.19))
    assert np.all(medium.density_g_cm3[:, 3] == 1.0)
    assert np.all(medium.density_g_cm3[2:, 0] == 0.0)


def test_only_materials_that_are_there_are_kept_once_each():
    covered = Structure("Covered", box(y=5), "organ", "brass")
    over_it = Structure("OverIt", box(y=5), "organ", "lung")
    again = Structure("Again", box(y=2), "organ", "lung")
    medium = medium_of(patient(0.0, covered, over_it, again))
    assert [m.name for m in medium.materials] == ["schneider_6", "lung"]
    assert medium.materials[1] is MATERIALS["lung"]


def test_an_empty_body_is_vacuum_with_some_material():
    nothing = patient(0.0).with_structures(Structure("External", np.zeros(SHAPE, bool), "external"))
    medium = medium_of(nothing)
    assert not medium.density_g_cm3.any()
    assert not medium.material.any()
    assert len(medium.materials) == 1


def test_density_scale_multiplies_overrides_and_supports_too():
    couch = Structure("Couch", box(y=0), "support", "pmma")
    nominal = medium_of(patient(300.0, couch))
    scaled = medium_of(patient(300.0, couch), density_scale=1.035)
    np.testing.assert_allclose(scaled.density_g_cm3, nominal.density_g_cm3 * 1.035, rtol=1e-6)
    assert np.array_equal(scaled.material, nominal.material)


@pytest.mark.parametrize("density_scale", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_density_scale_is_refused(density_scale):
    with pytest.raises(ValueError, match="density_scale"):
        medium_of(patient(0.0), density_scale=density_scale)


def test_a_ct_that_was_damaged_later_is_refused():
    damaged = patient(0.0)
    damaged.hu[0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="hu of 'box' holds 1 NaN"):
        medium_of(damaged)


@pytest.mark.parametrize("density", [np.nan, np.inf, -0.1])
def test_a_calibration_with_impossible_densities_is_refused(density):
    values = np.ones(SHAPE, np.float32)
    values[0, 3, 3] = density
    known = KnownMedium(values, np.zeros(SHAPE, np.uint8), (MATERIALS["muscle"],))
    with pytest.raises(ValueError, match="calibration"):
        medium_of(patient(0.0), known)


def test_a_known_medium_hands_over_its_own_materials():
    index = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 2
    both = (MATERIALS["muscle"], MATERIALS["brass"])
    known = KnownMedium(np.full(SHAPE, 1.3, np.float32), index.astype(np.uint8), both)
    medium, body = medium_of(patient(0.0), known), box(y=slice(1, None))
    assert np.array_equal(names(medium)[body], np.array(["muscle", "brass"])[index][body])
    assert all(m.i_ev is not None for m in medium.materials)  # compared as stated


def test_inputs_stay_as_they_were():
    density = np.ones(SHAPE, np.float32)
    known = KnownMedium(density, np.zeros(SHAPE, np.uint8), (MATERIALS["muscle"],))
    subject = patient(0.0, external_material="water")
    medium_of(subject, known, density_scale=0.5)
    assert np.all(density == 1.0)
    assert np.all(subject.hu == 0.0)


def test_the_same_grid_gives_the_same_medium():
    medium = random_medium()
    assert on_grid(medium, replace(GRID)) is medium


@pytest.mark.parametrize(
    "spacing_mm", [(3.0, 3.0, 3.0), (5.0, 4.0, 7.0), (1.0, 0.7, 2.0), (40.0, 1.5, 2.5)]
)
def test_mass_is_conserved_onto_a_grid_that_covers_the_ct(spacing_mm):
    medium = random_medium()
    around = Grid.centered((14, 40, 40), spacing_mm)
    assert np.all(around.lower_mm <= GRID.lower_mm)
    assert np.all(around.upper_mm >= GRID.upper_mm)
    resampled = on_grid(medium, around)
    assert mass_g(resampled) == pytest.approx(mass_g(medium), rel=1e-6)
    assert resampled.density_g_cm3.dtype == np.float32


def test_what_lies_beyond_the_ct_is_vacuum_in_the_mean():
    full = Medium(GRID, np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.uint8), BIN_MATERIALS[:1])
    shifted = Grid(SHAPE, GRID.spacing_mm, tuple(np.array(GRID.origin_mm) + (0.0, 1.0, 0.0)))
    density = on_grid(full, shifted).density_g_cm3
    np.testing.assert_allclose(density[:, :-1], 1.0, rtol=1e-6)
    np.testing.assert_allclose(density[:, -1], 0.5, rtol=1e-6)
    far = Grid(SHAPE, GRID.spacing_mm, (500.0, 0.0, 0.0))
    assert not on_grid(full, far).density_g_cm3.any()


def test_blocks_of_whole_voxels_match_plain_means_and_weights():
    medium = random_medium(3)
    blocks = on_grid(medium, GRID.resampled((6.0, 4.0, 6.0)))
    assert blocks.grid.shape == (2, 3, 2)
    for k, j, i in np.ndindex(blocks.grid.shape):
        cut = np.s_[2 * k : 2 * k + 2, 2 * j : 2 * j + 2, 3 * i : 3 * i + 3]
        density, material = medium.density_g_cm3[cut], medium.material[cut]
        assert blocks.density_g_cm3[k, j, i] == pytest.approx(density.mean(), rel=1e-6)
        masses = np.bincount(material.ravel(), density.ravel())
        assert blocks.material[k, j, i] == np.argmax(masses)


def test_the_heavier_half_names_the_material():
    density = np.where(box(y=slice(0, 3)), 0.3, 1.9).astype(np.float32)
    material = np.where(box(y=slice(0, 3)), 0, 1).astype(np.uint8)
    medium = Medium(GRID, density, material, (MATERIALS["lung"], MATERIALS["cortical_bone"]))
    coarse = on_grid(medium, GRID.resampled((3.0, 4.0, 2.0)))
    assert np.all(names(coarse)[:, 0] == "lung")
    assert np.all(names(coarse)[:, 1] == "cortical_bone")


def test_every_calibration_survives_the_journey():
    hu = np.random.default_rng(2).uniform(-1000, 3000, SHAPE)
    medium = medium_of(patient(hu), InterpolatedCalibration())
    coarse = on_grid(medium, GRID.resampled(5.0))
    assert coarse.material.max() < len(coarse.materials)
    assert mass_g(coarse) == pytest.approx(mass_g(medium), rel=1e-6)
