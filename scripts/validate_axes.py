"""Depth doses, ranges and widths of the heaviest spots of a reference dose and of ours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation.comparison import AxisProfile, axis_profile, core_sigma_mm
from engine.geometry.single_spots import SingleSpot
from engine.io.reference_dose import ReferenceDose

SPOTS_LISTED = 12  # of the heaviest, one by one
DEPTH_SHARES = (0.25, 0.5, 0.75, 0.9)  # of the way to the reference's R80, for lateral widths
CORE_DEPTH_MM = 6.0  # along the axis, over which the plane of a width is averaged
CORE_DEPTH_SHARE = 0.08  # of the way to R80, where that is less
ACROSS_SIGMAS = 3.0  # radius within which depth doses are integrated
MATTER_G_CM3 = 0.02  # what is thinner, as air is, stops no proton


@dataclass(frozen=True)
class Row:
    """One line of the comparison. ``difference`` is ours less the reference in ``unit``, or NaN."""

    group: str
    quantity: str
    unit: str
    reference: float
    ours: float

    @property
    def difference(self) -> float:
        return self.ours - self.reference


@dataclass(frozen=True, eq=False)
class AxisCompared:
    """Depth doses along a spot's axis, of the reference and of ours, in percent of the maximum.

    Ranges are those of the dose integrated across the beam: on the axis alone noise of 1 % moves
    R80 by more than 0.2 mm, while the integral averages over the voxels of a whole plane. NaN where
    the beam leaves.
    """

    spot: SingleSpot
    on_axis: tuple[AxisProfile, AxisProfile]
    across: tuple[AxisProfile, AxisProfile]  # mean within radius_mm of the axis
    radius_mm: float
    r80_mm: tuple[float, float]  # from where the axis enters the grid
    core_at_mm: float  # 0.9 of the way to R80, or to where the axis leaves matter
    core_sigma_mm: tuple[float, float]  # NaN where several spots' widths would mix


def compare_axis(spot: SingleSpot, theirs, ours, reference: ReferenceDose) -> AxisCompared:
    grid, doses = reference.grid, (theirs, ours)

    def profiles(radius_mm: float) -> tuple[AxisProfile, AxisProfile]:
        return tuple(
            axis_profile(d, grid, spot.position_mm, spot.direction, radius_mm) for d in doses
        )

    on_axis = profiles(0.0)
    matter_mm = _end_of_matter_mm(on_axis[0], reference)
    r80 = on_axis[0].distal_mm()
    end = on_axis[0].start_mm + (r80 if np.isfinite(r80) else matter_mm) * on_axis[0].direction
    radius = ACROSS_SIGMAS * sigma_guess_mm(spot, end)
    across = profiles(radius)
    r80s = float("nan"), float("nan")
    if _stops_in_matter(across[0], reference):  # both behind the same peak, the reference's
        r80s = tuple(p.distal_mm(0.8, across[0].distal_edge_mm) for p in across)
    reach = r80s[0] if np.isfinite(r80s[0]) else matter_mm
    at = DEPTH_SHARES[-1] * reach
    sigmas = _core_sigmas(spot, across[0], at, reach, doses, reference)
    return AxisCompared(spot, on_axis, across, radius, r80s, at, sigmas)


def _end_of_matter_mm(axis: AxisProfile, reference: ReferenceDose) -> float:
    """Where the axis is in matter for the last time, from where it enters the grid."""
    density = _density_along(axis, reference)
    dense = np.flatnonzero(density > MATTER_G_CM3)
    return float(axis.along_mm[dense[-1] if dense.size else -1])


def _stops_in_matter(across: AxisProfile, reference: ReferenceDose) -> bool:
    """Whether dose falls at the end for lack of protons, and not for lack of matter.

    Some engines score nothing outside the patient: the dose of a beam that leaves falls there too.
    """
    r20 = across.distal_mm(0.2)
    if not np.isfinite(r20):
        return False
    at = int(np.argmin(np.abs(across.along_mm - r20)))
    return bool(_density_along(across, reference)[at] > MATTER_G_CM3)


def _density_along(axis: AxisProfile, reference: ReferenceDose) -> np.ndarray:
    """Density (n,) of the voxels on an axis, g/cm³."""
    points = axis.start_mm + axis.along_mm[:, None] * axis.direction
    last = np.array(reference.grid.shape) - 1
    index = np.clip(np.rint(reference.grid.index_of(points)).astype(int), 0, last)
    return reference.density_g_cm3[tuple(index.T)]


def _core_sigmas(spot, axis: AxisProfile, at_mm: float, reach_mm: float, doses, reference):
    """Widths of both doses at a place on the axis; NaN where other spots would widen them."""
    center = axis.start_mm + at_mm * axis.direction
    guess = sigma_guess_mm(spot, center)
    if not _alone(spot, center, reference.spots, 4.0 * guess):
        return float("nan"), float("nan")
    thick = min(CORE_DEPTH_MM, CORE_DEPTH_SHARE * reach_mm)
    return tuple(
        core_sigma_mm(d, reference.grid, center, spot.direction, guess, thick) for d in doses
    )


def axis_rows(axes: Sequence[AxisCompared], theirs, ours, reference) -> Iterator[Row]:
    for i, axis in enumerate(axes):
        group = axis_label(i + 1, axis.spot, reference.spots)
        yield Row(group, "R80 of the integral", "mm", *axis.r80_mm)
        peaks = [p.peak_mm for p in axis.across]
        yield Row(group, "peak of the integral", "mm", *peaks)
        tops = [float(p.dose[p.peak_index]) for p in axis.on_axis]
        yield Row(group, "dose at the peak on the axis", "% of max", *tops)
        reach = axis.core_at_mm / DEPTH_SHARES[-1]
        for share in DEPTH_SHARES:
            depth = share * reach
            sigmas = _core_sigmas(
                axis.spot, axis.across[0], depth, reach, (theirs, ours), reference
            )
            if np.any(np.isfinite(sigmas)):
                yield Row(group, f"core σ at {depth:.0f} mm", "mm", *sigmas)
    if len(axes) > 1:
        apart = np.array([axis.r80_mm[1] - axis.r80_mm[0] for axis in axes])
        if np.any(np.isfinite(apart)):
            group, mean = "All listed axes", float(np.nanmean(apart))
            worst = float(apart[np.nanargmax(np.abs(apart))])
            yield Row(group, "mean difference of R80", "mm", 0.0, mean)
            yield Row(group, "worst difference of R80", "mm", 0.0, worst)


def _alone(spot: SingleSpot, center, spots: Sequence[SingleSpot], radius_mm: float) -> bool:
    """Whether no spot with another axis passes a place so near that widths would mix."""
    directions = np.array([s.direction for s in spots])
    offset = center - np.array([s.position_mm for s in spots])
    along = (offset * directions).sum(axis=1, keepdims=True)
    apart = np.linalg.norm(offset - along * directions, axis=1)
    same = np.linalg.norm(directions - spot.direction, axis=1) < 1e-4
    return not np.any((apart < radius_mm) & ~(same & (apart < 0.1)))


def sigma_guess_mm(spot: SingleSpot, at_mm: np.ndarray) -> float:
    """A spot's width at a place on its axis, rather too large: drift, and 2.5 % of the path."""
    kind = spot.kind
    path = float(np.linalg.norm(np.asarray(at_mm) - spot.position_mm))
    drift = kind.sigma_mm**2 + 2.0 * max(kind.correlation, 0.0) * (
        kind.sigma_mm * kind.angle_std_rad * path
    )
    return 1.2 * float(np.sqrt(drift + (kind.angle_std_rad * path) ** 2 + (0.025 * path) ** 2))


def distinct_axes(spots: Sequence[SingleSpot]) -> list[SingleSpot]:
    """The heaviest spots with axes of their own."""
    heaviest = sorted(range(len(spots)), key=lambda i: (-spots[i].weight, i))
    found: dict[tuple, SingleSpot] = {}
    for i in heaviest:
        spot = spots[i]
        found.setdefault(_axis_of(spot), spot)
        if len(found) == SPOTS_LISTED:
            break
    return list(found.values())


def _axis_of(spot: SingleSpot) -> tuple[float, ...]:
    return (*np.round(spot.position_mm, 2), *np.round(spot.direction, 4))


def axis_label(number: int, spot: SingleSpot, spots: Sequence[SingleSpot]) -> str:
    """Name of the axis of a spot, with the energies of all spots on it."""
    energies = [s.kind.energy_mev for s in spots if _axis_of(s) == _axis_of(spot)]
    low, high = min(energies), max(energies)
    return f"Spot {number}, {low:g} MeV" if low == high else f"Axis {number}, {low:g}–{high:g} MeV"
