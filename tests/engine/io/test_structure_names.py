import re

import pytest

from engine.io.openkbp import ORGANS, TARGETS
from engine.io.structure_names import Named, _our_rules, dose_in_name_gy, mapped
from engine.patient.phantoms import head_and_neck, horseshoe, tg119_c_shape, water_tank

LOCAL = {
    "Brainstem": "Brainstem", "BRAIN STEM": "Brainstem", "Hirnstamm": "Brainstem",
    "Spinal_Cord": "SpinalCord", "cord": "SpinalCord", "Myelon": "SpinalCord",
    "LeftParotid": "Parotid_L", "PAROTID_RIGHT": "Parotid_R", "Lt. Parotid": "Parotid_L",
    "Parotid gland re": "Parotid_R", "Gl. Parotis links": "Parotid_L",
    "submandibular_l": "Glnd_Submand_L", "Glnd_Submand_R": "Glnd_Submand_R",
    "ON_L": "OpticNrv_L", "Optic Nerve Rt": "OpticNrv_R", "Chiasm": "OpticChiasm",
    "OptNerve_L": "OpticNrv_L", "OPT NRV R": "OpticNrv_R", "Opt Chiasm": "OpticChiasm",
    "Eye_L": "Eye_L", "Right Eye": "Eye_R", "Lens_R": "Lens_R", "Mandible": "Bone_Mandible",
    "Oesophagus": "Esophagus", "Oral-Cavity": "Cavity_Oral", "Lung Left": "Lung_L",
    "Femoral Head R": "Femur_Head_R", "Small Bowel": "Bowel_Small", "Rectum": "Rectum",
}  # fmt: skip


@pytest.mark.parametrize("local, tg263", LOCAL.items())
def test_common_local_names_are_known(local, tg263):
    assert mapped([local]).named == {local: Named(tg263, "organ")}


@pytest.mark.parametrize(
    "local, tg263",
    [
        ("PTV70", "PTV_7000"), ("PTV_7000", "PTV_7000"), ("PTV 63 Gy", "PTV_6300"),
        ("ptv_54.25Gy", "PTV_5425"), ("PTV-5600cGy", "PTV_5600"), ("CTV 60", "CTV_6000"),
        ("GTVp_7000", "GTVp_7000"), ("PTVn56", "PTVn_5600"), ("PTV", "PTV"), ("PTV1", "PTV1"),
        ("PTV High", "PTV_High"), ("ptv_lr", "PTV_Low"), ("PTV_400cGy", "PTV_0400"),
    ],
)  # fmt: skip
def test_targets_are_named_after_their_dose(local, tg263):
    assert mapped([local]).named == {local: Named(tg263, "target")}


@pytest.mark.parametrize(
    "local", ["PTV_660", "PTV_110", "PTV 70 eval", "PTV7000000", "PTV_0", "PTV 150 Gy"]
)
def test_numbers_that_are_no_dose_are_not_guessed(local):
    assert mapped([local]).unmatched == (local,)


@pytest.mark.parametrize("local", ["BODY", "External", "Skin", "Outer Contour", "patient outline"])
def test_the_external_is_known(local):
    assert mapped([local]).named == {local: Named("External", "external")}


@pytest.mark.parametrize("local", ["zRing", "z_PTV_opt", "Ring 2", "opt PTV", "Isocenter 1"])
def test_helpers_of_planning_are_left_out(local):
    found = mapped([local])
    assert found.left_out == (local,)
    assert not found.named
    assert not found.unmatched


@pytest.mark.parametrize(
    "local", ["SpinalCord_PRV05", "Parotid", "Parotids", "Kidney", "Structure7", "", "Brain+3mm"]
)
def test_what_no_pattern_matches_is_handed_back(local):
    """A part of a name is no match, and what comes in pairs needs its side."""
    assert mapped([local]).unmatched == (local,)


def test_every_tg263_name_of_the_file_is_its_own():
    for section, tg263, _ in _our_rules():
        name = f"{tg263}_L" if section == "paired" else tg263
        if name:
            assert mapped([name]).named[name].name == name


