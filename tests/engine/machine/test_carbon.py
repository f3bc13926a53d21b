import numpy as np
import pytest

from engine.machine.carbon import carbon_kernel, range_spread_mm
from engine.machine.depth_kernels import layer_kernel
from engine.machine.ion import RangeShifter
from engine.machine.library import DATA, available_machines, load_machine
from engine.physics.ions import lateral_variance_mm2, range_mm, stopping_power_mev_cm2_g
from scripts.build_carbon_machine import energy_rows, even_range_energies

EXIT_MM = -60.0


@pytest.fixture(scope="module")
def machine():
    return load_machine("generic_carbon")


@pytest.fixture(scope="module")
def depth(machine):
    return machine.depth_step_mm * np.arange(machine.depth_dose_mev_cm2_g.shape[1])


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "generic_carbon.npz") as file:
        return {name: file[name] for name in file.files}


def r80(kernel) -> float:
    dose = kernel.depth_dose_mev_cm2_g
    top = int(np.argmax(dose))
    z = kernel.depth_step_mm * np.arange(dose.size)
    return float(np.interp(-0.8, -dose[top:] / dose[top], z[top:]))


def test_generic_carbon_ships_with_the_package_and_is_carbon(machine):
    assert "generic_carbon" in available_machines()
    assert (machine.charge, machine.mass_number) == (6, 12)
    assert (DATA / "generic_carbon.npz").stat().st_size < 4e6


@pytest.mark.parametrize("index", [0, 60, 117])
def test_the_shipped_data_are_what_the_build_makes(arrays, index):
    assert arrays["energy_mev"] == pytest.approx(even_range_energies())
    built = energy_rows(float(arrays["energy_mev"][index]))
    for name, row in built.items():
        # whole numbers may round the other way on another processor
        absolute = 1.0 if name == "spectra_dose_share" else 1e-5
        found = arrays[name][index].astype(np.float64)
        assert found == pytest.approx(row.astype(np.float64), rel=1e-5, abs=absolute), name


def test_ranges_stand_at_even_steps_and_match_the_table(machine):
    # ranges of the reference's carbon table, mm, scaled from PSTAR
    assert machine.energy_mev[[0, -1]].tolist() == [80.0, 430.0]
    steps = np.diff(machine.range_mm)
    assert steps == pytest.approx(np.full(steps.size, 2.49), rel=0.02)
    for energy, expected in ((80, 17.4), (100, 25.9), (200, 87.0), (300, 172.3), (400, 275.4)):
        found = np.interp(energy, machine.energy_mev, machine.range_mm)
        assert found == pytest.approx(expected, rel=5e-3, abs=0.1)


@pytest.mark.parametrize("index", [0, 30, 60, 90, 117])
def test_nodes_of_the_file_lose_less_than_a_three_hundredth_of_the_peak(machine, depth, index):
    kernel = carbon_kernel(float(machine.energy_mev[index]))
    cells = np.interp(kernel.depth_mm, depth, machine.depth_dose_mev_cm2_g[index])
    inside = (kernel.depth_mm > 0.5) & (kernel.depth_mm < depth[-1])
    difference = np.abs(cells - kernel.dose_mev_cm2_g)[inside]
    assert difference.max() < 3e-3 * kernel.dose_mev_cm2_g.max()


def test_kernels_are_finite_and_where_they_belong(machine, depth):
    assert depth[-1] >= 1.1 * machine.range_mm[-1]
    for name in ("depth_dose_mev_cm2_g", "scatter_variance_mm2", "halo_variance_mm2"):
        values = getattr(machine, name)
        assert np.all(np.isfinite(values)) and np.all(values >= 0.0), name
    assert np.all(machine.halo_variance_mm2 > machine.scatter_variance_mm2)
    assert np.all((machine.halo_weight >= 0.0) & (machine.halo_weight <= 1.0))
    before = depth < 0.95 * machine.range_mm[:, None]
    assert machine.halo_weight[before].max() < 0.16  # hydrogen and helium


