"""``ptenv validate plan=FOLDER``: a plan from DICOM against the dose beside it."""

import json
from functools import partial

import numpy as np
import pydicom
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.dose.quantities import RbeDose, biological_dose
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_dose import read_dose
from engine.physics.lem import Lem1, Tissue
from engine.physics.mkm import Mkm
from scripts import cli, validate_plan

CRITERION = dict(dose_percent=1.0, distance_mm=1.0, local=False, cutoff_percent=10.0)
CHORDOMA = Lem1(Tissue("chordoma", 0.1, 0.05, 30.0, 5.0))
CHORDOMA_DOSE = partial(biological_dose, CHORDOMA)
TIGHT = ("gamma.dose_percent=1", "gamma.distance_mm=1", "pass_rate_percent=100")
TANK = (
    "patient=water_tank", "patient.size_mm=[60,120,60]", "patient.spacing_mm=4",
    "patient.target_size_mm=20", "dose_grid_mm=6", "optimization.solver.max_evaluations=10",
    "threads=1", "n_fractions=20", "output.dicom=true",
)  # fmt: skip
PLANS = {
    "protons": ("geometry.settings.spot_spacing_mm=8", "geometry.beams.gantry_deg=[0,180]"),
    "arc": ("geometry=static_arc", "geometry.arc.n_angles=4", "geometry.n_layers=6"),
    "carbon": ("machine=generic_carbon", "geometry=one_field",
               "geometry.settings.spot_spacing_mm=8"),
    "photons": ("experiment=photons", "geometry.beams.gantry_deg=[0,90]"),
    "wide bixels": ("experiment=photons", "geometry.beams.gantry_deg=[0,90]",
                    "geometry.bixel_mm=10", "dose.bixel_mm=10"),
}  # fmt: skip


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Function: the DICOM folder of a small plan, made once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            assert cli.main(["plan", *TANK, *PLANS[name], f"output={made[name]}"]) == 0
        return made[name] / "dicom"

    return folder


@pytest.fixture
def changed(planned, tmp_path):
    """Function: a copy of the protons' folder with files changed or, by None, removed."""

    def folder(**changes):
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in planned("protons").iterdir():
            change = changes.get(path.stem, lambda dataset: None)
            if change is None:
                continue
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(copy / path.name)
        return copy

    return folder


def computed(folder, quantity=None, biology=None, engine=None, **keys):
    """The comparison at 1 %/1 mm, its rows by group and quantity, and notes; the command does the
    same, but for its keys and files."""
    given = validate_plan.read(folder, **keys)
    weighting, notes = validate_plan.quantity_for(given, quantity, biology)
    engine = engine or PencilBeamEngine(biology=biology)
    done = validate_plan.compute(given, engine, weighting)
    found = validate_plan.compare(given, *done, CRITERION)
    return found, {(r.group, r.quantity): r for r in found.rows}, [*given.notes, *notes]


def validate(tmp_path, folder, *arguments):
    """Exit code of the command, and its numbers."""
    out = tmp_path / "out"
    code = cli.main(["validate", f"plan={folder}", *arguments, f"output={out}", "threads=2"])
    return code, json.loads((out / "numbers.json").read_text()) if code < 2 else {}


def refused(capsys, tmp_path, folder, *arguments) -> str:
    code, _ = validate(tmp_path, folder, *arguments)
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    "name, settings, beams, rbe",
    [
        ("protons", {}, (1, 2), 1.1), ("arc", {}, (1, 2, 3), 1.1),
        ("photons", dict(engine=PhotonSvdEngine()), (1, 2), 1.0),
        ("wide bixels", dict(engine=PhotonSvdEngine()), (1, 2), 1.0),
        ("carbon", dict(quantity=CHORDOMA_DOSE, biology=CHORDOMA), (1,), None),
    ],
)  # fmt: skip
def test_a_plan_computed_by_the_same_engine_passes_everywhere(
    planned, name, settings, beams, rbe
):
    found, rows, _ = computed(planned(name), **settings)
    assert found.gamma.pass_rate_percent == 100.0 and found.gamma.n_evaluated > 50
    assert abs(found.numbers["mean_difference_percent"]) < 0.1
    assert {q: r.ours for (g, q), r in rows.items() if g == "Beams"} == {
        f"beam {number}: 1 %/1 mm, global": 100.0 for number in beams
    }
    assert rows["PTV", "D95%"].difference == pytest.approx(0.0, abs=0.1)
    assert rows["PTV", "D95%"].ours > 50.0
    weighting, _ = validate_plan.quantity_for(found.given, settings.get("quantity"), None)
    assert weighting.rbe == rbe


