"""The long comparison with Monte Carlo: its cases, its weights, its table, its folder."""

import json

import numpy as np
import pytest

from engine.dose.influence import InfluenceMatrix
from engine.dose.yoda.engine import YodaEngine
from engine.patient.grid import Grid
from engine.patient.phantoms import water_tank
from scripts import compare_yoda as script
from scripts.validate_yoda import ANTERIOR, Agreement


def row(**changes) -> script.Row:
    near = dict(
        gamma_1_1_percent=99.5, gamma_2_2_percent=100.0, r80_mm=(77.0, 77.1), core_mm=(4.0, 4.1),
        mean_difference_percent=-0.5, sum_difference_percent=-0.6, integral_difference_percent=0.1,
    )  # fmt: skip
    agreement = Agreement(**near | changes)
    return script.Row("water", True, "1+6+6+12", agreement, 0.2, 1, 2, 24)


def test_the_tanks_are_the_papers():
    water, plus, minus = script.tanks()
    assert [c.name for c in (water, plus, minus)] == ["water", "plus", "minus"]
    assert plus.patient.grid.shape == (100, 100, 100)
    assert plus.is_spot and plus.plan.machine.energy_mev[0] == 100.0
    assert plus.patient.hu.max() == 1000.0 and minus.patient.hu.min() == -1000.0


@pytest.mark.parametrize(
    "direction, start",
    [(ANTERIOR, (1.0, -19.99, 3.0)), ((-1.0, 0.0, 0.0), (9.99, 2.0, 3.0))],
)
def test_a_line_enters_through_the_face_that_it_looks_at(direction, start):
    patient = water_tank((60.0, 40.0, 20.0), 2.0, 10.0)  # z, y, x
    assert script.entrance_mm(patient, direction, (1.0, 2.0, 3.0)) == pytest.approx(start)


def test_a_head_is_called_by_its_number():
    assert script.head_name("somewhere/pt_25.zip") == "h25"


def test_weights_make_a_flat_dose_and_are_never_negative():
    grid = Grid.centered((1, 1, 12), (1.0, 1.0, 1.0))
    place = np.arange(12.0)
    dense = np.exp(-0.5 * (place[:, None] - place[1::2]) ** 2 / 1.5**2)
    influence = InfluenceMatrix.from_dense(grid, np.arange(12, dtype=np.uint32), dense)
    weights = script.flat_weights(influence, 2.0)
    assert np.all(weights >= 0.0)
    assert (influence @ weights)[1:] == pytest.approx(2.0, rel=0.1)  # no spot lies before the first


def test_differences_are_ours_less_monte_carlos():
    record = row().record
    assert record["r80_difference_mm"] == pytest.approx(0.1)
    assert record["core_difference_percent"] == pytest.approx(2.5)
    assert record["n_solved"] == 2 and record["n_reused"] == 24


def test_what_is_not_known_is_null_and_a_dash():
    unknown = row(core_mm=(float("nan"),) * 2)
    assert json.loads(json.dumps(unknown.record, allow_nan=False))["core_mm"] == [None, None]
    first, second = script.table([unknown]).splitlines()
    assert "γ 1/1 %" in first
    assert "–" in second and "99.50" in second and "on" in second
    assert len(first) == len(second)


def test_monte_carlos_dose_is_kept_and_one_of_another_shape_refused(tmp_path):
    case = next(script.tanks())
    engine = YodaEngine(nuclear=False)
    np.savez(tmp_path / "water_0.npz", dose=np.ones((100, 100, 100), np.float32))
    assert np.all(script.reference(case, engine, 10, tmp_path) == 1.0)
    np.savez(tmp_path / "water_0.npz", dose=np.ones((2, 2, 2), np.float32))
    with pytest.raises(ValueError, match="remove the file"):
        script.reference(case, engine, 10, tmp_path)


def test_a_run_leaves_its_numbers_pictures_and_doses(tmp_path, capsys):
    words = [str(tmp_path), "--only", "plus", "--histories", "20000", "--schemes", "1+6+6+12"]
    assert script.main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "agreement.json", "depth_dose.png", "wash_plus.png", "plus_0.npz", "plus_1.npz"
    }  # fmt: skip
    rows = json.loads((tmp_path / "agreement.json").read_text())
    assert [r["nuclear"] for r in rows] == [False, True]
    assert all(abs(r["r80_difference_mm"]) < 0.5 for r in rows)
    assert "γ 1/1 %" in capsys.readouterr().out


def test_a_name_of_no_case_is_told(tmp_path, capsys):
    assert script.main([str(tmp_path), "--only", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().out