def test_entrance_dose_is_carbons_stopping_power(machine):
    expected = stopping_power_mev_cm2_g(6, machine.energy_mev)
    assert machine.depth_dose_mev_cm2_g[:, 0] == pytest.approx(expected, rel=5e-3)
    assert machine.letd_kev_um[:, 0] == pytest.approx(expected / 10.0, rel=0.02)


def test_peaks_stand_above_the_plateau_by_less_the_deeper_they_are(machine):
    ratio = machine.depth_dose_mev_cm2_g.max(axis=1) / machine.depth_dose_mev_cm2_g[:, 0]
    assert np.all(np.diff(ratio[30:]) < 0.0)
    assert 2.0 < ratio[-1] < ratio[40] < 5.0


def test_the_ripple_filter_smooths_layers_two_and_a_half_millimeters_apart(machine, depth):
    # equal weights: between the ends of a wide target the sum has no ripple of the layers' step
    chosen = slice(40, 70)
    total = machine.depth_dose_mev_cm2_g[chosen].sum(axis=0)
    low, high = machine.range_mm[45], machine.range_mm[64]
    inside = (depth > low) & (depth < high)
    trend = np.polyval(np.polyfit(depth[inside], total[inside], 3), depth[inside])
    assert np.abs(total[inside] / trend - 1.0).max() < 0.03
    assert range_spread_mm(200.0) == pytest.approx(np.hypot(1.2, 0.26), rel=0.02)


def test_energy_spread_spreads_ranges_as_the_kernels_do(machine):
    i = machine.energy_index(300.0)
    energy = machine.energy_mev[i]
    range_per_mev = np.diff(range_mm(6, 12, energy + np.array([-0.5, 0.5])))[0]
    assert machine.energy_std_mev[i] * range_per_mev == pytest.approx(1.27, abs=0.05)


def test_spots_are_focused_at_the_isocenter(machine):
    for index in (0, 117):
        kernel = layer_kernel(machine, index)
        assert kernel.air_variance_mm2(0.0) == pytest.approx(2.5**2)
        assert kernel.air_variance_mm2(-1000.0) == pytest.approx(2.5**2 + 1.0)
    assert machine.switch_up_s == machine.switch_down_s == 3.0
    assert machine.min_spot_weight == 5000.0


def test_spectra_share_all_of_the_dose_and_agree_with_let(machine):
    spectra = machine.spectra
    assert spectra.charge.tolist() == [1, 2, 3, 4, 5, 6]
    assert spectra.dose_share.dtype == np.float32
    assert spectra.dose_share.sum(axis=(2, 3)) == pytest.approx(1.0, abs=1e-5)
    assert np.all(spectra.dose_share >= 0.0)
    let = np.array([stopping_power_mev_cm2_g(int(z), spectra.energy_mev) for z in spectra.charge])
    for index in (20, 60, 110):
        at = machine.depth_step_mm * np.arange(machine.letd_kev_um.shape[1])
        expected = np.interp(spectra.depth_mm[index], at, machine.letd_kev_um[index])
        found = np.tensordot(spectra.dose_share[index], let / 10.0, axes=2)
        before = spectra.depth_mm[index] < machine.range_mm[index] - 1.0
        assert found[before] == pytest.approx(expected[before], rel=0.04)


def test_spectra_cannot_be_written(machine):
    with pytest.raises(ValueError, match="read-only"):
        machine.spectra.dose_share[0, 0, 0, 0] = 1.0


@pytest.mark.parametrize("index", [10, 60, 117])
def test_a_range_shifter_shortens_the_range_by_its_water_equivalent(machine, index):
    shifter = machine.range_shifter("rs30")
    bare, behind = layer_kernel(machine, index), layer_kernel(machine, index, shifter, EXIT_MM)
    assert r80(bare) - r80(behind) == pytest.approx(30.0, abs=1e-6)
    assert behind.range_mm == pytest.approx(bare.range_mm - 30.0)


