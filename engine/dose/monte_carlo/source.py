"""From a plan to what the kernels emit and send through the nozzle: spots, beams, devices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.dose.monte_carlo._histories import SPOT_COLUMNS, Beams
from engine.dose.monte_carlo.records import Records
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.geometry.scenarios import Scenario
from engine.machine.ion import IonMachine
from engine.patient.ct import override_material
from engine.physics.materials import Material

MAX_ENERGY_MEV = 280.0  # what straggling adds must stay within the tables
HALF_WIDTH_MM = 500.0  # of devices, wider than any field
# Openings of up to so many cm² are cut from cells of so many mm (Janson 2024).
APERTURE_PITCH_MM = ((10.0, 0.2), (np.inf, 0.5))


@dataclass(frozen=True, eq=False)
class Device:
    """A box in the beam's eye view: lower corner and spacing in (u, v, t) mm, cells (t, v, u)."""

    lower_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    filled: np.ndarray  # bool (n_t, n_v, n_u); what is not filled is vacuum
    material: Material


def spot_rows(plan: Plan) -> np.ndarray:
    """Energy and phase space of every spot, (n_spots, len(SPOT_COLUMNS)) float64."""
    machine, energy = plan.machine, plan.spot_energy
    highest = float(machine.energy_mev[energy].max(initial=0.0))
    if highest > MAX_ENERGY_MEV:
        raise ValueError(
            f"energy_mev={highest:.1f} of a spot lies above {MAX_ENERGY_MEV:g} MeV, where the data "
            "of the Monte Carlo engine end; choose a lower energy."
        )
    first = _linear(
        machine.nozzle_variance_mm2, machine.nozzle_covariance_mm_rad,
        machine.nozzle_angle_variance_rad2,
    )  # fmt: skip
    weight = np.zeros(len(machine.energy_mev))
    second = tuple(np.zeros(len(machine.energy_mev)) for _ in range(3))
    if machine.second_gaussian is not None:
        more = machine.second_gaussian
        weight = more.weight
        second = _linear(more.variance_mm2, more.covariance_mm_rad, more.angle_variance_rad2)
    columns = [
        plan.spot_beam, machine.energy_mev[energy], machine.energy_std_mev[energy], plan.u_mm,
        plan.v_mm, *(c[energy] for c in first), weight[energy], *(c[energy] for c in second),
    ]  # fmt: skip
    assert len(columns) == len(SPOT_COLUMNS)
    return np.ascontiguousarray(np.column_stack(columns), dtype=np.float64)


