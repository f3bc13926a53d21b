"""How a machine's kernels lie in a file: few nodes per energy, dense where the dose turns.

A file holds arrays (n_energies, n_nodes) over depths of their own per energy; reading spreads
them over the even depths of an ``IonMachine``. It may also hold a second Gaussian, ``second_``
and the names of ``SecondGaussian`` (n_energies,), and ``virtual_sources_mm`` (2,) of u and v.
``charge`` and ``mass_number`` are the ion's, a proton's where a file names none; ``spectra_`` and
the names of ``IonSpectra`` its mixed field, where ``spectra_dose_share`` holds whole numbers in
proportion to the shares.
"""

import zipfile
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

from engine.machine.ion import IonMachine, IonSpectra, RangeShifter, SecondGaussian

FORMAT = 1
DEPTH_STEP_MM = 0.25
REACH = 1.1  # kernels run to this share of the longest range
CURVES = (
    "depth_dose_mev_cm2_g",
    "scatter_variance_mm2",
    "halo_weight",
    "halo_variance_mm2",
    "letd_kev_um",
)
PER_ENERGY = (
    "energy_mev",
    "range_mm",
    "energy_std_mev",
    "nozzle_variance_mm2",
    "nozzle_covariance_mm_rad",
    "nozzle_angle_variance_rad2",
)
SCALARS = (
    "nozzle_to_isocenter_mm",
    "virtual_source_mm",
    "min_spot_weight",
    "switch_up_s",
    "switch_down_s",
)
SHIFTERS = ("shifter_name", "shifter_wet_mm", "shifter_thickness_mm", "shifter_material")
SECOND = (
    "second_weight",
    "second_variance_mm2",
    "second_covariance_mm_rad",
    "second_angle_variance_rad2",
)
SOURCES = "virtual_sources_mm"
ION = ("charge", "mass_number")
SPECTRA = ("spectra_charge", "spectra_energy_mev", "spectra_depth_mm", "spectra_dose_share")


def read_machine(path: Path) -> IonMachine:
    """A machine from its file; the file's name is the machine's."""
    arrays = _arrays(path)
    nodes = arrays["node_depth_mm"].astype(np.float64)
    n_depths = int(np.ceil(REACH * float(np.max(arrays["range_mm"])) / DEPTH_STEP_MM)) + 1
    depth = DEPTH_STEP_MM * np.arange(n_depths)
    curves = {name: _spread(nodes, arrays[name], depth) for name in CURVES}
    # behind the last node nothing arrives
    curves["depth_dose_mev_cm2_g"][depth[None, :] > nodes[:, -1:]] = 0.0
    shifters = zip(*(arrays[name] for name in SHIFTERS), strict=True)
    return IonMachine(
        name=path.stem,
        depth_step_mm=DEPTH_STEP_MM,
        range_shifters=tuple(
            RangeShifter(str(n), float(w), float(t), str(m)) for n, w, t, m in shifters
        ),
        second_gaussian=_second(arrays),
        virtual_sources_mm=_sources(arrays),
        spectra=_spectra(arrays),
        **{name: int(arrays.get(name, 1)) for name in ION},
        **{name: arrays[name].astype(np.float64) for name in PER_ENERGY},
        **{name: float(arrays[name]) for name in SCALARS},
        **curves,
    )


def _second(arrays: dict[str, np.ndarray]) -> SecondGaussian | None:
    if SECOND[0] not in arrays:
        return None
    columns = [arrays[name].astype(np.float64) for name in SECOND]
    for column in columns:
        column.setflags(write=False)  # a machine is shared by everyone in the process
    return SecondGaussian(*columns)


def _sources(arrays: dict[str, np.ndarray]) -> tuple[float, float] | None:
    return tuple(arrays[SOURCES].astype(np.float64).tolist()) if SOURCES in arrays else None


def _spectra(arrays: dict[str, np.ndarray]) -> IonSpectra | None:
    if SPECTRA[0] not in arrays:
        return None
    charge, energy, depth, levels = (arrays[name] for name in SPECTRA)
    share = levels.astype(np.float32)
    share /= share.sum(axis=(2, 3), keepdims=True)
    columns = charge.astype(np.int64), energy.astype(np.float32), depth.astype(np.float32), share
    for column in columns:
        column.setflags(write=False)  # a machine is shared by everyone in the process
    return IonSpectra(*columns)


