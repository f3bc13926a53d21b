"""The cuts of a dose wash: CT, dose, contours and chosen voxels about one point.

What ``ptenv.rendering`` composes into pictures.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from engine.patient.grid import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROTON_RBE = 1.1  # the clinical convention, ICRU Report 78
CT_WINDOW_HU = (-260.0, 340.0)
WASH_FROM = 0.1  # of the highest prescription; below it the CT shows alone
WASH_TO = 1.2
PAPER, INK, FAINT = "#ffffff", "#222222", "#8a8a8a"

# patient axes drawn to the right and upwards, and what the eye finds at left, right, top, bottom
_VIEWS = {
    "axial": (0, (2, 1), "RLAP"),  # cut across z: patient's left at the right, anterior up
    "coronal": (1, (2, 0), "RLSI"),  # cut across y: seen from the front
    "sagittal": (2, (1, 0), "APSI"),  # cut across x: seen from the left
}
_TARGET_COLORS = ("#ff3b30", "#ff9500", "#ffcc00", "#ff5ea8", "#c77dff")
_ORGAN_COLORS = {
    "SpinalCord": "#34c759", "Brainstem": "#00c7be", "Parotid_L": "#3d8bff",
    "Parotid_R": "#7fb2ff", "Bone_Mandible": "#b08968", "Larynx": "#af52de",
    "Esophagus": "#d4a017", "OpticChiasm": "#9be564", "OpticNrv_L": "#2fa84f",
    "OpticNrv_R": "#5fd17f", "Eye_L": "#5e7ce2", "Eye_R": "#8fa6f0", "Brain": "#d9c7b8",
    "zRing": "#9a9a9a",
}  # fmt: skip
OTHER_COLORS = ("#17a2b8", "#e07a5f", "#6d9f71", "#8367c7", "#c9a227", "#b56576")
_HIDDEN_ROLES = ("external", "support")


@dataclass(frozen=True)
class Scale:
    """What colors mean: clear below a tenth of ``full``; the scale ends at 1.2 of it.

    ``marks`` are values of structures, drawn on the scale in their colors.
    """

    label: str
    full: float
    marks: Mapping[str, float] = field(default_factory=dict)


class Scene:
    """What the three cuts show: CT, dose and contours about one point."""

    def __init__(self, patient, dose_gy, dose_grid, chosen, structures, at_mm):
        self.patient = patient
        self.dose_grid = patient.grid if dose_grid is None else dose_grid
        self.dose_gy = _on_grid("dose_gy", dose_gy, self.dose_grid)
        self.chosen = None if chosen is None else _on_grid("chosen", chosen, self.dose_grid)
        if structures is None:
            structures = [s.name for s in patient.structures.values()
                          if s.role not in _HIDDEN_ROLES]  # fmt: skip
        self.masks = {name: patient.mask(name) for name in structures}
        self.colors = structure_colors(list(self.masks), patient.targets)
        self.prescription_gy = max(patient.prescription_gy.values())
        self.at_mm = self._middle() if at_mm is None else np.asarray(at_mm, dtype=float)
        self.low_mm, self.high_mm = self._window()

    def _middle(self) -> np.ndarray:
        """Centroid (x, y, z) of the target with the highest prescription."""
        inside = self.patient.mask(self.patient.targets[0])
        return self.patient.grid.points_mm(np.flatnonzero(inside)).mean(axis=0)

    def _window(self) -> tuple[np.ndarray, np.ndarray]:
        """The body's box with a margin, (z, y, x) in mm."""
        mask = self.patient.external.mask
        box, _ = self.patient.grid.cropped(mask, margin_mm=8.0)
        return box.lower_mm[::-1], box.upper_mm[::-1]

    def widths(self) -> list[float]:
        """Widths of the three panels, so that their heights agree in shape."""
        extent = self.high_mm - self.low_mm
        return [float(extent[r] / extent[u]) for _, (r, u), _ in _VIEWS.values()]


def structure_colors(names: Sequence[str], targets: Sequence[str] = ()) -> dict[str, str]:
    """A color for every structure: warm for targets, the same for an organ in every picture."""
    colors, others = {}, cycle(OTHER_COLORS)
    for name in names:
        if name in targets:
            colors[name] = _TARGET_COLORS[list(targets).index(name) % len(_TARGET_COLORS)]
        else:
            colors[name] = _ORGAN_COLORS.get(name) or next(others)
    return colors


def dose_label(rbe: float | None) -> str:
    """What an axis of doses says; photons have RBE 1, that of carbon ions varies (None)."""
    if rbe is None:
        return "dose in Gy (RBE)"
    if rbe == 1.0:
        return "dose in Gy"
    return f"dose in Gy (RBE), RBE {rbe:g}"