def _linear(variance, covariance, angle_variance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """σ of the offset (mm), slope of the angle in it (rad per mm), σ of what is left of the angle
    (rad), (n_energies,) each."""
    slope = np.divide(covariance, variance, out=np.zeros(len(variance)), where=variance > 0.0)
    return np.sqrt(variance), slope, np.sqrt(np.maximum(angle_variance - slope * covariance, 0.0))


def beams_of(
    plan: Plan, scenario: Scenario, first_material: int
) -> tuple[Beams, tuple[Material, ...]]:
    """Beams with their devices, whose materials are numbered from ``first_material`` on."""
    machine = plan.machine
    source_mm = machine.virtual_sources_mm or (machine.virtual_source_mm,) * 2
    frames = [beam_frame(b, machine.virtual_source_mm, scenario.shift_mm) for b in plan.beams]
    devices = [devices_of(beam, machine) for beam in plan.beams]
    flat = [device for several in devices for device in several]
    names: dict[str, int] = {}
    for device in flat:
        names.setdefault(device.material.name, first_material + len(names))
    materials = {d.material.name: d.material for d in flat}
    cells = [d.filled.ravel() for d in flat]
    records = Records.of(
        np.concatenate([np.zeros(0), *(c * d.material.density_g_cm3 for c, d in zip(cells, flat))]),
        np.repeat([names[d.material.name] for d in flat], [len(c) for c in cells]).astype(np.int32),
    )
    return Beams(
        frame=np.array(
            [[f.isocenter_mm, f.u_axis, f.v_axis, f.direction] for f in frames], dtype=np.float64
        ),
        start_t=np.full(len(frames), -machine.nozzle_to_isocenter_mm),
        source_mm=np.array([source_mm] * len(frames), dtype=np.float64),
        first_device=np.cumsum([0] + [len(several) for several in devices]),
        device_lower=np.array([d.lower_mm for d in flat]).reshape(-1, 3),
        device_shape=np.array([d.filled.shape for d in flat], np.int64).reshape(-1, 3),
        device_spacing=np.array([d.spacing_mm[::-1] for d in flat]).reshape(-1, 3),
        device_start=np.cumsum([0] + [len(c) for c in cells]),
        device_longs=records.longs,
        device_ints=records.ints,
        device_floats=records.floats,
    ), tuple(materials[name] for name in names)


def devices_of(beam: Beam, machine: IonMachine) -> list[Device]:
    """Range shifter and aperture of a beam, from upstream to downstream."""
    found = []
    if beam.range_shifter is not None:
        shifter = machine.range_shifter(beam.range_shifter)
        if beam.shifter_exit_mm is None:
            raise ValueError(
                f"shifter_exit_mm of the beam at gantry {beam.gantry_deg:g}° is not set; "
                "place_spots fills it in, or give the exit face's place along the beam."
            )
        found.append(
            _slab(beam.shifter_exit_mm, shifter.thickness_mm, override_material(shifter.material))
        )
    if beam.aperture is not None:
        found.append(_block(beam))
    found.sort(key=lambda d: d.lower_mm[2])
    _check_order(found, beam, machine)
    return found


def _slab(exit_mm: float, thickness_mm: float, material: Material) -> Device:
    lower = (-HALF_WIDTH_MM, -HALF_WIDTH_MM, exit_mm - thickness_mm)
    spacing = (2.0 * HALF_WIDTH_MM, 2.0 * HALF_WIDTH_MM, thickness_mm)
    return Device(lower, spacing, np.ones((1, 1, 1), bool), material)


def _block(beam: Beam) -> Device:
    """The aperture as cells of 0.5 mm, or 0.2 mm where the opening is small, open in the middle."""
    aperture = beam.aperture
    opening_cm2 = aperture.opening_cm2
    pitch = next(pitch for limit, pitch in APERTURE_PITCH_MM if opening_cm2 <= limit)
    (u_low, v_low), (u_high, v_high) = aperture.bounds_mm()
    rim = aperture.rim_mm
    n_u = int(np.ceil((u_high - u_low + 2 * rim) / pitch))
    n_v = int(np.ceil((v_high - v_low + 2 * rim) / pitch))
    lower = (u_low - rim, v_low - rim)
    u = lower[0] + pitch * (np.arange(n_u) + 0.5)
    v = lower[1] + pitch * (np.arange(n_v) + 0.5)
    is_open = aperture.contains(u[None, :], v[:, None])
    t0 = aperture.exit_mm - aperture.thickness_mm
    return Device(
        (*lower, t0), (pitch, pitch, aperture.thickness_mm), ~is_open[None],
        override_material(aperture.material),
    )  # fmt: skip


def _check_order(devices: Sequence[Device], beam: Beam, machine: IonMachine) -> None:
    """Nothing overlaps, and all lies downstream of where protons start."""
    reached = -machine.nozzle_to_isocenter_mm
    for device in devices:
        start = device.lower_mm[2]
        if start < reached - 1e-6:
            raise ValueError(
                f"a {device.material.name} device of the beam at gantry {beam.gantry_deg:g}° "
                f"begins {start:.1f} mm from the isocenter, but what is upstream of it ends only "
                f"at {reached:.1f} mm; move it downstream, or make it thinner."
            )
        reached = start + device.spacing_mm[2] * device.filled.shape[0]
