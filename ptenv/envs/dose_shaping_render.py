"""Pictures of a dose-shaping episode: the dose, the last request, histograms beside the start's."""

from typing import TYPE_CHECKING

import numpy as np

from engine.optimization.head_and_neck import RING
from ptenv.cases.case import BODY
from ptenv.cases.drawn import drawn_patient
from ptenv.rendering import case_picture, to_rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptenv.envs.dose_shaping import State

WIDTH_PX = 1000


def picture(state: "State") -> np.ndarray:
    """The episode's plan as an array (H, W, 3) uint8."""
    return to_rgb(picture_figure(state))


def picture_figure(state: "State", title: str = "", width_px: int = WIDTH_PX) -> "Figure":
    """Dose wash with dots where the last request changed and recovered, histograms, figures."""
    case = state.case
    shown = [n for n in case.evaluation.structures if n != BODY]
    start = case.quantity.value(case.problem.fraction_dose(case.start_weights[state.goals]))
    now, before = (case.evaluation.dvh(d) for d in (state.dose_gy, start))
    touched = np.zeros(case.influence.n_rows, bool)
    if state.last is not None:
        touched[[*state.last.modified, *state.last.recovered]] = True
    return case_picture(
        drawn_patient(case), case.influence.volume(state.dose_gy), {n: now[n] for n in shown},
        chosen=case.influence.volume(touched) > 0, reference={n: before[n] for n in shown},
        structures=[n for n in shown if n != RING], notes=_notes(state),
        title=title or f"{case.case_id}, request {state.n_requests}", width_px=width_px,
        rbe=case.quantity.rbe,
    )  # fmt: skip


def ansi(state: "State") -> str:
    """One line of figures."""
    case, metrics = state.case, state.case.metrics(state.dose_gy)
    d95 = ", ".join(f"{t} D95 {metrics[t]['D95%[%]']:.1f} %" for t in case.targets)
    return (
        f"{case.case_id} request {state.n_requests}: score {state.score:.3f}, objective "
        f"{state.objective:.3f} (start {state.start_objective:.3f}), {state.products:.1f} dose "
        f"products, {d95}"
    )


def _notes(state: "State") -> str:
    case, metrics = state.case, state.case.metrics(state.dose_gy)
    lines = [
        f"score          {state.score:8.3f}",
        f"Q              {case.quality(metrics):8.3f}",
        f"objective      {state.objective:8.3f}",
        f"  at the start {state.start_objective:8.3f}",
        f"dose products  {state.products:8.1f}",
        "",
        "dashed: the plan at the start",
        "dots: voxels of the last request",
        "",
    ]
    for target in case.targets:
        for name in ("D95%[%]", "D2%[%]"):
            lines.append(f"{target + ' ' + name:<26}{metrics[target][name]:8.1f}")
    for goal in case.quality.scorecard.goals:
        if goal.group == "organ":
            value = metrics[goal.structure][goal.metric]
            lines.append(f"{goal.structure + ' ' + goal.metric:<26}{value:8.1f}")
    return "\n".join(lines)
