"""The one private element of our files: what the standard has no place for.

The distance from a range shifter to the skin, in the settings of the range shifter: how far
fragments spread depends on it.
"""

import numpy as np
from pydicom.datadict import add_private_dict_entry
from pydicom.dataset import Dataset

from engine.io.dicom_dataset import DicomError, label, private_value

CREATOR, GROUP, AIR_GAP = "PTENV", 0x300B, 0x01
LARGEST_MM = 10_000.0
add_private_dict_entry(CREATOR, (GROUP << 16) | 0x1000 | AIR_GAP, "DS", "Air Gap in mm")


def write_air_gap_mm(item: Dataset, air_gap_mm: float) -> None:
    block = item.private_block(GROUP, CREATOR, create=True)
    block.add_new(AIR_GAP, "DS", repr(round(air_gap_mm, 6)))


def air_gap_mm(item: Dataset) -> float | None:
    """None where the file is not ours."""
    value = private_value(item, GROUP, AIR_GAP, CREATOR)
    if value is None:
        return None
    try:
        gap_mm = float(value)
    except (TypeError, ValueError):
        gap_mm = np.nan
    if not 0.0 <= gap_mm <= LARGEST_MM:
        raise DicomError(
            f"the air gap of {label(item)} is no length from 0 to {LARGEST_MM:g} mm; export the "
            "plan again."
        )
    return gap_mm
