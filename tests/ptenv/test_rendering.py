import subprocess
import sys

import numpy as np
import pytest

from engine.evaluation.dvh import Dvh
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure

pytest.importorskip("matplotlib", reason="pictures need the extra 'agents'")

from ptenv import rendering

GRID = Grid.centered((20, 24, 28), (4.0, 3.0, 3.0))
Z, Y, X = np.meshgrid(*GRID.axes_mm(), indexing="ij")


@pytest.fixture(scope="module")
def patient():
    body = X**2 + Y**2 < 36**2
    hu = np.where(body, 0.0, -1000.0).astype(np.float32)
    structures = [
        Structure("External", body, "external"),
        Structure("PTV70", X**2 + Y**2 + Z**2 < 15**2, "target"),
        Structure("SpinalCord", X**2 + (Y - 25) ** 2 < 7**2, "organ"),
        Structure("Odd_Name", (X - 25) ** 2 + Y**2 + Z**2 < 7**2, "organ"),
    ]
    return Patient("round", GRID, hu, {s.name: s for s in structures}, {"PTV70": 70.0}, 35)


def histograms(patient, dose):
    return {
        s.name: Dvh(dose[s.mask], np.full(np.count_nonzero(s.mask), GRID.voxel_volume_cm3))
        for s in patient.structures.values()
        if s.role in ("target", "organ")
    }


def bright(rgb, box):
    """Share of strongly colored pixels in a box (top, bottom, left, right) of a picture."""
    part = rgb[box[0] : box[1], box[2] : box[3]].astype(int)
    return float(np.mean(part.max(-1) - part.min(-1) > 60))


def panel_boxes(figure, n=3):
    """Pixel boxes (top, bottom, left, right) of the cuts, as drawn."""
    height = figure.canvas.get_width_height()[1]
    boxes = []
    for axes in figure.axes[:n]:
        b = axes.get_window_extent()
        boxes.append((int(height - b.y1), int(height - b.y0), int(b.x0), int(b.x1)))
    return boxes


def halves(box):
    top, bottom, left, right = box
    y, x = (top + bottom) // 2, (left + right) // 2
    return {
        "top": (top, y, left, right), "bottom": (y, bottom, left, right),
        "left": (top, bottom, left, x), "right": (top, bottom, x, right),
    }  # fmt: skip


@pytest.mark.parametrize(
    "where, axial, coronal, sagittal",
    [
        # patient axes: x to the patient's left, y posterior, z superior
        (X > 8, "right", "right", None),  # left of the patient: at the viewer's right
        (Y < -8, "top", None, "left"),  # anterior: up; at the left seen from the side
        (Z > 10, None, "top", "top"),  # superior: up
    ],
)
def test_dose_appears_on_its_side_of_every_cut(patient, where, axial, coronal, sagittal):
    dose = np.where(where & patient.external.mask, 60.0, 0.0)
    figure = rendering.dose_wash(patient, dose, structures=[], width_px=700)
    rgb = rendering.to_rgb(figure)
    opposite = {"top": "bottom", "left": "right", "right": "left"}
    for box, side in zip(panel_boxes(figure), (axial, coronal, sagittal)):
        if side is not None:
            assert bright(rgb, halves(box)[side]) > 0.1
            assert bright(rgb, halves(box)[opposite[side]]) < 0.02


def test_let_is_drawn_in_kev_per_um_where_there_is_dose(patient):
    letd = np.where(patient.external.mask, 8.0, 0.0)
    dose = np.where(X > 8, 60.0, 1.0)
    figure = rendering.let_wash(patient, letd, dose, width_px=700)
    assert "keV/µm" in figure.axes[-1].get_ylabel()
    rgb, box = rendering.to_rgb(figure), panel_boxes(figure)[0]
    assert bright(rgb, halves(box)["right"]) > bright(rgb, halves(box)["left"]) + 0.1


def test_cuts_keep_millimeters_square(patient):
    figure = rendering.dose_wash(patient, np.zeros(GRID.shape), width_px=700)
    rendering.to_rgb(figure)
    for axes, box in zip(figure.axes, panel_boxes(figure)):
        width_mm = abs(np.diff(axes.get_xlim())[0])
        height_mm = abs(np.diff(axes.get_ylim())[0])
        assert (box[3] - box[2]) / (box[1] - box[0]) == pytest.approx(
            width_mm / height_mm, rel=0.03
        )


def test_dose_on_another_grid_lies_in_the_same_place(patient):
    coarse = GRID.resampled(6.0)
    points = coarse.points_mm().reshape(*coarse.shape, 3)
    dose = np.where(points[..., 0] > 8, 60.0, 0.0)
    figure = rendering.dose_wash(patient, dose, coarse, structures=[], width_px=700)
    rgb = rendering.to_rgb(figure)
    box = panel_boxes(figure)[0]
    assert bright(rgb, halves(box)["right"]) > 0.1
    assert bright(rgb, halves(box)["left"]) < 0.02


