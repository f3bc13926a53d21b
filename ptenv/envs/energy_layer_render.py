"""Pictures of an energy-layer episode: layers over gantry angle, dose, band of scenarios."""

from typing import TYPE_CHECKING

import numpy as np

from engine.optimization.head_and_neck import RING
from engine.patient.patient import Patient, Structure
from ptenv.cases.case import BODY
from ptenv.cases.energy_layer_case import EnergyLayerCase
from ptenv.rendering import DeliverySequence, arc_picture, sequence_figure, to_rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptenv.envs.energy_layer import EnergyLayerTask, State

WIDTH_PX = 1000


def picture(state: "State") -> np.ndarray:
    """The episode as an array (H, W, 3) uint8."""
    return to_rgb(picture_figure(state))


def picture_figure(state: "State", title: str = "", width_px: int = WIDTH_PX) -> "Figure":
    """Layers over gantry angle; with a plan on all rows also the dose and the DVH bands."""
    case = state.case
    title = title or f"{case.case_id}, angle {min(state.angle, len(state.choice))}"
    sequence = sequence_of(case, state.choice)
    if state.plan is None or state.terminal != "plan":
        return sequence_figure(sequence, title=title, width_px=width_px, notes=_notes(state))
    dose = case.quantity.value(state.plan.dose_gy)
    shown = [n for n in case.evaluation.structures if n not in (BODY, RING)]
    bands = {n: [case.evaluation.dvh(d)[n] for d in dose] for n in shown}
    return arc_picture(
        drawn_patient(case), volume_on(case, dose[0]), sequence, bands,
        structures=shown, notes=_notes(state), title=title, width_px=width_px,
        rbe=case.quantity.rbe,
    )  # fmt: skip


def ansi(state: "State", task: "EnergyLayerTask") -> str:
    """One line of figures."""
    info = task.info(state)
    said = (
        f"{info['case_id']} angle {state.angle} of {len(state.choice)}: "
        f"{info['delivery_s']:.1f} of {info['limit_s']:.1f} s, up {info['n_up']}, down "
        f"{info['n_down']}, unchanged {info['n_unchanged']}, coverage {info['coverage']:.3f}"
    )
    if state.plan is None:
        return said
    d95 = info["metrics"][state.case.target]["D95%[%]"]
    worst = info["robust"]["D95_worst"]
    return f"{said}, score {info['score']:.3f}, D95 {d95:.1f} %, worst {worst:.1f} %"


def sequence_of(case: EnergyLayerCase, choice: np.ndarray) -> DeliverySequence:
    """What the picture of a delivery sequence needs."""
    valid = case.sequencing.valid
    energy = np.asarray(case.energy_mev)
    served = valid.any(axis=1)
    low = np.where(served, energy[valid.argmax(axis=1)], np.nan)
    high = np.where(served, energy[valid.shape[1] - 1 - valid[:, ::-1].argmax(axis=1)], np.nan)
    chosen = np.where(choice >= 0, energy[np.maximum(choice, 0)], np.nan)
    return DeliverySequence(case.angles_deg, chosen, low, high)


def drawn_patient(case: EnergyLayerCase) -> Patient:
    """A patient on the dose grid with what a picture shows of one: CT, target and organs."""
    structures = {"External": Structure("External", np.ones(case.grid.shape, bool), "external")}
    for name in case.evaluation.structures:
        if name == BODY:
            continue
        region = case.regions[name]
        on_rows = np.zeros(case.traced.n_rows, bool)
        on_rows[region.rows] = region.volume >= 0.5 * region.volume.max()
        role = "target" if name in case.prescription_gy else "organ"
        structures[name] = Structure(name, volume_on(case, on_rows) > 0, role)
    return Patient(
        case.case_id, case.grid, np.asarray(case.hu, np.float32), structures,
        case.prescription_gy, case.quantity.n_fractions, source=case.case_id,
    )  # fmt: skip


def volume_on(case: EnergyLayerCase, row_values: np.ndarray) -> np.ndarray:
    """Row values (n_rows,) as a volume (nz, ny, nx) float32 on the dose grid."""
    flat = np.zeros(case.grid.size, np.float32)
    flat[case.traced.voxels] = row_values
    return flat.reshape(case.grid.shape)


def _notes(state: "State") -> str:
    from ptenv.envs.energy_layer import EnergyLayerTask

    info = EnergyLayerTask(state.terminal).info(state)
    lines = [
        f"delivery   {info['delivery_s']:7.1f} s",
        f"limit      {info['limit_s']:7.1f} s",
        f"switching  {info['switching_s']:7.1f} s",
        f"up {info['n_up']}, down {info['n_down']}, unchanged {info['n_unchanged']}",
        f"coverage   {info['coverage']:7.3f}",
    ]
    if state.plan is not None:
        of = info["metrics"][state.case.target]
        lines += [
            f"score      {info['score']:7.3f}", f"Q          {info['Q']:7.3f}", "",
            f"{state.case.target}",
            f"D95        {of['D95%[%]']:7.1f} %", f"D98        {of['D98%[%]']:7.1f} %",
            f"D2         {of['D2%[%]']:7.1f} %", f"CI         {of['CN[%]']:7.1f} %",
            f"D95 worst  {info['robust']['D95_worst']:7.1f} %",
            f"RVH area   {info['robust']['rvh_area_target_gy']:7.2f} Gy", "",
            "dose is known in target, organs and", f"{state.case.recipe['ring_mm']:g} mm around it",
        ]  # fmt: skip
    return "\n".join(lines)
