"""Damaged files are read or refused with a clear message, whatever is wrong with them.

PTENV_FUZZ=20000 runs so many cases and prints how they ended, by damage; a case that failed runs
again alone by its number, ``dicom_fuzzing.run(number, bases, folder)``.
"""

import os

import dicom_fuzzing as fuzzing
import pytest
from dicom_bases import PERSON, made_bases
from dicom_damage import DAMAGES
from dicom_readers import READERS

from engine.io.dicom_dataset import DicomError

N_CASES = 24 * len(DAMAGES)
LARGEST_MB = 150.0  # of files of 50 KB; images of 16 Mpixel in them take 90, a bomb 200
SHOWN = 8


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return made_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def outcomes(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    n_cases = int(os.environ.get("PTENV_FUZZ", N_CASES))
    return [fuzzing.run(number, bases, folder) for number in range(n_cases)]


def shown(outcomes):
    return f"{len(outcomes)} cases: " + "\n".join(str(outcome) for outcome in outcomes[:SHOWN])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("base", ["ions", "explicit", "photons"])
def test_undamaged_files_are_read(bases, tmp_path, base, reader):
    of, read = READERS[reader]
    for name, content in bases[base].items():
        (tmp_path / name).write_bytes(content)
    if (base, reader) == ("photons", "read_plan, protons"):
        with pytest.raises(DicomError, match="PHOTON"):
            read(tmp_path, tmp_path / "RTPLAN.dcm")
        return
    target = next(name for name in bases[base] if of in name)
    said = read(tmp_path, tmp_path / target).lower()
    assert not any(word in said for word in PERSON)


def test_damaged_files_are_read_or_refused(outcomes, capsys):
    if "PTENV_FUZZ" in os.environ:
        with capsys.disabled():
            print(f"\n{fuzzing.table(outcomes)}")
    crashed = [outcome for outcome in outcomes if outcome.end not in ("read", "refused")]
    assert not crashed, shown(crashed)


def test_every_kind_of_damage_is_told_at_times(outcomes):
    refused = {outcome.damage for outcome in outcomes if outcome.end == "refused"}
    assert refused >= set(DAMAGES) - {"person, charset"}  # which is not needed


def test_refusals_say_of_which_file(outcomes):
    unnamed = [outcome for outcome in outcomes if not outcome.is_named]
    assert not unnamed, shown(unnamed)


def test_nothing_tells_who_the_person_is(outcomes):
    telling = [outcome for outcome in outcomes if outcome.tells_person]
    assert not telling, shown(telling)


def test_small_files_take_little_memory(outcomes):
    large = [outcome for outcome in outcomes if outcome.grown_mb > LARGEST_MB]
    assert not large, shown(large)
