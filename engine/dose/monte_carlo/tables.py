"""What the kernels look up: ranges, and for every material scattering, straggling and reactions.

A particle is followed by its residual range in water, mm, at proton equivalence: an ion of mass M
(in proton masses) and charge z has the energy M·e where a proton of the same velocity has e, and
uses up proton range z²/M times as fast. Whatever material it crosses, a step costs the residual
range k·d, with k = ρ · F(e), F the mass stopping power over water's. So one table, e of the range,
serves every material and every kind of particle.

Scattering (small angles θ in space): screened Rutherford scattering off nuclei with Molière's
screening angle, up to TABLE_FROM_RAD, beyond which the measured elastic cross sections of ICRU 63
take over (they hold the Coulomb scattering there), or, with these off, to NUCLEAR_SIZE_RAD.
Atomic electrons scatter a proton by m_e/M at most; their part is Fano's (Phys. Rev. 93 (1954)
117), in the form for heavy particles that Gottschalk et al., Nucl. Instrum. Methods B 74 (1993)
467, use. For hydrogen its constant follows from the exact form factor: 11/6 + ln α⁻² − 1 = 10.67
against 10.63 here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.dose.monte_carlo._transport import ROOTS_PER_ROOT_MEV, Physics
from engine.physics.constants import (
    AVOGADRO_PER_MOL,
    BARN_CM2,
    CLASSICAL_ELECTRON_RADIUS_CM,
    ELECTRON_MASS_MEV,
    FINE_STRUCTURE,
    beta2,
)
from engine.physics.materials import ELEMENTS, Material, stopping_ratio_table, water
from engine.physics.nuclear import proton_proton_mb
from engine.physics.nuclear_tables import NuclearTables, load_nuclear_tables
from engine.physics.stopping_power import csda_range_mm, energy_at_range, mass_stopping_power
from engine.physics.straggling import energy_straggling_mev2_cm

MAX_ENERGY_MEV = 300.0
N_ENERGIES = 301  # bins of 1 MeV: index int(e)
RANGE_NODES = 4096  # even in the square root of range, in which energy is nearly linear
LOWEST_MEV = 1e-3  # of the LET integral
TABLE_FROM_RAD = np.radians(4.7)  # 5° in the center of mass with oxygen
NUCLEAR_SIZE_RAD = 0.15  # ħ / (momentum · radius of oxygen) at 120 MeV
HC_MEV_FM = 197.3269804
BOHR_RADIUS_FM = 52917.721
NUCLEAR_FROM_MEV = 3  # with 0.15 mm to go in water; only some elements have tables below
TRACE = 0.01  # mass fraction up to which an element without cross sections is left out
COLUMNS = 5  # of ``media``: F, χ_c², screening, electrons, straggling


@dataclass(frozen=True)
class Processes:
    """Which interactions are on; stopping always is."""

    straggling: bool = True
    scattering: bool = True
    non_elastic: bool = True
    nuclear_elastic: bool = True  # off nuclei, beyond 5°
    proton_proton: bool = True


def physics_tables(
    materials: Sequence[Material], i_water_ev: float, processes: Processes
) -> Physics:
    """Arrays for the kernels; refuses materials that hold elements without cross sections.

    ``media`` (n_materials, N_ENERGIES, COLUMNS) float32, per bin of proton-equivalent energy:
    F; χ_c²(pv)² in MeV² rad² per mm of range lost; ln of (pc χ_a)² in MeV² rad²; the electrons'
    share as an addition to Molière's logarithm; straggling variance in MeV² per mm of range lost.
    ``majorant`` (N_ENERGIES,) is the largest rate of reactions per mm of range lost,
    ``majorant_depth`` its integral over range up to each whole MeV. ``reactions`` (n_materials,
    N_ENERGIES, 2 n_slots + 1) float32 are cumulative rates: non-elastic and elastic per element
    slot, then proton–proton. ``slot_row`` (n_materials, n_slots) names each slot's element.
    """
    medium, nuclear = water(i_water_ev), load_nuclear_tables()
    root_step, energy_of_root, let = _range_axis(medium)
    whole = np.arange(N_ENERGIES, dtype=float)
    whole_range = np.concatenate([[0.0], csda_range_mm(whole[1:], medium)])
    roots = np.arange(int(np.sqrt(MAX_ENERGY_MEV) * ROOTS_PER_ROOT_MEV) + 3) / ROOTS_PER_ROOT_MEV
    ratio = stopping_ratio_table(materials, whole + 0.5, i_water_ev)
    reactions, slot_row = _reactions(materials, ratio, nuclear, processes)
    majorant = reactions[:, :, -1].max(axis=0).astype(np.float64)
    return Physics(
        energy_of_root=energy_of_root,
        let_integral=let,
        inverse_root_step=1.0 / root_step,
        hard_limit2=(TABLE_FROM_RAD if processes.nuclear_elastic else NUCLEAR_SIZE_RAD) ** 2,
        range_of_root=_range_mm(roots**2, medium),
        media=_media(materials, ratio, whole + 0.5, processes),
        majorant=majorant,
        majorant_depth=np.concatenate([[0.0], np.cumsum(majorant[:-1] * np.diff(whole_range))]),
        whole_mev_range=whole_range,
        reactions=reactions,
        slot_row=slot_row,
        element_mass=nuclear.mass_u,
        n_blocks=nuclear.n_blocks,
        block_energy=nuclear.block_energy_mev,
        multiplicity=nuclear.multiplicity,
        energy_share=nuclear.energy_share,
        cosine=nuclear.cosine,
        recoil_share=nuclear.recoil_share,
        n_elastic_blocks=nuclear.n_elastic_blocks,
        elastic_block_energy=nuclear.elastic_block_energy_mev,
        elastic_inverse_versine=nuclear.elastic_inverse_versine,
    )


def _range_mm(energy_mev: np.ndarray, medium: Material) -> np.ndarray:
    """CSDA range, proportional to velocity below the tables' 1 keV."""
    low = np.minimum(energy_mev / LOWEST_MEV, 1.0)
    return csda_range_mm(np.maximum(energy_mev, LOWEST_MEV), medium) * np.sqrt(low)