def test_chosen_voxels_are_drawn_as_dots(patient):
    chosen = np.zeros(GRID.shape, dtype=bool)
    chosen[:, ::3, ::3] = True
    zero = np.zeros(GRID.shape)
    without = rendering.dose_wash(patient, zero, structures=[], at_mm=(0, 0, 0))
    dotted = rendering.dose_wash(patient, zero, structures=[], at_mm=(0, 0, 0), chosen=chosen)
    assert len(dotted.axes[0].collections) == len(without.axes[0].collections) + 1
    in_cut = dotted.axes[0].collections[-1].get_offsets()
    assert len(in_cut) == np.count_nonzero(chosen[0])


def test_every_picture_of_dose_says_gray_rbe(patient):
    dose = np.full(GRID.shape, 60.0)
    wash = rendering.dose_wash(patient, dose, width_px=500)
    dvh = rendering.dvh_figure(histograms(patient, dose), patient.prescription_gy, width_px=500)
    assert "Gy (RBE), RBE 1.1" in wash.axes[-1].get_ylabel()
    assert "Gy (RBE), RBE 1.1" in dvh.axes[0].get_xlabel()


def test_case_picture_is_an_array_of_the_asked_width(patient):
    dose = 70 * np.exp(-(X**2 + Y**2 + Z**2) / 800)
    curves = histograms(patient, dose)
    chosen = patient.mask("PTV70") & (X > 0)
    figure = rendering.case_picture(
        patient, dose, curves, chosen=chosen, reference=curves, notes="a 1.0", width_px=640
    )
    rgb = rendering.to_rgb(figure)
    assert rgb.dtype == np.uint8
    assert rgb.shape == (512, 640, 3)
    assert rgb.std() > 10


def test_the_same_picture_twice_is_the_same_array(patient):
    dose = 70 * np.exp(-(X**2 + Y**2 + Z**2) / 800)
    one, two = (rendering.to_rgb(rendering.dose_wash(patient, dose, width_px=400)) for _ in "ab")
    np.testing.assert_array_equal(one, two)


def test_dvh_draws_every_structure_and_its_reference(patient):
    dose = np.full(GRID.shape, 60.0)
    curves = histograms(patient, dose)
    figure = rendering.dvh_figure(curves, patient.prescription_gy, curves, title="round")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["PTV70", "SpinalCord", "Odd_Name", "reference"]


def test_learning_curve_shows_curves_and_baselines(tmp_path):
    figure = rendering.learning_curve(
        {"PPO": (np.arange(50), np.linspace(0, 1, 50))}, {"uniform": 0.0, "keep-all": 1.0}
    )
    path = rendering.save(figure, tmp_path / "curve.png")
    assert path.stat().st_size > 5000
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["PPO", "uniform 0.00", "keep-all 1.00"]


def test_score_table_aligns_and_marks_what_is_missing():
    rows = [{"agent": "uniform", "score": 0.0, "voxels": 12345}, {"agent": "PPO", "score": np.nan}]
    lines = rendering.score_table(rows, decimals={"score": 3}).splitlines()
    assert lines[0].split() == ["agent", "score", "voxels"]
    assert lines[2].split() == ["uniform", "0.000", "12,345"]
    assert lines[3].split() == ["PPO", "–", "–"]
    assert len({len(line) for line in lines}) == 1


def test_structures_keep_their_color_from_picture_to_picture():
    one = rendering.structure_colors(["PTV70", "Brainstem", "X"], ["PTV70"])
    two = rendering.structure_colors(["Y", "Brainstem"], [])
    assert one["Brainstem"] == two["Brainstem"]
    assert len(set(one.values())) == 3


def test_shapes_that_do_not_fit_are_refused(patient):
    dose = np.zeros(GRID.shape)
    with pytest.raises(ValueError, match="dose_gy has shape"):
        rendering.dose_wash(patient, dose[1:])
    with pytest.raises(ValueError, match="chosen has shape"):
        rendering.dose_wash(patient, dose, chosen=dose[1:] > 0)
    with pytest.raises(KeyError, match="unknown"):
        rendering.dose_wash(patient, dose, structures=["Heart"])
    with pytest.raises(ValueError, match="histograms is empty"):
        rendering.dvh_figure({}, {"PTV70": 70.0})
    with pytest.raises(ValueError, match="curve 'PPO'"):
        rendering.learning_curve({"PPO": ([1, 2], [1])})
    with pytest.raises(ValueError, match="width_px=10"):
        rendering.dose_wash(patient, dose, width_px=10)


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, ptenv.rendering; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib_a_picture_says_what_to_install(patient, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'ptenv\[agents\]'"):
        rendering.dose_wash(patient, np.zeros(GRID.shape))


def test_the_dose_axis_names_the_rbe_that_the_dose_was_made_with():
    dvh = Dvh(np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    labels = {1.1: "dose in Gy (RBE), RBE 1.1", 1.0: "dose in Gy", None: "dose in Gy (RBE)"}
    for rbe, text in labels.items():
        figure = rendering.dvh_figure({"PTV": dvh}, {"PTV": 2.0}, rbe=rbe)
        assert figure.axes[0].get_xlabel() == text
