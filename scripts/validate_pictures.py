"""What validation draws: depth doses, carbon, profiles along and across spots, dose washes."""

from typing import TYPE_CHECKING

import numpy as np

from engine.evaluation.comparison import AxisProfile, lateral_axes, sampled
from engine.patient.grid import Grid
from engine.physics.ions import stopping_power_mev_cm2_g
from engine.physics.materials import water
from engine.physics.stopping_power import csda_range_mm
from scripts.validate_axes import DEPTH_SHARES, axis_label, sigma_guess_mm
from scripts.validate_carbon import (
    DEPTH_DOSE,
    IN_PEAK,
    LEM_ALPHA,
    LEM_CHARGE,
    LEM_MEV,
    chordoma,
    chordoma_peak,
    depth_dose,
)
from scripts.validate_reference import Compared
from scripts.validate_targets import MC_CSDA_MM, MC_I_EV, MONTE_CARLO, monte_carlo_peak

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, OURS, THEIRS, APART = "#222222", "#0a66c2", "#222222", "#e07a5f"
ALONG = "mm along the axis from the entrance"
GAMMA_COLORS = "PiYG_r"  # what fails, beyond 1, has another hue
CROP_MARGIN_MM = 10.0
AXES_DRAWN = 4
CARBON_DRAWN_MEV = (181, 280, 399)
VIEWS = (("axial", 0, "x", "y"), ("coronal", 1, "x", "z"), ("sagittal", 2, "y", "z"))


def depth_doses() -> "Figure":
    """Pristine peaks in water, nuclear interactions on, with Monte Carlo's distal edge as dots."""
    figure, (whole, edge) = _figure(11.0, 4.2, 1, 2)
    for energy, with_nuclear, r80, r50, r20, *_ in MONTE_CARLO:
        if not with_nuclear:
            continue
        depth, dose = monte_carlo_peak(energy, True, 0.5)
        depth = depth * MC_CSDA_MM[energy] / float(csda_range_mm(float(energy), water(MC_I_EV)))
        line = whole.plot(depth, dose / dose[(depth >= 1) & (depth <= 3)].mean(), lw=1.5,
                          label=f"{energy} MeV")[0]  # fmt: skip
        color, dots = line.get_color(), [0.0, r50 - r80, r20 - r80]
        edge.plot(depth - r80, 100 * dose / dose.max(), color=color, lw=1.5)
        edge.plot(dots, [80, 50, 20], "o", ms=5, mfc="none", color=color)
    edge.plot([], [], "o", ms=5, mfc="none", color=INK, label="MCsquare")
    edge.set_xlim(-12.0, 6.0)
    _tidy(whole, "depth in mm", "dose over dose at 1–3 mm", "Protons in water, I = 78 eV")
    _tidy(edge, "depth beyond MCsquare's R80 in mm", "dose in % of the peak", "Distal edge")
    for axes in (whole, edge):
        axes.legend(frameon=False, fontsize=8)
    return figure


def carbon() -> "Figure":
    """Carbon ions in water: depth doses with their fragments, α of LEM I, a spread-out peak."""
    figure, (depths, slopes, peak) = _figure(15.5, 4.4, 1, 3)
    _carbon_depths(depths)
    _alpha_of_let(slopes)
    _spread_out_peak(peak)
    return figure


def _carbon_depths(axes: "Axes") -> None:
    for energy in CARBON_DRAWN_MEV:
        depth, dose, fragments = depth_dose(energy)
        top = int(np.argmax(dose))
        line = axes.plot(
            depth, dose / dose[0], lw=1.5, label=f"{energy} MeV/u, peak {dose[top] / dose[0]:.2f}"
        )[0]
        axes.fill_between(depth, fragments / dose[0], color=line.get_color(), alpha=0.3, lw=0)
        tail = DEPTH_DOSE[energy][1]
        axes.plot(depth[top] + 10.0, tail, "o", ms=5, mfc="none", color=line.get_color())
    axes.fill_between([], [], color=INK, alpha=0.3, lw=0, label="of it lighter fragments")
    axes.plot([], [], "o", ms=5, mfc="none", color=INK, label="1 cm behind: carbon_Generic")
    axes.set_ylim(0.0, None)
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes, "depth in mm", "planar dose over the entrance's", "Carbon ions in water")


