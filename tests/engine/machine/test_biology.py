from dataclasses import dataclass

import numpy as np
import pytest

from engine.machine.biology import layer_biology, mixed_field
from engine.machine.depth_kernels import layer_kernel
from engine.machine.library import load_machine
from engine.physics.lem import Lem1, tissue
from scripts.validate_spread_out_peak import layers_for, spread_out_peak


@dataclass(frozen=True)
class ByCharge:
    """α = 0.1 Z, β = 0.01 Z², whatever the energy."""

    alpha_x_per_gy: float = 0.1
    beta_x_per_gy2: float = 0.05
    threshold_gy: float = np.inf

    def alpha_per_gy(self, charge, energy_mev):
        return np.full_like(energy_mev, 0.1 * charge)

    def beta_per_gy2(self, charge, energy_mev):
        return np.full_like(energy_mev, 0.01 * charge**2)


@pytest.fixture(scope="module")
def machine():
    return load_machine("generic_carbon")


@pytest.fixture(scope="module")
def model():
    return Lem1(tissue("chordoma"))


def test_the_average_lies_between_the_species_and_is_carbons_at_the_entrance(machine):
    alpha, sqrt_beta = mixed_field(machine, ByCharge())
    assert alpha.shape == sqrt_beta.shape == machine.depth_dose_mev_cm2_g.shape
    assert alpha.dtype == sqrt_beta.dtype == np.float32
    assert np.all((alpha >= 0.0999) & (alpha <= 0.6001))
    assert alpha[:, 0] == pytest.approx(0.6, rel=0.03)
    assert sqrt_beta == pytest.approx(alpha, rel=1e-5)  # √β = 0.1 Z too: √β is averaged, not β


def test_the_average_is_the_dose_weighted_sum_at_the_nodes_of_the_spectra(machine, model):
    alpha, sqrt_beta = mixed_field(machine, model)
    spectra, i, k = machine.spectra, 60, 50
    depth = machine.depth_step_mm * np.arange(alpha.shape[1])
    expected = np.zeros(2)
    for charge, share in zip(spectra.charge, spectra.dose_share[i, k], strict=True):
        expected += share @ np.column_stack([
            model.alpha_per_gy(int(charge), spectra.energy_mev),
            np.sqrt(model.beta_per_gy2(int(charge), spectra.energy_mev)),
        ])  # fmt: skip
    z = spectra.depth_mm[i, k]
    found = [np.interp(z, depth, curve[i]) for curve in (alpha, sqrt_beta)]
    assert found == pytest.approx(expected, rel=2e-3)


def test_effect_per_dose_is_largest_at_the_end_of_range(machine, model):
    alpha, sqrt_beta = mixed_field(machine, model)
    for i in (20, 60, 110):
        end = int(machine.range_mm[i] / machine.depth_step_mm)
        assert alpha[i, end] > 1.8 * alpha[i, 0]
        assert abs(int(np.argmax(alpha[i])) - end) < 20
        assert sqrt_beta[i, end] < sqrt_beta[i, 0]


def test_the_fields_are_computed_once_and_cannot_be_written(machine, model):
    first, second = mixed_field(machine, model), mixed_field(machine, Lem1(tissue("chordoma")))
    assert first[0] is second[0]
    with pytest.raises(ValueError, match="read-only"):
        first[0][0, 0] = 1.0


@pytest.mark.parametrize("index", [30, 117])
def test_layers_stand_on_the_depths_of_their_kernels(machine, model, index):
    shifter = machine.range_shifter("rs30")
    for slab in (None, shifter):
        curves = layer_biology(machine, index, model, slab)
        kernel = layer_kernel(machine, index, slab, -50.0, 20.0)
        assert curves.shape == (2, kernel.depth_dose_mev_cm2_g.size)
        assert curves.dtype == np.float32
    bare, behind = (layer_biology(machine, index, model, s) for s in (None, shifter))
    skipped = round(shifter.wet_mm / machine.depth_step_mm)
    n = min(behind.shape[1], bare.shape[1] - skipped)
    assert np.array_equal(behind[:, :n], bare[:, skipped : skipped + n])


def test_a_machine_without_spectra_is_refused(model):
    with pytest.raises(ValueError, match="machine='generic_proton' tells no spectra"):
        mixed_field(load_machine("generic_proton"), model)


@pytest.fixture(scope="module")
def peak(machine, model):
    """Layers for 3 Gy (RBE) from 80 to 120 mm."""
    return spread_out_peak(layers_for(machine, model, 80.0, 120.0, level_gy=3.0))


def test_three_gray_are_flat_over_a_target_of_four_centimeters(peak):
    inside = (peak.depth_mm > 84.0) & (peak.depth_mm < 116.0)
    assert peak.weighted_gy[inside] == pytest.approx(np.full(inside.sum(), 3.0), rel=0.03)


def test_effectiveness_in_the_target_matches_the_one_dimensional_reference(peak):
    # LEM I, chordoma, another 1D model: RBE 3.2, 3.5, 4.0 at 83, 100, 115 mm, 3.0 at 5 mm and 5.4
    # in the tail; physical dose 0.94, 0.89, 0.80, 0.60 and 0.10 Gy
    for z, gray, rbe in ((5, 0.60, 3.0), (83, 0.94, 3.2), (100, 0.89, 3.5), (115, 0.80, 4.0)):
        assert peak.at(z) == pytest.approx((gray, rbe), rel=0.2)
    dose, rbe = peak.at(135.0)
    assert dose == pytest.approx(0.10, rel=0.25)
    assert rbe == pytest.approx(5.4, rel=0.2)


def test_physical_dose_falls_towards_the_distal_end(peak):
    assert 0.65 < peak.at(115.0)[0] / peak.at(83.0)[0] < 0.85