def test_the_command_leaves_numbers_volumes_and_pictures(planned, tmp_path):
    code, numbers = validate(tmp_path, planned("protons"), *TIGHT)
    assert code == 0
    assert numbers["gamma_1_1_10"] == 100.0 and numbers["engine"] == "pencil_beam"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.yaml", "record.json", "numbers.json", "comparison.csv", "comparison.json",
        "dose.npz", "dose_wash.png", "dvh.png",
    }  # fmt: skip
    with np.load(tmp_path / "out" / "dose.npz") as kept:
        theirs = read_dose(planned("protons") / "RTDOSE.dcm")
        assert kept["reference"].max() == pytest.approx(theirs.dose_gy.max())
        assert kept["gamma"].shape == kept["dose"].shape == theirs.grid.shape


def test_the_command_takes_a_model_of_biology_and_keys_of_dicom(planned, tmp_path, capsys):
    said = refused(capsys, tmp_path, planned("carbon"))
    assert "Lem1" in said and "quantity=generic_carbon" in said
    code, numbers = validate(
        tmp_path, planned("carbon"), *TIGHT, "quantity=generic_carbon",
        "dicom.particles_per_mu={100: 1e8, 200: 1e8}", "dicom.prescription_gy={PTV: 50}",
    )  # fmt: skip
    assert code == 0 and numbers["rbe"] is None and numbers["gamma_1_1_10"] == 100.0


def test_a_missed_criterion_is_exit_code_1(changed, tmp_path):
    code, numbers = validate(tmp_path, changed(RTDOSE=_stronger), *TIGHT)
    assert code == 1 and numbers["gamma_1_1_10"] < 90.0


def _stronger(dataset):
    dataset.DoseGridScaling = 1.05 * float(dataset.DoseGridScaling)


def test_another_dose_fails(changed):
    found, rows, _ = computed(changed(RTDOSE=_stronger))
    assert found.gamma.pass_rate_percent < 90.0
    assert rows["Dose", "largest dose"].ours == pytest.approx(100.0 / 1.05, abs=0.1)
    assert rows["Beams", "beam 1: 1 %/1 mm, global"].ours == 100.0


def test_a_beam_that_comes_from_elsewhere_fails_alone(changed):
    def turned(dataset):
        dataset.IonBeamSequence[1].IonControlPointSequence[0].GantryAngle = 90.0

    found, rows, _ = computed(changed(RTPLAN=turned))
    assert found.gamma.pass_rate_percent < 90.0
    assert rows["Beams", "beam 1: 1 %/1 mm, global"].ours == 100.0
    assert rows["Beams", "beam 2: 1 %/1 mm, global"].ours < 50.0


def test_without_a_total_the_beams_are_added_up(changed):
    found, _, notes = computed(changed(RTDOSE=None))
    assert found.gamma.pass_rate_percent == 100.0
    assert any("added up" in note for note in notes)


def test_a_dose_of_a_fraction_is_told_by_a_key(changed):
    def of_fraction(dataset):
        dataset.DoseGridScaling = float(dataset.DoseGridScaling) / 20.0

    folder = changed(RTDOSE=of_fraction, RTDOSE_beam_1=of_fraction, RTDOSE_beam_2=of_fraction)
    assert computed(folder)[0].gamma.pass_rate_percent < 50.0
    found, rows, _ = computed(folder, dose_of="fraction")
    assert found.gamma.pass_rate_percent == 100.0
    assert rows["Beams", "beam 2: 1 %/1 mm, global"].ours == 100.0


def test_fractions_are_the_plans_unless_a_key_tells_others(planned):
    assert computed(planned("protons"))[0].given.patient.n_fractions == 20
    _, rows, _ = computed(planned("protons"), n_fractions=10)
    assert rows["Dose", "largest dose"].ours == pytest.approx(50.0, abs=0.1)


def _other(dataset):
    dataset.Manufacturer = "Other"


def test_an_effective_dose_of_protons_from_elsewhere_is_taken_with_1_1(changed):
    found, _, notes = computed(changed(RTDOSE=_other))
    assert found.gamma.pass_rate_percent == 100.0
    assert any("RBE 1.1 is taken" in note for note in notes)


def test_a_physical_dose_is_compared_with_a_physical_one(changed):
    def physical(dataset):
        dataset.DoseType = "PHYSICAL"
        dataset.DoseGridScaling = float(dataset.DoseGridScaling) / 1.1
        del dataset.DoseComment

    folder = changed(RTDOSE=physical)
    found, rows, _ = computed(folder)
    assert found.gamma.pass_rate_percent == 100.0
    assert not [group for group, _ in rows if group == "Beams"]  # which are effective
    found, _, notes = computed(folder, quantity=partial(RbeDose, rbe=1.1))
    assert found.gamma.pass_rate_percent < 90.0
    assert any("weighted by nothing, ours by RBE 1.1" in note for note in notes)


def test_another_model_than_the_files_is_told(planned):
    model = Mkm()
    found, _, notes = computed(
        planned("carbon"), quantity=partial(biological_dose, model), biology=model
    )
    assert found.gamma.pass_rate_percent < 50.0
    assert any("weighted by Lem1" in note and "ours by Mkm" in note for note in notes)