def _range_axis(medium: Material) -> tuple[float, np.ndarray, np.ndarray]:
    """Step of the root of range (√mm), and at its nodes energy (MeV) and ∫ LET dE (keV/µm MeV)."""
    top = float(np.sqrt(csda_range_mm(MAX_ENERGY_MEV, medium)))
    step = top / RANGE_NODES
    energy = energy_at_range((step * np.arange(RANGE_NODES + 2)) ** 2, medium)
    log_energy = np.linspace(np.log(LOWEST_MEV), np.log(MAX_ENERGY_MEV + 5.0), 20_001)
    at = np.exp(log_energy)
    let_kev_um = 0.1 * mass_stopping_power(at, medium)
    steps = 0.5 * np.diff(log_energy) * (at[1:] * let_kev_um[1:] + at[:-1] * let_kev_um[:-1])
    total = np.concatenate([[0.0], np.cumsum(steps)])
    integral = np.interp(np.log(np.maximum(energy, LOWEST_MEV)), log_energy, total)
    return step, energy, integral


def _media(materials, ratio: np.ndarray, energy: np.ndarray, processes: Processes) -> np.ndarray:
    """(n_materials, N_ENERGIES, COLUMNS) float32; a path of 1 mm of range is 0.1/F g/cm²."""
    media = np.zeros((len(materials), N_ENERGIES, COLUMNS))
    for i, material in enumerate(materials):
        g_cm2_per_mm = 0.1 / ratio[i]
        coulomb, screening, electrons = _moliere(material, energy)
        media[i, :, 0] = ratio[i]
        if processes.scattering:
            media[i, :, 1] = coulomb * g_cm2_per_mm
        media[i, :, 2] = screening
        media[i, :, 3] = electrons
        if processes.straggling:
            per_g = energy_straggling_mev2_cm(energy, material) / material.density_g_cm3
            media[i, :, 4] = per_g * g_cm2_per_mm
    return np.ascontiguousarray(media, dtype=np.float32)


