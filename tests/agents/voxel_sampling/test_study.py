"""A sampling study: figures in closed form, tables by hand, runs that can be repeated."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from agents.environments import Environment
from agents.voxel_sampling import study_tables as tables
from agents.voxel_sampling.samplers import AtEqualWork, Shells, Uniform, ViolationDriven
from agents.voxel_sampling.study import KeptPlans, as_line, case_named, read_rows, study
from agents.voxel_sampling.study_plans import (
    REDUCED,
    REFERENCE,
    Judge,
    SampledPlan,
    Trials,
    n_plans,
    study_case,
)
from agents.voxel_sampling.study_problem import plannable, voxels
from agents.voxel_sampling.study_report import Report

RECIPE = {"ct_spacing_mm": 4.0, "dose_grid_mm": 4.0, "spot_spacing_mm": 9.0, "n_anchor_masks": 2,
          "converged_evaluations": 30, "quality_evaluations": 5}  # fmt: skip
CASES = ["head-and-neck-00001", "head-and-neck-00000"]
TRIALS = Trials(n_samplings=2, evaluations=20)
SAMPLERS = {  # the first takes its work from one that stands behind it
    "uniform": AtEqualWork(Uniform(), "shells"), "shells": Shells(width_mm=1.0),
    "resampled": AtEqualWork(ViolationDriven(n_rounds=4), "shells"),
}  # fmt: skip
CLOCKS = ("sampling_s", "masking_s", "solving_s", "optimization_s", "time_ratio")


@dataclass(frozen=True)
class Fixed:
    """Always the same rows."""

    chosen: np.ndarray

    def rows(self, case, rng):
        return self.chosen


@pytest.fixture(scope="module")
def environment():
    return Environment(recipe=RECIPE)


@pytest.fixture(scope="module")
def case(environment):
    return case_named(environment, CASES[0])


@pytest.fixture(scope="module")
def studied(case):
    return study_case(case, SAMPLERS, TRIALS)


def _without_clocks(rows):
    return [{k: v for k, v in r.items() if k not in CLOCKS} for r in rows]


def _same(rows, others):
    """Equal rows, NaN equal to itself."""
    return [as_line(r) for r in _without_clocks(rows)] == [
        as_line(r) for r in _without_clocks(others)
    ]


# ------------------------------------------------------------------ one plan's figures


def _plan(case, dose_gy, name="plan", rows=None):
    rows = voxels(case) if rows is None else rows
    return SampledPlan(
        name, 0, rows, case.start_weights, np.asarray(dose_gy, np.float32), rows.sum(),
        (rows & case.target_rows).sum(), 10.0, 2.0**21, 100, 99, 0.5, 1.0, 2.0, 500,
    )  # fmt: skip


def _judged(case, dose_gy, reference_gy, **settings):
    return Judge(case, _plan(case, reference_gy), TRIALS).figures(_plan(case, dose_gy, **settings))


def test_a_uniform_dose_in_the_target_alone_is_perfect_but_for_partial_volumes(case):
    target = case.targets[0]
    region, dose = case.evaluation.structures[target], np.zeros(len(case.group))
    dose[region.rows] = case.prescription_gy[target]
    figures = _judged(case, dose, dose)
    assert figures["d95_percent"] == pytest.approx(100.0)
    assert figures["hi_percent"] == pytest.approx(0.0)
    # all of it is covered: CN is its volume over that of the voxels that it touches
    touched = len(region.rows) * case.grid.voxel_volume_cm3
    assert figures["cn_percent"] == pytest.approx(100.0 * case.volumes_cm3[target] / touched)
    assert figures["gamma_percent"] == 100.0


def test_homogeneity_is_d5_less_d95_of_the_prescription(case):
    target = case.targets[0]
    region, dose = case.evaluation.structures[target], np.zeros(len(case.group))
    falling = np.linspace(90.0, 50.0, len(region.rows))
    dose[region.rows] = falling
    volume = region.relative_volume / region.relative_volume.sum()
    middle = np.cumsum(volume) - 0.5 * volume  # where each dose stands in the cumulative DVH
    hot, cold = np.interp([0.05, 0.95], middle, falling)
    figures, dp = _judged(case, dose, dose), case.prescription_gy[target]
    assert figures["d95_percent"] == pytest.approx(100.0 * cold / dp, rel=1e-5)
    assert figures["hi_percent"] == pytest.approx(100.0 * (hot - cold) / dp, rel=1e-5)


@pytest.mark.parametrize("excess, passing", [(1.02, 100.0), (1.04, 0.0)])
def test_gamma_of_flat_doses_is_their_difference(case, excess, passing):
    """No neighbor helps, those beyond the rows neither: 4 % on 3 % pass nowhere."""
    flat = np.full(len(case.group), 60.0)
    assert _judged(case, excess * flat, flat)["gamma_percent"] == passing


def test_differences_are_reference_less_sampler(case):
    reference = case.dose_gy(case.start_weights)
    figures = _judged(case, reference + 1.0, reference)
    one_gy = 100.0 / case.prescription_gy[case.targets[0]]
    assert figures["delta_d95_percent"] == pytest.approx(-one_gy, rel=1e-3)
    assert figures["delta_organ_gy"] == pytest.approx(-1.0, rel=1e-3)
    assert figures["delta_organ_mean_gy"] == pytest.approx(-1.0, rel=1e-3)
    assert figures["delta_hi_percent"] == pytest.approx(0.0, abs=1e-3)


def test_the_largest_change_keeps_its_sign_and_names_its_organ(case):
    reference = case.dose_gy(case.start_weights)
    organ = next(n for n in case.evaluation.structures if n.startswith("Parotid"))
    dose = reference.copy()
    dose[case.evaluation.structures[organ].rows] += 5.0
    figures = _judged(case, dose, reference)
    assert figures["organ_mean_changed"] == f"{organ} Mean[Gy]"
    assert figures["delta_organ_mean_gy"] == pytest.approx(-5.0, rel=1e-3)
    change = figures["organs"][organ]["Mean[Gy]"] - case.metrics(reference)[organ]["Mean[Gy]"]
    assert change == pytest.approx(5.0, rel=1e-3)


def test_selected_voxels_are_counted_among_those_of_equation_1(case):
    rows, dose = voxels(case) & case.target_rows, case.dose_gy(case.start_weights)
    figures = _judged(case, dose, dose, rows=rows)
    assert figures["sv_target_percent"] == 100.0
    assert figures["sv_percent"] == pytest.approx(100.0 * rows.sum() / voxels(case).sum())
    assert figures["rows_per_spot"] == rows.sum() / case.influence.n_spots
    assert figures["memory_mib"] == 2.0
    assert figures["optimization_s"] == 3.0
    assert figures["evaluations"] == 99
    assert figures["time_ratio"] == 1.0
    assert figures["sampling_work"] == pytest.approx(0.5 / TRIALS.evaluations * 100.0)


def test_the_score_is_that_of_the_environment(case):
    dose = case.dose_gy(case.start_weights)
    value = case.problem.value_of_dose(case.influence.dose(case.start_weights))
    figures = _judged(case, dose, dose)
    budget = min(case.anchors.budgets)  # ten nonzeros fit the smallest
    assert figures["budget"] == budget
    assert figures["objective"] == pytest.approx(value, rel=1e-4)
    assert figures["score"] == pytest.approx(case.anchors.score(value, budget), abs=1e-3)
    without = replace(case, anchors=None)
    assert np.isnan(Judge(without, _plan(case, dose), TRIALS).figures(_plan(case, dose))["score"])


# ------------------------------------------------------------------ one case


def test_every_sampling_has_a_plan_and_a_row(studied):
    assert len(studied.plans) == len(studied.rows) == n_plans(SAMPLERS, TRIALS) == 8
    names = list(dict.fromkeys(r["sampler"] for r in studied.rows))
    assert names == [REFERENCE, REDUCED, *SAMPLERS]


def test_the_references_are_full_masks(case, studied):
    full, reduced = studied.first(REFERENCE), studied.first(REDUCED)
    np.testing.assert_array_equal(full.rows, plannable(case))
    assert not np.any(voxels(case) & ~reduced.rows)
    # a structure that equation (1) empties keeps one voxel
    assert reduced.rows.sum() - voxels(case).sum() < len(case.problem.structures)
    row = studied.rows[0]
    assert row["delta_d95_percent"] == row["delta_organ_gy"] == 0.0
    assert row["time_ratio"] == 1.0


def test_rivals_have_the_work_of_the_named_sampler(case, studied):
    kept = {(p.name, p.sampling): p.nonzeros for p in studied.plans}
    spare = case.row_nonzeros.max() * (1 + len(case.problem.structures))  # of emptied structures
    for sampling in range(2):
        for rival in ("uniform", "resampled"):
            assert abs(kept[rival, sampling] - kept["shells", sampling]) <= spare


def test_a_matrix_is_as_large_as_its_rows(case, studied):
    for plan in studied.plans:
        assert plan.n_bytes <= case.influence.nbytes
        if plan.name != "resampled":  # its figures are means over the rounds
            assert plan.n_selected == plan.rows.sum()
            assert plan.n_bytes == case.influence.rows(plan.rows).nbytes


def test_samplings_differ_and_come_again(case, studied):
    assert _same(study_case(case, SAMPLERS, TRIALS).rows, studied.rows)
    first, second = (p.rows for p in studied.plans if p.name == "uniform")
    assert np.any(first != second)


def test_a_plan_is_delivered_as_its_weights_say(case, studied):
    for plan in studied.plans:
        np.testing.assert_array_equal(plan.dose_gy, case.dose_gy(plan.weights))


def test_uncertainty_is_the_spread_over_the_scenarios(case, studied):
    assert all(0 < r["d95_percent_std"] < 50 for r in studied.rows)
    alone = study_case(case, {"shells": Shells()}, replace(TRIALS, scenarios=None, n_samplings=1))
    assert all(np.isnan(r["d95_percent_std"]) for r in alone.rows)
    nominal = Trials(n_samplings=1, evaluations=20, scenarios=TRIALS.scenarios[:1])
    assert study_case(case, {"shells": Shells()}, nominal).rows[0]["d95_percent_std"] == 0.0


@pytest.mark.parametrize(
    "samplers, said",
    [
        ({REFERENCE: Shells()}, "is named like a plan that every study has"),
        ({"a": AtEqualWork(Shells(), "nobody")}, "of='nobody' is no sampler here"),
        ({"a": AtEqualWork(Shells(), "b"), "b": AtEqualWork(Shells(), "a")}, "from one another"),
        ({"a": Fixed(np.ones(3, bool))}, "give bool"),
    ],
)
def test_wrong_samplers_are_refused(case, samplers, said):
    with pytest.raises(ValueError, match=said):
        study_case(case, samplers, TRIALS)


def test_rows_of_the_ring_are_refused(case):
    with pytest.raises(ValueError, match="of the ring"):
        study_case(case, {"all": Fixed(np.ones(len(case.group), bool))}, TRIALS)


@pytest.mark.parametrize("name", ["n_samplings", "evaluations", "reference_repeats"])
def test_trials_want_at_least_one_of_everything(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        Trials(**{name: 0})


# ------------------------------------------------------------------ many cases


@pytest.fixture(scope="module")
def found(environment, tmp_path_factory):
    folder, told, kept = tmp_path_factory.mktemp("study"), [], []
    rows = study(
        environment, SAMPLERS, CASES, TRIALS, progress=lambda n, case: told.append((n, case)),
        keep=kept.append, plans=folder / "plans",
    )  # fmt: skip
    return folder, rows, told, kept


def test_rows_are_handed_on_as_every_case_is_done(found, studied):
    _, rows, told, kept = found
    assert [of[0]["case"] for of in kept] == CASES
    assert rows == [row for of in kept for row in of]
    assert told[0] == (2, CASES[0])
    assert told[-1] == (2 * (8 + 9), CASES[1])
    assert _same(rows[:8], studied.rows)  # whatever else is studied


def test_workers_find_the_same(environment, found):
    spread = study(environment, SAMPLERS, CASES, TRIALS, workers=2)
    assert _same(spread, found[1])


def test_first_plans_are_kept_for_pictures(found, case, studied):
    kept = KeptPlans.read(found[0] / "plans", CASES[0])
    assert kept.names == [REFERENCE, REDUCED, *SAMPLERS]
    np.testing.assert_array_equal(kept.dose_gy[3], studied.first("shells").dose_gy)
    np.testing.assert_array_equal(kept.rows[3], studied.first("shells").rows)


def test_cases_that_were_cut_off_are_left_out(found, tmp_path):
    file, rows = tmp_path / "episodes.jsonl", found[1]
    lines = [f"{as_line(row)}\n" for row in rows]
    file.write_text("".join(lines[:-1]) + lines[-1][:50], encoding="utf-8")
    read = read_rows(file, per_case=8)
    assert [as_line(row) for row in read] == [as_line(row) for row in rows[:8]]
    assert read_rows(tmp_path / "nothing", 8) == []


def test_the_report_writes_tables_and_pictures(environment, found):
    folder, rows, _, _ = found
    text = Report(folder, environment, "shells", ["uniform"], "Times: none.").write(rows)
    assert "SV in the target" in text
    assert text.count("Times: none.") == 1
    for name in ("table_2.txt", "table_2.md", "organs.txt", "ks.txt", "patients.txt",
                 "figure_4.png", "figure_5.png", "figure_2_best.png", "figure_2_worst.png"):
        assert (folder / name).stat().st_size > 0


# ------------------------------------------------------------------ tables by hand


def _row(sampler, case, d95, **figures):
    known = {c.key: 1.0 for c in tables.TABLE_2}
    return {
        "sampler": sampler, "case": case, **known, "d95_percent": d95, "target_cm3": 1.0,
        "delta_d95_percent": 98.0 - d95, "organs": {"Cord": {"Mean[Gy]": d95}}, **figures,
    }  # fmt: skip


ROWS = [
    *(_row(REFERENCE, case, 98.0) for case in "abc"),
    *(_row("net", "a", d95) for d95 in (97.0, 97.0, 91.0)),  # median 97, deviation √12
    *(_row("net", "b", d95) for d95 in (95.0, 96.0, 97.0)),  # 96, 1
    *(_row("net", "c", d95) for d95 in (90.0, 90.0, 90.0)),  # 90, 0
]


def test_the_table_has_medians_of_medians_and_of_deviations():
    s = tables.spread(ROWS, "net", "d95_percent")
    assert (s.median, s.low, s.high) == (96.0, 90.0, 97.0)
    assert (s.median_std, s.low_std) == (pytest.approx(1.0), 0.0)
    assert s.high_std == pytest.approx(12.0**0.5)
    assert np.isnan(tables.spread(ROWS, REFERENCE, "d95_percent").median_std)


def test_the_table_is_printed_as_in_the_paper():
    line = tables.shown_table_2(ROWS)[0]
    assert line["criterion"] == "D95 [%] ↑"
    assert line[REFERENCE] == "98.00"
    assert line["net"] == "96.00 (1.00)"
    assert line["net min–max"] == "90.00 – 97.00 (0.00–3.46)"
    assert "| D95 [%] ↑ | nominal | 98.00 |" in tables.markdown([line])


def test_the_long_table_has_a_row_a_criterion_and_sampler():
    assert len(tables.table_2(ROWS)) == 2 * len(tables.TABLE_2)


def test_organs_are_compared_patient_by_patient():
    (line,) = tables.organs_table(ROWS)
    assert (line["organ"], line["metric"], line["n"]) == ("Cord", "Mean[Gy]", 3)
    assert (line["Δ net"], line["Δ net low"], line["Δ net high"]) == (2.0, 1.0, 8.0)


def test_kolmogorov_smirnov_by_hand():
    by_hand = {r["sampler"]: r for r in tables.ks_table(ROWS) if r["D95"] == tables.NOMINAL}
    # all of three lie below all of three: D = 1, p = 2/C(6, 3)
    assert (by_hand["net"]["D"], by_hand["net"]["p"]) == (1.0, pytest.approx(0.1))
    twin = [*ROWS, *(_row("twin", case, 98.0) for case in "abc")]
    same = {r["sampler"]: r for r in tables.ks_table(twin) if r["D95"] == tables.NOMINAL}
    assert (same["twin"]["D"], same["twin"]["p"]) == (0.0, 1.0)


def test_the_best_patient_loses_least_coverage():
    assert tables.best_and_worst(ROWS, ["net"]) == ("a", "c")


def test_patients_go_by_target_volume():
    rows = [_row("net", c, 95.0, target_cm3=v) for c, v in (("a", 3.0), ("b", 1.0), ("c", 2.0))]
    assert tables.by_volume(rows) == ["b", "c", "a"]