def test_scatter_behind_a_vanishing_shifter_is_the_machines(machine):
    thin = layer_kernel(machine, 60, RangeShifter("thin", 1e-6, 1e-6), EXIT_MM)
    bare = layer_kernel(machine, 60)
    assert thin.scatter_variance_mm2 == pytest.approx(bare.scatter_variance_mm2, rel=5e-3, abs=1e-4)
    assert thin.halo_variance_mm2 == pytest.approx(bare.halo_variance_mm2, rel=5e-3, abs=1e-3)
    assert thin.air_variance == pytest.approx(bare.air_variance, rel=1e-3)


def test_slab_of_water_and_water_behind_it_scatter_as_one(machine):
    # the slab's moments drift into the patient, where the rest of the scattering adds
    energy = float(machine.energy_mev[60])
    kernel = layer_kernel(machine, 60, RangeShifter("slab", 30.0, 30.0, "water"), 0.0, 0.0)
    bare = layer_kernel(machine, 60)
    extra = np.array(kernel.air_variance) - np.array(bare.air_variance)
    for deep in (20.0, 60.0, 100.0):
        slab = extra[0] + extra[1] * deep + extra[2] * deep**2
        rest = kernel.scatter_variance_mm2[int(deep / kernel.depth_step_mm)]
        whole = lateral_variance_mm2(6, 12, energy, np.array([deep + 30.0]))[0]
        assert slab + rest == pytest.approx(whole, rel=0.01)


def test_the_gap_behind_a_shifter_widens_the_halo_of_fragments(machine):
    shifter = machine.range_shifter("rs30")
    near, far = (layer_kernel(machine, 80, shifter, EXIT_MM, gap) for gap in (0.0, 300.0))
    extra = far.halo_variance_mm2 - near.halo_variance_mm2
    assert extra[0] == pytest.approx(0.045**2 * 300.0 * 330.0, rel=0.01)
    deep = int(100.0 / far.depth_step_mm)  # a share 30 / 130 over a lever of 300 · 530 mm²
    assert extra[deep] == pytest.approx(0.045**2 * 300.0 * 530.0 * 30.0 / 130.0, rel=0.01)
    assert np.array_equal(far.scatter_variance_mm2, near.scatter_variance_mm2)


def spoiled(arrays, tmp_path, **changes):
    path = tmp_path / "odd.npz"
    kept = {name: v for name, v in (arrays | changes).items() if v is not None}
    np.savez(path, **kept)
    return path


@pytest.mark.parametrize(
    "name, message",
    [
        ("spectra_dose_share", "lacks.*spectra_dose_share.*spectra need all"),
        ("mass_number", "lacks.*mass_number.*an ion needs both"),
    ],
)
def test_files_that_lack_a_part_of_the_spectra_are_refused(arrays, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        load_machine(spoiled(arrays, tmp_path, **{name: None}))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: {"spectra_dose_share": a["spectra_dose_share"][:, :, :5]}, "must be .118, 122"),
        (lambda a: {"spectra_dose_share": 0 * a["spectra_dose_share"]}, "not all 0"),
        (lambda a: {"spectra_charge": a["spectra_charge"][::-1]}, "must increase from 1"),
        (
            lambda a: {"spectra_energy_mev": a["spectra_energy_mev"] + 5.0},
            "evenly in the logarithm",
        ),
        (lambda a: {"spectra_energy_mev": -a["spectra_energy_mev"]}, "positive energies"),
        (lambda a: {"spectra_depth_mm": a["spectra_depth_mm"][:, ::-1]}, "increase along depth"),
        (lambda a: {"spectra_depth_mm": np.nan * a["spectra_depth_mm"]}, "must be finite"),
        (lambda a: {"charge": np.array(13)}, "charge=13 and mass_number=12"),
    ],
)
def test_damaged_spectra_are_refused(arrays, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_machine(spoiled(arrays, tmp_path, **change(arrays)))


def test_a_file_that_names_no_ion_is_of_protons():
    machine = load_machine("generic_proton")
    assert (machine.charge, machine.mass_number, machine.spectra) == (1, 1, None)