def test_names_of_this_packages_patients_stay_as_they_are():
    expected = [*ORGANS.values(), *(name for name, _ in TARGETS.values())]
    phantoms = head_and_neck(0, 6.0), horseshoe((6, 6, 6)), tg119_c_shape(6.0), water_tank(100, 5)
    for patient in phantoms:
        expected += list(patient.structures)
        found = mapped(patient.structures).named
        assert {n: m.role for n, m in found.items()} == {
            n: s.role for n, s in patient.structures.items()
        }
    for name in expected:
        assert mapped([name]).named[name].name == name


def test_published_openkbp_names_are_known():
    assert {n: m.name for n, m in mapped(ORGANS).named.items()} == ORGANS


def test_ones_own_patterns_come_first(tmp_path):
    own = tmp_path / "names.yaml"
    own.write_text(
        "leave_out: ['cord old']\n"
        "targets:\n  PTV_5000: ['boost( volume)?']\n"
        "organs:\n  Larynx: ['brain ?stem']\n"
        "keep: ['Lymph .*']\n"
        "external: ['hull']\n"
    )
    names = ["Boost volume", "Brain Stem", "Cord_Old", "Lymph_L2", "Hull", "Cord"]
    found = mapped(names, own)
    assert found.named == {
        "Boost volume": Named("PTV_5000", "target"),
        "Brain Stem": Named("Larynx", "organ"),
        "Lymph_L2": Named("Lymph_L2", None),
        "Hull": Named("External", "external"),
        "Cord": Named("SpinalCord", "organ"),
    }
    assert found.left_out == ("Cord_Old",)
    assert mapped(names, str(own)) == found


def test_a_pattern_may_be_the_name_as_written():
    own = {"organs": {"Larynx": [re.escape("A.b_C (1)")]}}
    assert mapped(["A.b_C (1)"], own).named["A.b_C (1)"].name == "Larynx"


def test_two_names_for_one_structure_are_refused_by_name():
    with pytest.raises(ValueError, match="'Cord' and 'Spinal Cord' are both SpinalCord") as caught:
        mapped(["Cord", "Spinal Cord"])
    pattern = re.search(r"leave_out: \['(.*)'\]", str(caught.value))[1]
    found = mapped(["Cord", "Spinal Cord"], {"leave_out": [pattern]})
    assert list(found.named) == ["Cord"]
    with pytest.raises(ValueError, match="both named 'Cord'"):
        mapped(["Cord", "Cord"])


def test_the_one_that_ones_own_patterns_chose_wins():
    own = {"organs": {"SpinalCord": ["new cord"]}}
    for names in (["Cord", "New Cord"], ["New Cord", "Cord"]):
        found = mapped(names, own)
        assert list(found.named) == ["New Cord"]
        assert found.unmatched == ("Cord",)
    with pytest.raises(ValueError, match="both SpinalCord"):
        mapped(["New Cord", "new_cord"], own)


@pytest.mark.parametrize(
    "content, named",
    [
        ("organ: {A: [b]}", "sections may be leave_out"),
        ("[1, 2]", "sections may be"),
        ("organs: [a, b]", "organs of names must give lists of patterns by name"),
        ("organs: {A: b}", "'b' where a list of patterns"),
        ("keep: 5", "5 where a list"),
        ("organs: {A: ['(']}", r"pattern '\(', which is no regular expression"),
        ("organs: {A: [5]}", "pattern 5"),
        ("organs: {A: [", "no readable YAML"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, content, named):
    (tmp_path / "names.yaml").write_text(content)
    with pytest.raises(ValueError, match=named):
        mapped(["Cord"], tmp_path / "names.yaml")


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        mapped([], "nowhere.yaml")


@pytest.mark.parametrize(
    "name, dose_gy",
    [("PTV_7000", 70.0), ("CTV_5425", 54.25), ("GTVp_7000", 70.0), ("PTV_0400", 4.0),
     ("PTV", None), ("PTV_High", None), ("PTV_7000x", None), ("PTV1", None)],
)  # fmt: skip
def test_names_hold_their_dose(name, dose_gy):
    assert dose_in_name_gy(name) == dose_gy