def test_an_effective_dose_of_carbon_from_elsewhere_wants_its_weighting(planned, tmp_path):
    for path in planned("carbon").iterdir():
        dataset = pydicom.dcmread(path)
        _other(dataset)
        dataset.save_as(tmp_path / path.name)
    with pytest.raises(ValueError, match="quantity="):
        computed(tmp_path)


def test_an_engine_that_knows_no_biology_is_refused_for_a_model_of_it(planned):
    with pytest.raises(ValueError, match="engine=pencil_beam"):
        computed(planned("carbon"), quantity=CHORDOMA_DOSE, engine=PencilBeamEngine())


def test_photons_want_their_engine(planned):
    with pytest.raises(ValueError, match="engine=photon_svd"):
        computed(planned("photons"))


def test_monitor_units_want_particles(changed):
    def in_units(dataset):
        for beam in dataset.IonBeamSequence:
            beam.PrimaryDosimeterUnit = "MU"
        for item in dataset.FractionGroupSequence[0].ReferencedBeamSequence:
            item.BeamMeterset = f"{float(item.BeamMeterset) / 1e8:.8g}"

    folder = changed(RTPLAN=in_units)
    with pytest.raises(DicomError, match="particles_per_mu"):
        computed(folder)
    for told in (1e8, {70: 1e8, 200: 1e8}):
        assert computed(folder, particles_per_mu=told)[0].gamma.pass_rate_percent == 100.0


@pytest.mark.parametrize(
    "keys, said",
    [
        (dict(dose="zzz"), "names 0 of the doses"), (dict(dose_of="week"), "dose_of"),
        (dict(machine="x"), "no machine"), (dict(plan="zzz"), "names 0 of the plans"),
    ],
)  # fmt: skip
def test_wrong_keys_are_refused(planned, keys, said):
    with pytest.raises(ValueError, match=said):
        computed(planned("protons"), **keys)


def test_the_command_refuses_in_its_own_words(planned, tmp_path, capsys):
    said = refused(capsys, tmp_path, planned("protons"), "dicom.structures=xyz")
    assert "dicom.structures='xyz'" in said and "choose by dicom.structures=…" in said
    said = refused(capsys, tmp_path, planned("protons"), "dicom.dose=xyz")
    assert "choose by dicom.dose=…" in said
    said = refused(capsys, tmp_path, tmp_path / "nowhere")
    assert f"plan='{tmp_path / 'nowhere'}' is no folder" in said


def test_a_plan_that_does_not_say_how_the_patient_lies_is_computed_as_on_the_ct(changed):
    def silent(dataset):
        dataset.PatientSetupSequence[0].PatientPosition = ""

    def prone(dataset):
        dataset.PatientPosition = "HFP"

    slices = {f"CT_{k:04}": prone for k in range(1, 16)}
    given = validate_plan.read(changed(RTPLAN=silent, **slices))
    assert [beam.gantry_deg for beam in given.plan.plan.beams] == [180.0, 0.0]


def test_structure_sets_whose_ct_is_elsewhere_are_told_of(changed):
    folder = changed()
    dataset = pydicom.dcmread(folder / "RTSTRUCT.dcm")
    dataset.SOPInstanceUID = "1.2.3.2"
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.SeriesInstanceUID = "1.2.3.77"
    dataset.save_as(folder / "other.dcm")
    given = validate_plan.read(folder)
    assert any("whose CT is not in the folder" in note for note in given.notes)


def test_a_plan_and_a_reference_are_not_compared_at_once(planned, tmp_path, capsys):
    said = refused(capsys, tmp_path, planned("protons"), "reference=x.npz")
    assert "two comparisons" in said


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(RTDOSE=None, RTDOSE_beam_1=None, RTDOSE_beam_2=None), "no dose in the folder"),
        (dict(RTDOSE=None, RTDOSE_beam_2=None), "beams do not make it up"),
        (dict(RTPLAN=None), "no plan in the folder"),
        (
            dict(RTPLAN=lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3")),
            "the plan lies in another frame of reference",
        ),
        (dict(RTDOSE=lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3")), "frame of reference"),
        (dict(RTDOSE=lambda d: setattr(d, "ImagePositionPatient", [900] * 3)), "zero in the body"),
        (
            dict(RTDOSE=lambda d: setattr(d, "ImagePositionPatient", [14, -57, -27])),
            "no target lies on the grid",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(changed, changes, said):
    with pytest.raises(DicomError, match=said):
        computed(changed(**changes))


def test_an_engine_that_counts_particles_gives_the_total_alone(planned):
    few = MonteCarloEngine(n_histories=20000, scores="dose to water")
    found, rows, _ = computed(planned("protons"), engine=few)
    assert not [group for group, _ in rows if group == "Beams"]
    assert abs(found.numbers["integral_difference_percent"]) < 5.0
