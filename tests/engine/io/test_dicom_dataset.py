import os
import struct
import tracemalloc
import warnings

import numpy as np
import pydicom
import pytest
from dicom_samples import PYDICOM_FILES, edited, refused, small_patient, with_bytes
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from engine.io.dicom_ct import write_ct
from engine.io.dicom_dataset import (
    DicomError,
    has,
    is_dicom,
    item,
    items,
    label,
    number,
    numbers,
    pixel_frames,
    read_dataset,
    read_header,
    required,
    text,
    whole,
)
from engine.io.dicom_study import Study

ROWS, COLUMNS = 10, 12


@pytest.fixture
def slice_file(tmp_path):
    patient = small_patient()
    return write_ct(patient, Study.of(patient), tmp_path)[0]


def test_values_come_with_their_kind(slice_file):
    dataset = read_dataset(slice_file)
    assert number(dataset, "SliceThickness") == 3.0
    assert whole(dataset, "Rows") == ROWS
    assert numbers(dataset, "PixelSpacing", 2).tolist() == [2.0, 1.5]
    assert text(dataset, "Modality") == "CT"
    assert text(dataset, "ImageType") == "DERIVED\\SECONDARY\\AXIAL"
    assert label(dataset) == "'CT_0001.dcm'"


def test_what_is_missing_or_empty_is_named_or_defaults(slice_file):
    dataset = read_dataset(slice_file)
    for keyword in ("KVP", "SpiralPitchFactor"):  # empty, and not there
        assert not has(dataset, keyword)
        assert number(dataset, keyword, None) is None
        refused(lambda k=keyword: number(dataset, k), keyword, "'CT_0001.dcm'")
    assert text(dataset, "StudyDescription", "?") == "?"
    refused(lambda: text(dataset, "StudyDescription"), "StudyDescription (0008,1030)")
    refused(lambda: numbers(dataset, "PixelSpacing", 3), "holds 2 numbers where 3 are needed")


@pytest.mark.parametrize("value", [b"nan ", b"inf ", b"1e999 ", b"five", b"3,0 ", b"2 3 ", b"\\ "])
@pytest.mark.parametrize("is_converted", [False, True])
def test_what_is_no_finite_number_is_refused(slice_file, value, is_converted):
    dataset = read_dataset(with_bytes(slice_file, "SliceThickness", value))
    if is_converted:  # pydicom may refuse to
        try:
            has(dataset, "SliceThickness")
        except DicomError:
            return
    refused(lambda: number(dataset, "SliceThickness"), "SliceThickness (0018,0050)")


def test_numbers_may_be_padded_with_blanks(slice_file):
    dataset = read_dataset(with_bytes(slice_file, "PixelSpacing", b" 2.5 \\+1.5e0 "))
    assert numbers(dataset, "PixelSpacing", 2).tolist() == [2.5, 1.5]


def test_a_fraction_where_a_whole_number_belongs_is_refused(slice_file):
    dataset = read_dataset(with_bytes(slice_file, "InstanceNumber", b"1.5 "))
    refused(lambda: whole(dataset, "InstanceNumber"), "InstanceNumber")


def test_a_number_is_no_text_and_a_text_no_sequence(slice_file):
    dataset = read_dataset(slice_file)
    refused(lambda: text(dataset, "Rows"), "Rows", "no text")
    refused(lambda: items(dataset, "Modality"), "Modality", "no sequence")


def test_items_name_their_place():
    plan = read_dataset(PYDICOM_FILES / "rtplan.dcm")
    beam = item(plan, "BeamSequence")
    point = items(beam, "ControlPointSequence")[1]
    refused(
        lambda: required(point, "GantryAngle"),
        "'rtplan.dcm', item 1 of BeamSequence, item 2 of ControlPointSequence has no GantryAngle",
    )
    assert items(plan, "IonBeamSequence") == []
    refused(lambda: item(plan, "IonBeamSequence"), "0 items where one is needed")