def _spread(nodes: np.ndarray, values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Curves (n_energies, n_nodes) at even depths, (n_energies, n_depths) float32.

    Monotone between nodes, so no overshoot; held beyond the last.
    """
    out = np.empty((len(nodes), depth.size), dtype=np.float32)
    for i, (z, v) in enumerate(zip(nodes, values, strict=True)):
        out[i] = PchipInterpolator(z, v.astype(np.float64))(np.minimum(depth, z[-1]))
    return out


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is not a readable machine file ({error}); rebuild or fetch it."
        ) from error
    if int(arrays.get("format", -1)) != FORMAT:
        raise ValueError(f"{path} has format {arrays.get('format')}; this version reads {FORMAT}.")
    needed = ("node_depth_mm", *CURVES, *PER_ENERGY, *SCALARS, *SHIFTERS)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {missing}; build it with scripts/build_machine.py.")
    _check(path, arrays)
    return arrays


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    n, m = arrays["node_depth_mm"].shape
    for name in CURVES:
        if arrays[name].shape != (n, m) or not np.all(np.isfinite(arrays[name])):
            raise ValueError(f"{name} in {path} must be finite and of shape ({n}, {m}).")
    for name in PER_ENERGY:
        if arrays[name].shape != (n,) or not np.all(np.isfinite(arrays[name])):
            raise ValueError(f"{name} in {path} must be finite and of shape ({n},).")
    for name in ("energy_mev", "range_mm"):
        if np.any(np.diff(arrays[name]) <= 0):
            raise ValueError(f"{name} in {path} must increase; sort the energies.")
    if np.any(np.diff(arrays["node_depth_mm"], axis=1) <= 0):
        raise ValueError(f"node_depth_mm in {path} must increase along depth.")
    if any(name in arrays for name in SECOND):
        _check_second(path, arrays, n)
    if SOURCES in arrays:
        _check_sources(path, arrays)
    if any(name in arrays for name in ION):
        _check_ion(path, arrays)
    if any(name in arrays for name in SPECTRA):
        _check_spectra(path, arrays, n)


def _check_second(path: Path, arrays: dict[str, np.ndarray], n: int) -> None:
    missing = [name for name in SECOND if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {missing}; a second Gaussian needs all of {SECOND}.")
    for name in SECOND:
        if arrays[name].shape != (n,) or not np.all(np.isfinite(arrays[name])):
            raise ValueError(f"{name} in {path} must be finite and of shape ({n},).")
    weight, variance, covariance, angle = (arrays[name] for name in SECOND)
    if np.any((weight < 0.0) | (weight > 1.0)):
        raise ValueError(f"second_weight in {path} must lie in 0 … 1; it is a share of protons.")
    if np.any(variance <= 0.0):
        raise ValueError(f"second_variance_mm2 in {path} must be positive.")
    if np.any(covariance**2 > variance * angle * (1.0 + 1e-6)):
        raise ValueError(
            f"second_covariance_mm_rad in {path} is larger than the variances of position and "
            "angle allow; its square is at most their product."
        )


def _check_sources(path: Path, arrays: dict[str, np.ndarray]) -> None:
    sources = arrays[SOURCES]
    if sources.shape != (2,) or not np.all(np.isfinite(sources)) or np.any(sources <= 0.0):
        raise ValueError(f"{SOURCES} in {path} must be two positive distances, of u and v.")
    mean = float(arrays["virtual_source_mm"])
    if abs(float(sources.mean()) - mean) > 0.5:
        raise ValueError(
            f"virtual_source_mm={mean:g} in {path} must be the mean of {SOURCES}="
            f"{sources.tolist()}, which engines without two sources use."
        )


def _check_ion(path: Path, arrays: dict[str, np.ndarray]) -> None:
    missing = [name for name in ION if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {missing}; an ion needs both of {ION}.")
    charge, mass_number = (arrays[name] for name in ION)
    if charge.size != 1 or mass_number.size != 1 or not 1 <= int(charge) <= int(mass_number):
        raise ValueError(
            f"charge={charge} and mass_number={mass_number} in {path} are no nucleus; both are "
            "whole numbers, the charge 1 or more and at most the mass number."
        )


def _check_spectra(path: Path, arrays: dict[str, np.ndarray], n: int) -> None:
    missing = [name for name in SPECTRA if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {missing}; spectra need all of {SPECTRA}.")
    charge, energy, depth, share = (arrays[name] for name in SPECTRA)
    shape = (n, *depth.shape[1:], charge.size, energy.size)
    if depth.ndim != 2 or len(depth) != n or share.shape != shape:
        raise ValueError(
            f"spectra_dose_share in {path} has shape {share.shape}; of {n} energies, depths "
            f"{depth.shape}, {charge.size} species and {energy.size} bins it must be {shape}."
        )
    for name in SPECTRA:
        if not np.all(np.isfinite(arrays[name])):
            raise ValueError(f"{name} in {path} must be finite.")
    if charge[0] < 1 or np.any(np.diff(charge) <= 0):
        raise ValueError(
            f"spectra_charge={charge.tolist()} in {path} must increase from 1 or more."
        )
    if np.any(energy <= 0.0) or energy.size < 2:
        raise ValueError(f"spectra_energy_mev in {path} must be two or more positive energies.")
    steps = np.diff(np.log(energy))
    if np.any(steps <= 0.0) or np.ptp(steps) > 1e-3 * steps.mean():
        raise ValueError(f"spectra_energy_mev in {path} must increase evenly in the logarithm.")
    if np.any(np.diff(depth, axis=1) <= 0):
        raise ValueError(f"spectra_depth_mm in {path} must increase along depth.")
    if np.any(share < 0) or np.any(share.sum(axis=(2, 3), dtype=np.float64) <= 0):
        raise ValueError(
            f"spectra_dose_share in {path} must be 0 or more, and not all 0 at any depth."
        )
