"""The one private element of our files: what the standard has no place for.

The distance from a range shifter to the skin, in the settings of the range shifter: how far
fragments spread depends on it.
"""

from pydicom.datadict import add_private_dict_entry
from pydicom.dataset import Dataset

from engine.io.dicom_dataset import DicomError, label

CREATOR, GROUP, AIR_GAP = "PTENV", 0x300B, 0x01
add_private_dict_entry(CREATOR, (GROUP << 16) | 0x1000 | AIR_GAP, "DS", "Air Gap in mm")


def write_air_gap_mm(item: Dataset, air_gap_mm: float) -> None:
    block = item.private_block(GROUP, CREATOR, create=True)
    block.add_new(AIR_GAP, "DS", repr(round(air_gap_mm, 6)))


def air_gap_mm(item: Dataset) -> float | None:
    """None where the file is not ours."""
    element = item.get_private_item(GROUP, AIR_GAP, CREATOR) if _has_block(item) else None
    if element is None:
        return None
    try:
        return float(element.value)
    except (TypeError, ValueError):
        raise DicomError(f"the air gap of {label(item)} is no number.") from None


def _has_block(item: Dataset) -> bool:
    try:
        return AIR_GAP in item.private_block(GROUP, CREATOR)
    except KeyError:
        return False
