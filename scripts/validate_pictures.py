"""What validation draws: depth doses, profiles along and across spots, and dose washes."""

from typing import TYPE_CHECKING

import numpy as np

from engine.evaluation.comparison import lateral_axes, sampled
from engine.physics.materials import water
from engine.physics.stopping_power import csda_range_mm
from scripts.validate_reference import DEPTH_SHARES, Compared, axis_label, sigma_guess_mm
from scripts.validate_targets import MC_CSDA_MM, MC_I_EV, MONTE_CARLO, monte_carlo_peak

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, OURS, THEIRS, APART = "#222222", "#0a66c2", "#222222", "#e07a5f"
AXES_DRAWN = 6
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


def along(compared: Compared) -> "Figure":
    """Dose on the axis of each of the heaviest spots, reference and ours, and their difference."""
    drawn = compared.axes[:AXES_DRAWN]
    n_columns = min(len(drawn), 3)
    n_rows = -(-len(drawn) // n_columns)
    figure, panels = _figure(4.6 * n_columns + 1.0, 3.4 * n_rows, n_rows, n_columns)
    for axes in np.atleast_1d(panels).ravel()[len(drawn) :]:
        axes.set_visible(False)
    for number, (axes, (spot, theirs, ours)) in enumerate(
        zip(np.atleast_1d(panels).ravel(), drawn), start=1
    ):
        axes.plot(theirs.along_mm, theirs.dose, color=THEIRS, lw=1.6, label="reference")
        axes.plot(ours.along_mm, ours.dose, color=OURS, lw=1.2, ls=(0, (5, 2)), label="ours")
        axes.plot(ours.along_mm, ours.dose - theirs.dose, color=APART, lw=0.9, label="difference")
        title = axis_label(number, spot, compared.reference.spots)
        _tidy(axes, "mm along the axis from the entrance", "dose in % of the maximum", title)
        axes.legend(frameon=False, fontsize=8)
    return figure


def across(compared: Compared) -> "Figure":
    """Profiles across the heaviest spot at a few depths, along two lateral axes."""
    spot, theirs, _ = compared.axes[0]
    figure, panels = _figure(3.6 * len(DEPTH_SHARES), 6.0, 2, len(DEPTH_SHARES))
    r80 = theirs.distal_mm()
    length = r80 if np.isfinite(r80) else float(theirs.along_mm[-1])
    grid = compared.reference.grid
    for column, share in enumerate(DEPTH_SHARES):
        center = theirs.start_mm + share * length * theirs.direction
        reach = max(6.0 * sigma_guess_mm(spot, center), 10.0)
        offsets = np.linspace(-reach, reach, 241)
        for row, axis in enumerate(lateral_axes(spot.direction)):
            axes = panels[row, column]
            points = center + offsets[:, None] * axis
            for dose, color, style, name in (
                (compared.reference_percent, THEIRS, "-", "reference"),
                (compared.ours_percent, OURS, (0, (5, 2)), "ours"),
            ):
                profile = sampled(dose, grid, points)
                axes.plot(offsets, profile, color=color, ls=style, lw=1.3, label=name)
            across_x, across_y, across_z = (f"{c:+.2f}" for c in axis)
            _tidy(axes, f"mm along ({across_x}, {across_y}, {across_z})", "dose in %",
                  f"at {share * length:.0f} mm")  # fmt: skip
    panels[0, 0].legend(frameon=False, fontsize=8)
    return figure


def wash(compared: Compared) -> "Figure":
    """Three cuts through the reference's maximum: reference, ours, difference, and gamma."""
    grid = compared.reference.grid
    at = np.unravel_index(int(np.argmax(compared.reference_percent)), grid.shape)
    apart = compared.ours_percent - compared.reference_percent
    span = max(float(np.abs(apart).max()), 1.0)
    columns = (
        ("reference in %", compared.reference_percent, "inferno", (0.0, 100.0)),
        ("ours in %", compared.ours_percent, "inferno", (0.0, 100.0)),
        ("ours less reference in % of the maximum", apart, "RdBu_r", (-span, span)),
        ("gamma", compared.gamma.map, "viridis", (0.0, 2.0)),
    )
    figure, panels = _figure(16.0, 10.5, 3, len(columns))
    z, y, x = grid.axes_mm()
    for row, (view, axis, right, up) in enumerate(VIEWS):
        edges = {"x": x, "y": y, "z": z}
        extent = (*edges[right][[0, -1]], *edges[up][[0, -1]])
        for column, (title, volume, colors, limits) in enumerate(columns):
            axes = panels[row, column]
            cut = np.take(volume, at[axis], axis=axis)
            density = np.take(compared.reference.density_g_cm3, at[axis], axis=axis)
            image = axes.imshow(cut, cmap=colors, vmin=limits[0], vmax=limits[1], origin="lower",
                                extent=extent, aspect="equal", interpolation="nearest")  # fmt: skip
            if density.min() < density.max() and min(density.shape) > 1:
                axes.contour(density, levels=[0.5, 1.15], origin="lower", extent=extent,
                             colors="#7fd6c2", linewidths=0.6)  # fmt: skip
            axes.set_xlabel(f"{right} in mm", size=8)
            axes.set_ylabel(f"{up} in mm", size=8)
            axes.tick_params(labelsize=7)
            axes.set_title(f"{view}: {title}" if row == 0 else view, size=9, loc="left", color=INK)
            figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    return figure


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