def test_the_person_is_struck_out_of_the_file_name(tmp_path, slice_file):
    def name(dataset):
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "ID-778899"

    path = edited(slice_file, name, tmp_path / "CT_DOE_jane.778899.1.dcm")
    assert label(read_dataset(path)) == "'CT_…_….….1.dcm'"
    assert label(read_header(path, ["Modality"])) == "'CT_…_….….1.dcm'"


def test_a_file_whose_person_cannot_be_read_has_no_name(tmp_path, slice_file):
    path = as_explicit(slice_file, tmp_path / "CT_doe.dcm", PatientName=b"FD", PatientID=b"FD")
    assert label(read_dataset(path)) == "'…'"
    refused(lambda: number(read_dataset(path), "GantryAngle"), "'…' has no GantryAngle")


def test_text_into_which_its_neighbors_run_is_not_shown(slice_file):
    with_bytes(slice_file, "RescaleType", b"HU\x20\x20\x10\0\x10\0\x08\0\0\0Doe^Jane")
    said = refused(lambda: text(read_dataset(slice_file), "RescaleType"), "control characters")
    assert "Doe" not in said


def test_reading_warns_of_nothing_and_quotes_nothing(slice_file, caplog):
    path = with_bytes(slice_file, "SOPInstanceUID", b"Jane Doe's own UID, that is none at all.")
    implicit, explicit = b"\x12\x001.2.840.10008.1.2\0", b"\x14\x001.2.840.10008.1.2.1\0"
    assert implicit in path.read_bytes()  # a wrong claim, which pydicom logs
    path.write_bytes(path.read_bytes().replace(implicit, explicit, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert text(read_dataset(path), "SOPInstanceUID").startswith("Jane")
    assert caplog.text == ""


def test_other_files_are_not_dicom(tmp_path):
    for content in (b"", b"DICM", b"x" * 200, b"\0" * 128 + b"DIC"):
        (tmp_path / "junk").write_bytes(content)
        assert not is_dicom(tmp_path / "junk")
        refused(lambda: read_dataset(tmp_path / "junk"), "'junk'", "begin as DICOM")
    refused(lambda: read_dataset(tmp_path / "none.dcm"), "does not exist")
    refused(lambda: read_dataset(tmp_path), "no file")
    os.mkfifo(tmp_path / "pipe")
    assert not is_dicom(tmp_path / "pipe")


def test_files_without_preamble_are_read():
    assert text(read_dataset(PYDICOM_FILES / "ExplVR_LitEndNoMeta.dcm"), "Modality") == "RTPLAN"


def test_every_truncation_is_refused_or_misses_something(slice_file, tmp_path):
    whole_file = slice_file.read_bytes()
    for n_bytes in range(0, len(whole_file), 7):
        cut = tmp_path / "cut.dcm"
        cut.write_bytes(whole_file[:n_bytes])
        with pytest.raises(DicomError):
            pixel_frames(read_dataset(cut))


def test_deflated_files_are_refused():
    refused(lambda: read_dataset(PYDICOM_FILES / "image_dfl.dcm"), "deflated")


def test_deflated_files_are_refused_whatever_stands_before_their_transfer_syntax(tmp_path):
    """It may lie beyond the first bytes, by which files are told from others."""

    def lengthen(dataset):
        dataset.file_meta.FileMetaInformationVersion = bytes(4096)

    path = edited(PYDICOM_FILES / "image_dfl.dcm", lengthen, tmp_path / "long.dcm")
    assert path.read_bytes().index(b"1.2.840.10008.1.2.1.99") > 4096
    refused(lambda: read_header(path), "'long.dcm' is deflated")


def test_kinds_that_do_not_exist_are_refused_when_asked_for(tmp_path, slice_file):
    path = as_explicit(slice_file, tmp_path / "odd.dcm", KVP=b"LH", StudyID=b"LH")
    dataset = read_dataset(path)
    assert number(dataset, "SliceThickness") == 3.0
    refused(lambda: has(dataset, "KVP"), "KVP (0018,0060)", "'odd.dcm'", "NotImplementedError")


def as_explicit(path, to, **kinds):
    """A file in explicit little endian, in which some elements claim another kind (VR)."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(to)
    content = to.read_bytes()
    for keyword, kind in kinds.items():
        tag = Tag(keyword)
        header = struct.pack("<HH", tag.group, tag.element) + dataset[tag].VR.encode()
        assert content.count(header) == 1
        content = content.replace(header, header[:4] + kind)
    to.write_bytes(content)
    return to


@pytest.mark.parametrize("other", ["bigendian", "implicit", "expb", "RLE"])
def test_pixels_are_the_same_in_every_transfer_syntax(other):
    expected = pixel_frames(read_dataset(PYDICOM_FILES / "MR_small.dcm"))
    found = pixel_frames(read_dataset(PYDICOM_FILES / f"MR_small_{other}.dcm"))
    assert expected.shape == (1, 64, 64)
    assert expected.std() > 100
    assert np.array_equal(found, expected)


def test_only_the_stored_bits_count_and_carry_the_sign(slice_file):
    def change(dataset):  # 12 bits from bit 11 down; above them an overlay
        dataset.BitsStored, dataset.HighBit = 12, 11
        values = np.full(ROWS * COLUMNS, -5) & 0x0FFF | 0x3000
        dataset.PixelData = values.astype("<u2").tobytes()

    assert np.all(pixel_frames(read_dataset(edited(slice_file, change))) == -5)

    def impossible(dataset):
        dataset.HighBit = 16

    path = edited(slice_file, impossible)
    refused(lambda: pixel_frames(read_dataset(path)), "bit 16")


def claim(**values):
    def change(dataset):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


@pytest.mark.parametrize(
    "values, named",
    [
        (dict(Rows=65535, Columns=16384), "2147450880 bytes, but holds 240"),  # 2 GB
        (dict(NumberOfFrames=10**9), "claims 1000000000 frames"),
        (dict(Rows=0), "claims 1 frames of 0"),
        (dict(NumberOfFrames=-1), "claims -1 frames"),
        (dict(BitsAllocated=64), "BitsAllocated"),
        (dict(BitsAllocated=1), "BitsAllocated"),
        (dict(SamplesPerPixel=3), "color"),
        (dict(Rows=11), "264 bytes, but holds 240"),
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_claims_without_bytes_are_refused_before_anything_is_allocated(
    slice_file, values, named, is_compressed
):
    def change(dataset):
        if is_compressed:
            dataset.compress(RLELossless)
        claim(**values)(dataset)

    dataset = read_dataset(edited(slice_file, change))
    tracemalloc.start()
    refused(lambda: pixel_frames(dataset), *([] if is_compressed else [named]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_an_element_that_claims_gigabytes_is_refused(slice_file):
    content = slice_file.read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\x00")
    slice_file.write_bytes(content[: at + 4] + (2**31).to_bytes(4, "little") + content[at + 8 :])
    refused(lambda: read_dataset(slice_file), "PixelData (7FE0,0010)", "240 of 2147483648 bytes")


def test_an_unknown_transfer_syntax_is_refused(slice_file):
    dataset = read_dataset(slice_file)
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.113619.5.2")
    refused(lambda: pixel_frames(dataset), "1.2.840.113619.5.2")


def test_nested_beyond_measure_is_refused(slice_file):
    content = slice_file.read_bytes()
    sequence_and_item = b"\x08\x00\x40\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    before_pixels = content[: content.rindex(b"\xe0\x7f\x10\x00")]
    slice_file.write_bytes(before_pixels + sequence_and_item * 5000)
    refused(lambda: read_dataset(slice_file), "cannot be read as DICOM (RecursionError)")


def test_pydicoms_own_files_are_read_or_refused():
    n_read = 0
    for path in sorted(p for p in PYDICOM_FILES.iterdir() if p.is_file()):
        try:
            dataset = read_dataset(path)
            n_read += has(dataset, "PixelData") and pixel_frames(dataset).size > 0
        except DicomError:
            continue
    assert n_read >= 15