def draw_cuts(
    scene: Scene, figure, panels, title: str, explained: Collection[str] = (),
    rbe: float | None = PROTON_RBE, scale: Scale | None = None,
) -> None:  # fmt: skip
    """The three cuts with their scale, by default of a dose in Gy (RBE).

    ``explained`` names need no entry in the legend.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = scale or Scale(dose_label(rbe), scene.prescription_gy, scene.patient.prescription_gy)
    wash = ScalarMappable(Normalize(0.0, WASH_TO * scale.full), "turbo")
    seen: set[str] = set()
    for axes, view in zip(panels, _VIEWS):
        seen |= _draw_cut(scene, axes, view, wash, scale)
    bar = figure.colorbar(wash, ax=list(panels), fraction=0.025, pad=0.015, aspect=28)
    bar.set_label(scale.label, size=8)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)
    for target, value in scale.marks.items():
        for color, width in (("white", 3.2), (scene.colors.get(target, INK), 1.6)):
            bar.ax.axhline(value, color=color, lw=width)
    _explain(scene, figure, [name for name in scene.masks if name in seen - set(explained)])
    if title:
        figure.suptitle(title, size=10.5, color=INK)


def _explain(scene: Scene, figure, names: Sequence[str]) -> None:
    """Legend below the cuts."""
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=scene.colors[name], lw=2, label=name) for name in names]
    if scene.chosen is not None:
        label = f"{np.count_nonzero(scene.chosen):,} chosen voxels, those in the cut as dots"
        keys.append(Line2D([], [], marker="o", c="white", mec="#333333", ms=4, ls="", label=label))
    if not keys:
        return
    n_rows = -(-len(keys) // 9)
    figure.legend(handles=keys, loc="outside lower center", ncols=-(-len(keys) // n_rows),
                  fontsize=7.5, frameon=False, handlelength=1.2, columnspacing=1.2)  # fmt: skip


def _draw_cut(scene: Scene, axes: "Axes", view: str, wash, scale: Scale) -> set[str]:
    """One cut with all its layers; returns the structures that it meets."""
    cut, (right, up), letters = _VIEWS[view]
    grid, dose_grid = scene.patient.grid, scene.dose_grid
    slab = _slice_of(grid, scene.at_mm, cut)
    axes.set_facecolor("black")
    axes.imshow(
        scene.patient.hu.take(slab, cut), cmap="gray", vmin=CT_WINDOW_HU[0], vmax=CT_WINDOW_HU[1],
        extent=_extent(grid, right, up), origin="lower", interpolation="bilinear",
    )  # fmt: skip
    dose_slab = _slice_of(dose_grid, scene.at_mm, cut)
    axes.imshow(
        _wash_rgba(scene.dose_gy.take(dose_slab, cut), scale.full, wash),
        extent=_extent(dose_grid, right, up), origin="lower", interpolation="bilinear",
    )  # fmt: skip
    seen = _draw_contours(scene, axes, slab, view)
    if scene.chosen is not None:
        row, column = np.nonzero(scene.chosen.take(dose_slab, cut))
        across, along = dose_grid.axes_mm()[right][column], dose_grid.axes_mm()[up][row]
        axes.scatter(across, along, s=3.2, c="white", edgecolors="#333333", linewidths=0.3,
                     zorder=4)  # fmt: skip
    _frame_cut(scene, axes, view, cut, right, up, letters)
    return seen


def _draw_contours(scene: Scene, axes: "Axes", slab: int, view: str) -> set[str]:
    from contourpy import contour_generator
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import Normal, Stroke

    cut, (right, up), _ = _VIEWS[view]
    x, y = (scene.patient.grid.axes_mm()[axis] for axis in (right, up))
    lines, colors, seen = [], [], set()
    for name, mask in scene.masks.items():
        section = mask.take(slab, cut)
        if not section.any() or min(section.shape) < 2:
            continue
        found = contour_generator(x, y, section.astype(np.float32)).lines(0.5)
        lines += found
        colors += [scene.colors[name]] * len(found)
        seen.add(name)
    effects = [Stroke(linewidth=2.2, foreground="black", alpha=0.55), Normal()]
    axes.add_collection(
        LineCollection(lines, colors=colors, linewidths=1.3, path_effects=effects, zorder=3),
        autolim=False,
    )
    return seen


def _frame_cut(scene: Scene, axes: "Axes", view: str, cut, right, up, letters: str) -> None:
    """Limits with anterior or superior up, orientation letters, and where the cut lies."""
    axes.set_xlim(scene.low_mm[right], scene.high_mm[right])
    limits = scene.low_mm[up], scene.high_mm[up]
    axes.set_ylim(*(limits[::-1] if up == 1 else limits))  # y grows to posterior
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    position = scene.at_mm[::-1][cut]
    axes.set_title(f"{view}, {'zyx'[cut]} = {position:.0f} mm", size=8.5, color=INK, pad=3)
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (ha, va) in zip(letters, places, sides):
        axes.text(x, y, letter, transform=axes.transAxes, color="white", size=9, weight="bold",
                  ha=ha, va=va)  # fmt: skip


def _wash_rgba(values: np.ndarray, full: float, wash) -> np.ndarray:
    """Colors (n, m, 4) of a cut of dose, clear below the first tenth of ``full``."""
    values = np.nan_to_num(values)
    rgba = wash.to_rgba(values)
    ramp = (values / full - 0.5 * WASH_FROM) / WASH_FROM
    rgba[..., 3] = 0.5 * np.clip(ramp, 0.0, 1.0)
    return rgba


def _slice_of(grid: Grid, at_mm: np.ndarray, cut: int) -> int:
    """Index along the cut axis of the voxel layer that holds a point (x, y, z) in mm."""
    return int(np.clip(np.rint(grid.index_of(at_mm)[cut]), 0, grid.shape[cut] - 1))


def _extent(grid: Grid, right: int, up: int) -> tuple[float, float, float, float]:
    low, high = grid.lower_mm[::-1], grid.upper_mm[::-1]
    return low[right], high[right], low[up], high[up]


def _on_grid(name: str, volume: np.ndarray, grid: Grid) -> np.ndarray:
    volume = np.asarray(volume)
    if volume.shape != grid.shape:
        raise ValueError(f"{name} has shape {volume.shape}, its grid {grid.shape}.")
    return volume
