"""What holds for every run: energy balance, the same bits however it is run, honest errors."""

import numpy as np
import pytest

from engine import parallel
from engine.dose.monte_carlo._histories import GROUP
from engine.errors import PhysicsWarning
from engine.geometry.plan import Aperture, Plan
from engine.machine.ion import RangeShifter
from engine.patient.tissues import MATERIALS


@pytest.fixture(scope="module")
def mixed(box):
    """Water with bone, air and lung in it; protons of 100 MeV stop in it, and some leave."""
    layers = [(MATERIALS["cortical_bone"], 12.0, 24.0), (MATERIALS["air"], 36.0, 48.0),
              (MATERIALS["lung"], 60.0, 72.0)]  # fmt: skip
    return box((48.0, 120.0, 48.0), (4.0, 3.0, 4.0), layers)


@pytest.fixture(scope="module")
def plan(proton_machine, spots):
    machine = proton_machine([80.0, 100.0], 0.5, 3.0, 0.004, nozzle_to_isocenter_mm=100.0)
    u = np.array([-8.0, 0.0, 7.0, -3.0])
    return spots(machine, u, 2.0, weights=[1.0, 2.0, 0.5, 1.5], energy=[0, 0, 1, 1])


@pytest.fixture
def with_threads():
    before = parallel.threads()
    yield parallel.set_threads
    parallel.set_threads(before)


def bits(found):
    return {name: values.tobytes() for name, values in found.quantities.items()}


EVERYTHING = ("dose", "dose_error", "letd")


def into(balance):
    return balance.started_mev + balance.straggled_mev


def out_of(balance):
    b = balance
    return b.patient_mev + b.devices_mev + b.left_mev + b.neutral_mev


@pytest.mark.parametrize("physics", ["all", "electromagnetic", "straight", "slowing down"])
def test_energy_in_is_energy_out(mixed, plan, physics):
    b = mixed.simulate(plan, 20_000, physics).balance
    assert out_of(b) == pytest.approx(into(b), rel=1e-6)
    assert b.devices_mev == 0.0
    assert (b.neutral_mev > 0.0) == (physics == "all")


def test_energy_in_is_energy_out_with_devices(mixed, proton_machine, spots):
    machine = proton_machine(
        150.0, 0.5, 3.0, 0.004, range_shifters=(RangeShifter("slab", 46.0, 40.0),)
    )
    hole = Aperture(((-6.0, -6.0), (6.0, -6.0), (6.0, 6.0), (-6.0, 6.0)), -20.0)
    through = spots(machine, [-5.0, 5.0], range_shifter="slab", shifter_exit_mm=-100.0,
                    aperture=hole)  # fmt: skip
    b = mixed.simulate(through, 20_000).balance
    assert out_of(b) == pytest.approx(into(b), rel=1e-6)
    assert b.devices_mev > 0.1 * b.started_mev


def test_dose_to_medium_times_mass_is_the_energy_in_the_patient(mixed, plan):
    found = mixed.simulate(plan, 20_000, scores="dose to medium")
    total = mixed.energy_mev(found.quantities["dose"].astype(np.float64)).sum()
    assert total == pytest.approx(found.balance.patient_mev * plan.weights.sum(), rel=2e-6)


def test_straggling_gives_and_takes_alike(mixed, plan):
    b = mixed.simulate(plan, 20_000, "straight").balance
    assert abs(b.straggled_mev) < 5.0 * 1.3 / np.sqrt(20_000)  # 1.3 MeV over the whole path


@pytest.mark.parametrize("n", [1, 5000, GROUP, 50_000])
def test_the_bits_do_not_depend_on_threads_or_on_who_looks_on(mixed, plan, with_threads, n):
    with_threads(1)
    expected = mixed.simulate(plan, n, quantities=EVERYTHING)
    for threads in (2, 3):
        with_threads(threads)
        found = mixed.simulate(plan, n, quantities=EVERYTHING)
        assert bits(found) == bits(expected)
        assert found.balance == expected.balance
        assert found.n_histories == n
    told = []
    watched = mixed.simulate(plan, n, quantities=EVERYTHING, progress=told.append)
    assert bits(watched) == bits(expected)
    assert told[-1].done == told[-1].expected == n


