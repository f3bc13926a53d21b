"""Maps of relative stopping power as numpy files."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from engine.patient.rsp_map import RspMap
from engine.physics.materials import I_WATER_EV

NAME = "rsp"  # of the array in an .npz that holds several


def read_rsp_map(
    path: str | Path, energy_mev: float = 100.0, i_water_ev: float = I_WATER_EV
) -> RspMap:
    """An RSP per CT voxel, (nz, ny, nx) in the order of the CT, from an .npy, or an .npz that holds
    one array or one named ``rsp``."""
    path = Path(path).expanduser()
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"path={str(path)!r} must end in .npy or .npz.")
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} does not exist; check it.")
    return RspMap(_array(path), energy_mev, i_water_ev, source=f"path={str(path)!r}")


def _array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            arrays = dict(found)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"path={str(path)!r} is no readable numpy file ({error}); it may be truncated, or hold "
            "objects instead of numbers."
        ) from error
    if NAME not in arrays and len(arrays) != 1:
        raise ValueError(
            f"path={str(path)!r} holds {sorted(arrays)}; name the one that is meant {NAME!r}."
        )
    return arrays[NAME] if NAME in arrays else next(iter(arrays.values()))