def _alpha_of_let(axes: "Axes") -> None:
    energy = np.geomspace(0.5, 430.0, 300)
    for ion, color in (("He", APART), ("C", OURS)):
        charge = LEM_CHARGE[ion]
        let = 0.1 * stopping_power_mev_cm2_g(charge, energy)
        axes.semilogx(let, chordoma().alpha_per_gy(charge, energy), color=color, lw=1.5, label=ion)
        dots = 0.1 * stopping_power_mev_cm2_g(charge, np.array(LEM_MEV))
        axes.plot(dots, LEM_ALPHA[ion], "o", ms=5, mfc="none", color=color)
    axes.plot([], [], "o", ms=5, mfc="none", color=INK, label="direct sums, 1 to 400 MeV/u")
    axes.axhline(chordoma().alpha_x_per_gy, color=INK, lw=0.8, ls=":", label="photons")
    axes.set_ylim(0.0, None)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    _tidy(axes, "LET in keV/µm", "α in 1/Gy", "LEM I, chordoma")


def _spread_out_peak(axes: "Axes") -> None:
    peak = chordoma_peak()
    depths, rbe, dose = zip(*IN_PEAK.values())
    curves = (
        ("RBE-weighted dose in Gy (RBE)", peak.weighted_gy, None, OURS),
        ("physical dose in Gy", peak.dose_gy, dose, INK),
        ("RBE", peak.rbe, rbe, APART),
    )
    for name, values, known, color in curves:
        axes.plot(peak.depth_mm, values, color=color, lw=1.5, label=name)
        if known is not None:
            axes.plot(depths, known, "o", ms=5, mfc="none", color=color)
    axes.plot([], [], "o", ms=5, mfc="none", color=INK, label="another 1D model")
    axes.set_ylim(0.0, None)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    _tidy(axes, "depth in mm", "Gy, Gy (RBE) or RBE", "3 Gy (RBE) from 80 to 120 mm, LEM I")


