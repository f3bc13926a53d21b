"""Frames of an image at positions in the patient, brought to the project's axes.

Source: DICOM PS3.3, C.7.6.2.1.1: orientation is the direction of growing column index, then that
of growing row index, in the patient's x (left), y (posterior), z (superior); a position is the
center of a frame's first pixel; pixel spacing is between rows, then between columns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.io.dicom_dataset import DicomError
from engine.patient.grid import Grid

MAX_TILT_DEG = 0.05  # 0.2 mm at 25 cm
POSITION_WITHIN_MM = 0.1  # of slices from an even stack: some scanners write tenths


@dataclass(frozen=True, eq=False)
class AxialStack:
    """How frames of axial slices make a volume: place of each, and how each lies in it."""

    grid: Grid
    slice_of_frame: np.ndarray  # (n,), index along z
    is_transposed: bool  # rows run along y
    flips: tuple[bool, bool]  # of (y, x), after transposing

    def oriented(self, frame: np.ndarray) -> np.ndarray:
        """A frame (rows, columns) as a slice (ny, nx): a view."""
        frame = frame.T if self.is_transposed else frame
        return frame[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)]

    def volume(self, frames: Iterable[np.ndarray], dtype=None) -> np.ndarray:
        """The frames in the order of their positions as a volume (nz, ny, nx)."""
        volume = None
        for k, frame in zip(self.slice_of_frame, frames, strict=True):
            frame = self.oriented(np.asarray(frame))
            if frame.shape != self.grid.shape[1:]:
                raise DicomError(
                    f"frames differ in shape: {frame.shape} and {self.grid.shape[1:]} pixels."
                )
            if volume is None:
                volume = np.empty(self.grid.shape, dtype or frame.dtype)
            volume[k] = frame
        return volume


def axial_volume(
    frames: Sequence[np.ndarray] | np.ndarray,
    positions_mm: np.ndarray,
    orientation: np.ndarray,
    pixel_spacing_mm: np.ndarray,
    thickness_mm: float | None = None,
) -> tuple[Grid, np.ndarray]:
    """Grid and volume (nz, ny, nx) of frames (n, rows, columns); see ``axial_stack``."""
    stack = axial_stack(
        np.shape(frames[0]), positions_mm, orientation, pixel_spacing_mm, thickness_mm
    )
    return stack.grid, stack.volume(frames)


def axial_stack(
    frame_shape: tuple[int, int],
    positions_mm: np.ndarray,
    orientation: np.ndarray,
    pixel_spacing_mm: np.ndarray,
    thickness_mm: float | None = None,
) -> AxialStack:
    """The stack that frames at positions (n, 3) make, in whatever order they come.

    Any orientation (6,) whose axes are the patient's x and y, up to sign and order, will do:
    every patient position, head or feet first. Refused: axes off by more than ``MAX_TILT_DEG``
    (oblique, sagittal, coronal, tilted gantry), slices that lie more than ``POSITION_WITHIN_MM``
    off an even stack (missing, uneven, sheared), two at one place. ``thickness_mm`` is the
    spacing of a single slice, which has none of its own.
    """
    positions_mm = np.asarray(positions_mm, dtype=float).reshape(-1, 3)
    along_columns, along_rows = _axes(np.asarray(orientation, dtype=float))
    between_rows_mm, between_columns_mm = _checked_spacing(pixel_spacing_mm)
    is_transposed = along_columns[0] == 1  # growing column index runs along the patient's y
    steps = {along_columns[0]: between_columns_mm, along_rows[0]: between_rows_mm}
    signs = {along_columns[0]: along_columns[1], along_rows[0]: along_rows[1]}
    n_rows, n_columns = frame_shape
    ny, nx = (n_columns, n_rows) if is_transposed else (n_rows, n_columns)

    order, dz_mm = _even_spacing(positions_mm, thickness_mm)
    first = positions_mm[order[0]]
    low_x = np.mean(positions_mm[:, 0]) - (signs[0] < 0) * (nx - 1) * steps[0]
    low_y = np.mean(positions_mm[:, 1]) - (signs[1] < 0) * (ny - 1) * steps[1]
    slice_of_frame = np.empty(len(order), dtype=int)
    slice_of_frame[order] = np.arange(len(order))
    return AxialStack(
        Grid((len(order), ny, nx), (dz_mm, steps[1], steps[0]), (first[2], low_y, low_x)),
        slice_of_frame,
        is_transposed,
        (signs[1] < 0, signs[0] < 0),
    )


def _axes(orientation: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """(patient axis, sign) of growing column index and of growing row index."""
    if orientation.shape != (6,) or not np.all(np.isfinite(orientation)):
        raise DicomError(f"orientation={orientation.tolist()} must be six direction cosines.")
    cosines = orientation.reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    if np.any(np.abs(lengths - 1.0) > 1e-3):
        raise DicomError(
            f"orientation={orientation.tolist()} has axes of length {lengths[0]:g} and "
            f"{lengths[1]:g}; direction cosines have length 1."
        )
    cosines = cosines / lengths[:, None]
    axes = np.argmax(np.abs(cosines), axis=1)
    off_deg = np.degrees(np.arccos(np.clip(np.abs(cosines[[0, 1], axes]), 0.0, 1.0)))
    if set(axes.tolist()) != {0, 1} or off_deg.max() > MAX_TILT_DEG:
        normal = np.cross(*cosines)
        tilt_deg = np.degrees(np.arccos(np.clip(abs(normal[2]), 0.0, 1.0)))
        what = (
            f"its slices are tilted by {tilt_deg:.2f}° from the axial plane"
            if tilt_deg > MAX_TILT_DEG
            else f"its rows are turned by {off_deg.max():.2f}° from the patient's axes"
        )
        raise DicomError(
            f"the image with orientation={np.round(orientation, 5).tolist()} is not axial: {what} "
            f"(tolerated: {MAX_TILT_DEG}°); resample it to axial slices, with its structures."
        )
    signs = np.sign(cosines[[0, 1], axes]).astype(int)
    return (int(axes[0]), int(signs[0])), (int(axes[1]), int(signs[1]))


def _checked_spacing(pixel_spacing_mm: np.ndarray) -> tuple[float, float]:
    spacing = np.asarray(pixel_spacing_mm, dtype=float)
    if spacing.shape != (2,) or not np.all((spacing > 0.01) & (spacing < 100.0)):
        raise DicomError(
            f"pixel_spacing_mm={spacing.tolist()} must be two lengths from 0.01 to 100 mm."
        )
    return float(spacing[0]), float(spacing[1])


def _even_spacing(positions_mm: np.ndarray, thickness_mm: float | None) -> tuple[np.ndarray, float]:
    """Order of frames from feet to head (n,) and the spacing between them."""
    if not np.all(np.isfinite(positions_mm)) or np.any(np.abs(positions_mm) > 1e5):
        raise DicomError("positions of slices must be finite and within 100 m of the origin.")
    drift_mm = np.ptp(positions_mm[:, :2], axis=0).max()
    if drift_mm > POSITION_WITHIN_MM:
        raise DicomError(
            f"slices do not lie above one another: they shift by {drift_mm:.2f} mm in the axial "
            "plane, as from a tilted gantry or two scans; resample them to an upright stack."
        )
    order = np.argsort(positions_mm[:, 2], kind="stable")
    z_mm = positions_mm[order, 2]
    if len(z_mm) == 1:
        if thickness_mm is None or not 0.01 < thickness_mm < 100.0:
            raise DicomError(
                f"one slice alone is no volume, and its thickness ({thickness_mm} mm) does not "
                "say how far it reaches; at least two slices are needed."
            )
        return order, float(thickness_mm)
    gaps_mm = np.diff(z_mm)
    _refuse_duplicates(z_mm, gaps_mm)
    dz_mm = (z_mm[-1] - z_mm[0]) / (len(z_mm) - 1)
    if np.abs(z_mm - (z_mm[0] + dz_mm * np.arange(len(z_mm)))).max() > POSITION_WITHIN_MM:
        raise DicomError(_about_gaps(z_mm, gaps_mm))
    return order, float(dz_mm)


def _refuse_duplicates(z_mm: np.ndarray, gaps_mm: np.ndarray) -> None:
    double = np.flatnonzero(gaps_mm < 0.01)
    if len(double):
        where = f"z = {z_mm[double[0]]:g} mm"
        what = (
            f"one slice lies where another is, at {where}"
            if len(double) == 1
            else f"{len(double)} slices lie where others are, first at {where}"
        )
        raise DicomError(f"{what}: copies, or two scans in one series; leave one of each.")


def _about_gaps(z_mm: np.ndarray, gaps_mm: np.ndarray) -> str:
    usual_mm = float(np.median(gaps_mm))
    k = int(np.argmax(np.abs(gaps_mm - usual_mm)))
    n_missing = round(gaps_mm[k] / usual_mm) - 1
    is_multiple = abs(gaps_mm[k] - (n_missing + 1) * usual_mm) <= 2 * POSITION_WITHIN_MM
    where = f"{gaps_mm[k]:.2f} mm between z = {z_mm[k]:g} and {z_mm[k + 1]:g} mm"
    if n_missing >= 1 and is_multiple:
        return (
            f"slices are {usual_mm:.2f} mm apart, but {where}: {n_missing} of them missing there; "
            "copy the series again."
        )
    return (
        f"slices are unevenly spaced: mostly {usual_mm:.2f} mm, but {where}; resample the CT to "
        "even slices."
    )
