"""Pictures of a voxel-mask episode: dose, chosen voxels and histograms; one line for a terminal."""

from typing import TYPE_CHECKING

import numpy as np

from engine.optimization.head_and_neck import RING
from ptenv.cases.case import BODY, Case
from ptenv.cases.drawn import drawn_patient
from ptenv.rendering import case_picture, to_rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptenv.envs.voxel_mask import State, VoxelMaskTask

WIDTH_PX = 1000


def picture(state: "State") -> np.ndarray:
    """The episode's plan as an array (H, W, 3) uint8."""
    return to_rgb(picture_figure(state))


def picture_figure(
    state: "State", reference: np.ndarray | None = None, title: str = "", width_px: int = WIDTH_PX
) -> "Figure":
    """Dose wash with the chosen voxels as dots, the histograms, and the figures of the plan.

    ``reference`` (n_rows,) in Gy (RBE) is another plan's dose, keep-all's for instance: its
    histograms are dashed. Dose is known, and drawn, on the rows of the case alone.
    """
    case = state.case
    shown = [n for n in case.evaluation.structures if n != BODY]
    histograms = case.evaluation.dvh(state.dose_gy)
    others = None if reference is None else case.evaluation.dvh(reference)
    return case_picture(
        drawn_patient(case),
        case.influence.volume(state.dose_gy),
        {n: histograms[n] for n in shown},
        chosen=case.influence.volume(state.mask) > 0,
        reference=None if others is None else {n: others[n] for n in shown},
        structures=[n for n in shown if n != RING],
        notes=_notes(state),
        title=title or f"{case.case_id}, round {state.round}",
        width_px=width_px,
        rbe=case.quantity.rbe,
    )


def ansi(state: "State", task: "VoxelMaskTask") -> str:
    """One line of figures."""
    info = task.info(state)
    metrics = info["metrics"]
    d95 = ", ".join(f"{t} D95 {metrics[t]['D95%[%]']:.1f} %" for t in state.case.targets)
    return (
        f"{info['case_id']} round {state.round}: score {info['score']:.3f}, Q {info['Q']:.3f}, "
        f"work {100 * info['work_used']:.1f} % of a budget of {100 * info['budget']:g} %, "
        f"selected {info['selected_percent']:.1f} % of the voxels, {d95}"
    )


def _notes(state: "State") -> str:
    """What stands beside the histograms."""
    case, work = state.case, state.work_budget - state.work_left
    metrics = case.metrics(state.dose_gy)
    lines = [
        f"score          {state.score:8.3f}",
        f"Q              {case.quality(metrics):8.3f}",
        f"work           {100 * work / max(state.work_budget, 1):8.1f} %",
        f"budget         {100 * state.budget:8.1f} % of keep-all",
        f"selected       {100 * state.mask.mean():8.1f} % of the voxels",
        f"  of targets   {100 * state.mask[case.target_rows].mean():8.1f} %",
        f"density        {case.target_voxels_per_cm3:8.0f} voxels per cm³",
        "",
        "dose is known in targets, organs and the",
        f"{case.recipe['ring_mm']:g} mm around the targets only",
        "",
        f"{'':<28}{'plan':>8}{'keep-all':>9}",
    ]
    for target in case.targets:
        for name in ("D95%[%]", "D2%[%]"):
            lines.append(_compared(f"{target} {name}", metrics, case, target, name))
    for goal in case.quality.scorecard.goals:
        if goal.group == "organ":
            named = f"{goal.structure} {goal.metric}"
            lines.append(_compared(named, metrics, case, goal.structure, goal.metric))
    return "\n".join(lines)


def _compared(label: str, metrics: dict, case: Case, structure: str, metric: str) -> str:
    keep_all = case.anchors.reference_metrics[structure][metric]
    return f"{label:<28}{metrics[structure][metric]:8.1f}{keep_all:8.1f}"