def test_columns_do_not_depend_on_threads_or_on_the_other_spots(mixed, plan, with_threads):
    def columns(of):
        engine = mixed.engine(histories_per_spot=300)
        return engine.influence(mixed.patient, of, mixed.grid).to_dense()

    with_threads(1)
    expected = columns(plan)
    for threads in (2, 3):
        with_threads(threads)
        np.testing.assert_array_equal(columns(plan), expected)
    for spot in range(plan.n_spots):
        one = slice(spot, spot + 1)
        alone = Plan(plan.machine, plan.beams, plan.spot_beam[one], plan.spot_energy[one],
                     plan.u_mm[one], plan.v_mm[one], np.ones(1))  # fmt: skip
        np.testing.assert_array_equal(columns(alone)[:, 0], expected[:, spot])


def test_a_wanted_uncertainty_ends_with_the_dose_of_as_many_histories(mixed, plan):
    reached = mixed.simulate(plan, None, uncertainty_percent=1.2)
    again = mixed.simulate(plan, reached.n_histories)
    assert bits(reached) == bits(again)
    assert reached.uncertainty_percent == again.uncertainty_percent


@pytest.mark.parametrize("wanted", [2.5, 1.0, 0.7])
def test_a_wanted_uncertainty_is_reached_and_not_overshot(mixed, plan, wanted):
    told = []
    found = mixed.simulate(plan, None, uncertainty_percent=wanted, progress=told.append)
    assert found.uncertainty_percent <= wanted
    needed = found.n_histories * (found.uncertainty_percent / wanted) ** 2
    assert found.n_histories <= max(1.2 * needed, 4 * GROUP)
    done = [p.done for p in told]
    assert done == sorted(done) and done[-1] == found.n_histories
    assert told[-1].uncertainty_percent == found.uncertainty_percent


def test_more_histories_than_allowed_are_refused_before_they_are_begun(mixed, plan):
    told = []
    message = r"uncertainty_percent=0.01 would take about .*max_histories"
    with pytest.raises(ValueError, match=message):
        mixed.simulate(plan, None, uncertainty_percent=0.01, max_histories=10**7,
                       progress=told.append)  # fmt: skip
    assert told[-1].done <= 4 * GROUP


def test_seeds_give_other_doses_of_the_same_beam(mixed, plan):
    a, b = (mixed.dose(plan, 30_000, seed=seed) for seed in (1, 2))
    assert np.count_nonzero(a != b) > 0.9 * np.count_nonzero(a)
    assert a.sum() == pytest.approx(b.sum(), rel=0.005)


def pulls(first, second):
    """Differences over their standard errors in the voxels above half the maximum."""
    a, b = (f.quantities["dose"].astype(float) for f in (first, second))
    error = np.hypot(*(f.quantities["dose_error"].astype(float) for f in (first, second)))
    high = a + b >= 0.5 * (a + b).max()  # by one alone, its high noise would be chosen
    return (a[high] - b[high]) / error[high]


def test_two_runs_differ_by_their_errors_and_no_more(box, proton_machine, spots):
    tank = box((64.0, 80.0, 64.0), 2.0)
    grid = np.arange(-20.0, 21.0, 4.0)
    u, v = (a.ravel() for a in np.meshgrid(grid, grid))
    plan = spots(proton_machine(80.0, 0.5, 3.0), u, v)
    runs = (
        tank.simulate(plan, 60_000, seed=seed, quantities=("dose", "dose_error")) for seed in (1, 2)
    )
    pull = pulls(*runs)
    assert len(pull) > 500
    assert np.mean(pull**2) == pytest.approx(1.0, abs=0.1)
    assert np.mean(np.abs(pull) < 2.0) == pytest.approx(0.954, abs=0.02)


def test_the_error_is_the_spread_between_seeds(mixed, plan):
    # physics.md: history by history and batches agree within 10 %
    runs = [mixed.simulate(plan, 4000, seed=seed, quantities=("dose", "dose_error"))
            for seed in range(20)]  # fmt: skip
    doses = np.array([r.quantities["dose"] for r in runs], float)
    errors = np.array([r.quantities["dose_error"] for r in runs], float)
    mean = doses.mean(axis=0)
    high = mean >= 0.5 * mean.max()
    spread = np.sqrt(doses.var(axis=0, ddof=1)[high].mean())
    assert spread == pytest.approx(np.sqrt((errors[:, high] ** 2).mean()), rel=0.1)
    told = 100.0 * np.mean(errors[0][high] / doses[0][high])
    assert runs[0].uncertainty_percent == pytest.approx(told, rel=0.1)