def _moliere(material: Material, energy: np.ndarray):
    """χ_c²(pv)² per g/cm², ln (pc χ_a)² and the electrons' addition to the logarithm.

    The latter two are (n_energies,). Molière's angles as in Bethe, Phys. Rev. 89 (1953) 1256.
    """
    fractions, z, a = material.per_element()
    constant = 4.0 * np.pi * AVOGADRO_PER_MOL * (
        CLASSICAL_ELECTRON_RADIUS_CM * ELECTRON_MASS_MEV
    ) ** 2  # fmt: skip
    nuclei, electrons = fractions * z * z / a, fractions * z / a
    radius_fm = 0.885 * BOHR_RADIUS_FM * z ** (-1.0 / 3.0)
    b2 = beta2(energy)[:, None]
    correction = 1.13 + 3.76 * (FINE_STRUCTURE * z) ** 2 / b2
    screening = (nuclei * np.log((HC_MEV_FM / radius_fm) ** 2 * correction)).sum(1) / nuclei.sum()
    inelastic = np.where(z == 1, 3.6, 5.8)
    fano = np.log(1130.0 * z ** (-4.0 / 3.0) * b2 / (1.0 - b2)) + inelastic - 0.5 * b2
    added = (electrons * np.maximum(fano, 0.0)).sum(1) / nuclei.sum()
    return constant * nuclei.sum(), screening, added


def _reactions(materials, ratio: np.ndarray, nuclear: NuclearTables, processes: Processes):
    """Cumulative rates per mm of range lost, and the element rows of the slots."""
    per_material = [_slots(m, nuclear, processes) for m in materials]
    n_slots = max(1, *(len(slots) for slots in per_material))
    rates = np.zeros((len(materials), N_ENERGIES, 2 * n_slots + 1))
    slot_row = np.zeros((len(materials), n_slots), np.int64)
    center = np.arange(N_ENERGIES) + 0.5
    hydrogen = proton_proton_mb(center) if processes.proton_proton else np.zeros(N_ENERGIES)
    for i, (material, slots) in enumerate(zip(materials, per_material)):
        atoms = 0.1 / ratio[i] * AVOGADRO_PER_MOL * 1e-3 * BARN_CM2  # per g/mol, mb and mm
        for j, (row, per_a) in enumerate(slots):
            slot_row[i, j] = row
            for column, on, mb in (
                (2 * j, processes.non_elastic, nuclear.non_elastic_mb[row]),
                (2 * j + 1, processes.nuclear_elastic, nuclear.elastic_mb[row]),
            ):
                if on:
                    rates[i, :, column] = atoms * per_a * np.interp(center, nuclear.energy_mev, mb)
        share = material.mass_fractions.get("H", 0.0) / ELEMENTS["H"].a_g_mol
        rates[i, :, -1] = atoms * share * hydrogen
    rates[:, :NUCLEAR_FROM_MEV] = 0.0
    return np.ascontiguousarray(np.cumsum(rates, axis=2), dtype=np.float32), slot_row


def _slots(
    material: Material, nuclear: NuclearTables, processes: Processes
) -> list[tuple[int, float]]:
    """Element row, and mass fraction over molar mass times the cross section's scale."""
    if not (processes.non_elastic or processes.nuclear_elastic):
        return []
    slots = []
    for symbol, fraction in material.mass_fractions.items():
        if symbol == "H":
            continue
        try:
            row, scale = nuclear.index_of(symbol)
        except ValueError as error:
            if fraction <= TRACE:
                continue
            raise ValueError(
                f"material {material.name!r} is {100 * fraction:.0f} % {symbol}: {error} Choose "
                "another material, or switch non_elastic and nuclear_elastic off."
            ) from None
        slots.append((row, fraction / ELEMENTS[symbol].a_g_mol * scale))
    return slots