def along(compared: Compared) -> "Figure":
    """Depth dose of each of the heaviest spots, on the axis and integrated across the beam."""
    drawn = compared.axes[:AXES_DRAWN]
    figure, panels = _figure(4.6 * max(len(drawn), 2), 7.0, 2, len(drawn))
    panels = np.reshape(panels, (2, len(drawn)))
    for column, axis in enumerate(drawn):
        title = axis_label(column + 1, axis.spot, compared.reference.spots)
        _depth_dose(panels[0, column], axis.on_axis, 1.0)
        _tidy(panels[0, column], ALONG, "dose on the axis in % of the maximum", title)
        top = float(axis.across[0].dose[axis.across[0].peak_index])
        _depth_dose(panels[1, column], axis.across, 100.0 / top)
        for r80, color in zip(axis.r80_mm, (THEIRS, OURS)):
            if np.isfinite(r80):
                panels[1, column].axvline(r80, color=color, lw=0.7, ls=":")
        title = f"integrated to {axis.radius_mm:.0f} mm; R80 " + " and ".join(
            f"{r:.2f} mm" if np.isfinite(r) else "none" for r in axis.r80_mm
        )
        _tidy(panels[1, column], ALONG, "in % of the reference's peak", title)
    panels[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _depth_dose(axes: "Axes", profiles: tuple[AxisProfile, AxisProfile], scale: float) -> None:
    theirs, ours = profiles
    _curves(axes, theirs.along_mm, scale * theirs.dose, scale * ours.dose)


def _curves(axes: "Axes", x: np.ndarray, theirs: np.ndarray, ours: np.ndarray) -> None:
    axes.plot(x, theirs, color=THEIRS, lw=1.6, label="reference")
    axes.plot(x, ours, color=OURS, lw=1.2, ls=(0, (5, 2)), label="ours")
    axes.plot(x, ours - theirs, color=APART, lw=0.9, label="difference")


def across(compared: Compared) -> "Figure":
    """Profiles across the heaviest spot at a few depths, along two lateral axes."""
    heaviest, grid = compared.axes[0], compared.reference.grid
    spot, start, direction = heaviest.spot, heaviest.on_axis[0].start_mm, heaviest.spot.direction
    figure, panels = _figure(3.6 * len(DEPTH_SHARES), 6.0, 2, len(DEPTH_SHARES))
    length = heaviest.core_at_mm / DEPTH_SHARES[-1]
    for column, share in enumerate(DEPTH_SHARES):
        center = start + share * length * np.array(direction)
        reach = max(6.0 * sigma_guess_mm(spot, center), 10.0)
        offsets = np.linspace(-reach, reach, 241)
        for row, axis in enumerate(lateral_axes(direction)):
            points = center + offsets[:, None] * axis
            doses = (compared.reference_percent, compared.ours_percent)
            _curves(panels[row, column], offsets, *(sampled(d, grid, points) for d in doses))
            _tidy(panels[row, column], f"mm along {_axis_name(axis)}", "dose in % of the maximum",
                  f"at {share * length:.0f} mm")  # fmt: skip
    panels[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _axis_name(axis: np.ndarray) -> str:
    """ "−x" where it is one, or the components."""
    along = int(np.argmax(np.abs(axis)))
    if abs(axis[along]) > 0.9999:
        return ("−" if axis[along] < 0 else "") + "xyz"[along]
    return "(" + ", ".join(f"{c:.2f}" for c in axis + 0.0) + ")"


def wash(
    reference_percent: np.ndarray, ours_percent: np.ndarray, gamma: np.ndarray, grid: Grid,
    density_g_cm3: np.ndarray,
) -> "Figure":  # fmt: skip
    """Three cuts through the reference's maximum: reference, ours, difference, and gamma.

    All are (nz, ny, nx) on ``grid``, doses in percent of the reference's maximum. Cropped to where
    there is dose; anterior is up in the axial cut, superior in the others.
    """
    at = np.unravel_index(int(np.argmax(reference_percent)), grid.shape)
    apart = ours_percent - reference_percent
    span = max(float(np.abs(apart).max()), 1.0)
    columns = (
        ("reference in %", reference_percent, "inferno", (0.0, 100.0)),
        ("ours in %", ours_percent, "inferno", (0.0, 100.0)),
        ("ours less reference in % of the maximum", apart, "RdBu_r", (-span, span)),
        ("gamma", gamma, GAMMA_COLORS, (0.0, 2.0)),
    )
    figure, panels = _figure(16.0, 10.5, 3, len(columns))
    dosed = np.maximum(reference_percent, ours_percent) > 1.0
    grid, part = grid.cropped(dosed, CROP_MARGIN_MM)
    density = density_g_cm3[part]
    for row, (view, axis, right, up) in enumerate(VIEWS):
        edges = {n: (grid.lower_mm[i], grid.upper_mm[i]) for i, n in enumerate("xyz")}
        index = at[axis] - part[axis].start
        for column, (title, volume, colors, limits) in enumerate(columns):
            axes = panels[row, column]
            image = axes.imshow(
                np.take(volume[part], index, axis=axis), cmap=colors, vmin=limits[0],
                vmax=limits[1], origin="lower", extent=(*edges[right], *edges[up]),
                aspect="equal", interpolation="nearest",
            )  # fmt: skip
            _outline(axes, np.take(density, index, axis=axis), (*edges[right], *edges[up]))
            if up == "y":
                axes.invert_yaxis()
            axes.set_xlabel(f"{right} in mm", size=8)
            axes.set_ylabel(f"{up} in mm", size=8)
            axes.tick_params(labelsize=7)
            axes.set_title(f"{view}: {title}" if row == 0 else view, size=9, loc="left", color=INK)
            figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    return figure


def _outline(axes: "Axes", density: np.ndarray, extent: tuple[float, ...]) -> None:
    """Where lung and bone begin, g/cm³, if a cut has any."""
    levels = [level for level in (0.5, 1.15) if density.min() < level < density.max()]
    if levels and min(density.shape) > 1:
        axes.contour(density, levels=levels, origin="lower", extent=extent, colors="#7fd6c2",
                     linewidths=0.6)  # fmt: skip


def _figure(width: float, height: float, n_rows: int, n_columns: int):
    """A figure in inches and its panels, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=130, facecolor="#ffffff", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(n_rows, n_columns)


def _tidy(axes: "Axes", x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label, size=9, color=INK)
    axes.set_ylabel(y_label, size=9, color=INK)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, size=10, color=INK, loc="left")