def test_errors_fall_with_the_square_root_of_the_histories(mixed, plan):
    few, many = (mixed.simulate(plan, n).uncertainty_percent for n in (10_000, 90_000))
    assert few / many == pytest.approx(3.0, rel=0.1)


def test_one_history_has_a_dose_but_no_known_error(mixed, plan):
    found = mixed.simulate(plan, 1, quantities=("dose", "dose_error"))
    assert found.quantities["dose"].max() > 0.0
    assert np.all(np.isnan(found.quantities["dose_error"]))
    assert np.isnan(found.uncertainty_percent)


def test_the_dose_is_that_of_the_weights(mixed, plan):
    thrice = mixed.simulate(plan.with_weights(3e8 * plan.weights), 5000)
    once = mixed.simulate(plan, 5000)
    np.testing.assert_allclose(thrice.quantities["dose"], 3e8 * once.quantities["dose"], rtol=1e-6)
    nothing = mixed.simulate(plan.with_weights(0.0 * plan.weights), 5000, quantities=EVERYTHING)
    assert nothing.n_histories == 0
    assert all(np.all(values == 0.0) for values in nothing.quantities.values())


@pytest.mark.parametrize("physics", ["all", "electromagnetic"])
def test_columns_add_up_to_the_dose(mixed, plan, physics):
    engine = mixed.engine(physics, histories_per_spot=10_000, entry_cutoff=0.01)
    influence = engine.influence(mixed.patient, plan, mixed.grid)
    summed = influence.volume(influence @ plan.weights).astype(float)
    found = mixed.simulate(plan, 40_000, physics, quantities=("dose", "dose_error"))
    dose = found.quantities["dose"].astype(float)
    # Entries below the cut-off are kept by chance, so that what is far from the axis is right too.
    dense = mixed.medium.density > 0.05
    low = dense & (dose < 0.02 * dose[dense].max())
    assert summed.sum() / dose.sum() == pytest.approx(1.0, abs=0.004)
    assert summed[low].sum() / dose[low].sum() == pytest.approx(1.0, abs=0.05)


def test_a_cutoff_of_zero_keeps_every_entry(mixed, plan):
    whole, thinned = (
        mixed.engine(histories_per_spot=2000, entry_cutoff=cutoff).influence(
            mixed.patient, plan, mixed.grid
        )
        for cutoff in (0.0, 0.05)
    )
    a, b = whole.to_dense(), thinned.to_dense()
    assert np.count_nonzero(b) < np.count_nonzero(a)
    # thin air may exceed the largest dose in matter, of which the cut-off is a share
    dense = (mixed.medium.density > 0.05).ravel()
    for spot in range(plan.n_spots):
        least = 0.05 * a[dense, spot].max()
        kept = a[:, spot] >= 1.0001 * least
        np.testing.assert_array_equal(a[kept, spot], b[kept, spot])
        small = (b[:, spot] > 0.0) & ~kept
        np.testing.assert_allclose(b[small, spot], least, rtol=1e-3)


def test_a_plan_that_misses_the_patient_gives_no_dose_and_says_so(mixed, plan, spots):
    missing = spots(plan.machine, 300.0, 0.0)
    with pytest.warns(PhysicsWarning, match="misses the patient"):
        dose = mixed.dose(missing, 100)
    assert np.all(dose == 0.0)
    engine = mixed.engine(histories_per_spot=100)
    with pytest.warns(PhysicsWarning, match="1 of 1 spots give no dose"):
        influence = engine.influence(mixed.patient, missing, mixed.grid)
    assert influence.n_nonzeros == 0
    with pytest.warns(PhysicsWarning, match="misses the patient"):
        mixed.simulate(missing, None, uncertainty_percent=1.0)


def test_progress_of_columns_is_told_up_to_the_end(mixed, plan):
    told = []
    engine = mixed.engine(histories_per_spot=50, progress=told.append)
    engine.influence(mixed.patient, plan, mixed.grid)
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert told[-1].done == told[-1].expected == 50 * plan.n_spots
