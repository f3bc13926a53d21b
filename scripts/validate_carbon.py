"""Carbon ions: slowing down, fragmentation, LEM I, and the RBE in a spread-out peak.

Tables are those of carbon scaled from PSTAR, of a direct program for LEM I, and of another 1D model
of a spread-out peak; nothing better is published for the latter two. What matRad's carbon_Generic
says (BSD-3) was read off its depth doses: entrance, and tail 1 cm behind the peak.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from engine.machine.carbon import cell_edges, filter_spread_mm
from engine.machine.library import load_machine
from engine.physics.fragmentation import (
    CHARGE_CHANGING_SHARE,
    FRAGMENTS,
    LIGHT_GAIN,
    MixedField,
    carbon_water_mb,
    charge_changing_per_mm,
    mixed_field,
    shen_mb,
    survival,
    tripathi_mb,
)
from engine.physics.ions import (
    CARBON,
    OXYGEN,
    PROTON,
    Ion,
    energy_at_range_mm,
    lateral_variance_mm2,
    proton_energy_mev,
    range_mm,
    range_straggling_mm,
    stopping_power_mev_cm2_g,
)
from engine.physics.lem import Lem1, Tissue, tissue
from engine.physics.tracks import ION_CHARGES, kiefer_chatterjee, scholz_kraft, table_energies
from scripts.validate_check import Check
from scripts.validate_spread_out_peak import Layers, SpreadOutPeak, layers_for, spread_out_peak

SCALED = "PSTAR scaled to carbon"
GENERIC = "carbon_Generic (matRad)"
LEM = "LEM I by direct sums"
ONE_D = "another 1D model, LEM I"
# fmt: off
CARBON_WATER = {  # MeV per nucleon: LET in keV/µm, range and its σ in mm, as printed
    100: (26.1, 25.9, 0.08), 200: (16.1, 87.0, 0.26), 300: (12.6, 172.3, 0.50),
    400: (10.9, 275.4, 0.77),
}
SLOW_LET = {1: 642.0, 5: 272.0}  # keV/µm
EQUAL_RANGE_MM = (50.0, 150.0, 250.0)
SPREAD_OVER_PROTON = {50: 0.300, 150: 0.302, 300: 0.302}  # σ at 0.95 of the same range
SECTIONS_MB = {  # 100, 200, 300, 400 MeV per nucleon
    "C + O, Tripathi": (tripathi_mb, OXYGEN, (1077, 987, 980, 993)),
    "C + O, Shen": (shen_mb, OXYGEN, (1081, 1022, 1005, 996)),
    "C + C, Tripathi": (tripathi_mb, CARBON, (950, 865, 857, 869)),
}
WATER_MB = {100: 1530.0, 200: 1410.0, 300: 1400.0, 400: 1410.0}
SURVIVING = {100: 0.88, 200: 0.68, 270: 0.54, 300: 0.48, 350: 0.40, 400: 0.32}  # at the peak
DEPTH_DOSE = {  # at the surface in MeV cm²/g, and 1 cm behind the peak over that
    181: (173.6, 0.18), 280: (129.5, 0.33), 361: (111.7, 0.42), 399: (106.0, 0.44),
}
FRAGMENTS_AT_PEAK = {181: 0.06, 399: 0.16}  # share of the dose
LEM_MEV = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0)
LEM_ALPHA = {  # chordoma, 1/Gy
    "C": (0.756, 0.988, 1.284, 1.271, 1.115, 0.860, 0.692, 0.558, 0.495, 0.458),
    "He": (2.289, 2.215, 1.495, 1.090, 0.796, 0.524, 0.379, 0.271, 0.224, 0.199),
    "p": (2.749, 2.001, 1.151, 0.776, 0.522, 0.294, 0.190, 0.144, 0.131, 0.125),
}
LEM_BETA = {  # 1/Gy²
    "C": (0.000, 0.000, 0.005, 0.015, 0.025, 0.034, 0.039, 0.042, 0.044, 0.044),
    "He": (0.000, 0.006, 0.023, 0.032, 0.038, 0.043, 0.046, 0.048, 0.049, 0.049),
    "p": (0.002, 0.016, 0.032, 0.038, 0.043, 0.047, 0.049, 0.050, 0.050, 0.050),
}
LEM_CHARGE = {"C": 6, "He": 2, "p": 1}
LEM_SPOT_MEV = (1.0, 10.0, 100.0, 400.0)
TARGET_MM = (80.0, 120.0)
IN_PEAK = {  # place: depth in mm, RBE, physical dose in Gy
    "entrance": (5.0, 3.0, 0.60), "proximal": (83.0, 3.2, 0.94), "middle": (100.0, 3.5, 0.89),
    "distal": (115.0, 4.0, 0.80), "tail": (135.0, 5.4, 0.10),
}
# fmt: on
TAIL = 0.25  # as the multiplicities of fragments are known
RBE = 0.20
FLAT_MM = 4.0  # from the target's ends, within which the dose rises and falls


def carbon_in_water() -> Iterator[Check]:
    """Slowing down, straggling and scattering beside the proton's."""
    for energy, (let, length, sigma) in CARBON_WATER.items():
        label = f"{energy} MeV/u"
        ours = float(range_mm(6, 12, energy))
        yield Check("", f"range, {label}", "mm", length, ours, 5e-3, True, SCALED)
        ours = 0.1 * float(stopping_power_mev_cm2_g(6, float(energy)))
        yield Check("", f"LET, {label}", "keV/µm", let, ours, 0.06, False, f"{SCALED}, as printed")
        ours = float(range_straggling_mm(6, 12, float(energy)))
        yield Check(
            "", f"σ of range, {label}", "mm", sigma, ours, 0.0051, False, f"{SCALED}, as printed"
        )
    for energy, let in SLOW_LET.items():
        ours = 0.1 * float(stopping_power_mev_cm2_g(6, float(energy)))
        yield Check("", f"LET, {energy} MeV/u", "keV/µm", let, ours, 2e-3, True, "table of LEM I")
    yield from _beside_protons()
    yield from _machine_ranges()


def _beside_protons() -> Iterator[Check]:
    root = 1.0 / np.sqrt(12.0)
    for energy in (100.0, 200.0, 400.0):
        ours = _relative_straggling(CARBON, energy)
        ours /= _relative_straggling(PROTON, float(proton_energy_mev(6, energy)))
        name = f"σ of range over the proton's of that velocity, {energy:.0f} MeV/u"
        yield Check("", f"{name}, relative", "", root, ours, 0.01, True, "1/√12")
    for length in EQUAL_RANGE_MM:
        carbon, proton = (
            _relative_straggling(ion, _energy_of(ion, length)) for ion in (CARBON, PROTON)
        )
        # Carbon of that range is faster, and relative straggling falls with energy: 0.272, not
        # 0.289, by the tables of both at 150 mm.
        yield Check(
            "", f"σ of range over the proton's of {length:.0f} mm", "", root, carbon / proton, 0.08,
            True, "1/√12, of equal velocities",
        )  # fmt: skip
    for length, ratio in SPREAD_OVER_PROTON.items():
        carbon, proton = (_spread_mm(ion, float(length)) for ion in (CARBON, PROTON))
        yield Check(
            "", f"lateral σ over the proton's of {length} mm", "", ratio, carbon / proton, 0.025,
            True, "Molière–Hanson, thick target",
        )  # fmt: skip


def _energy_of(ion: Ion, length_mm: float) -> float:
    return float(energy_at_range_mm(ion.charge, ion.mass_number, length_mm))


def _relative_straggling(ion: Ion, energy_mev: float) -> float:
    of = ion.charge, ion.mass_number, energy_mev
    return float(range_straggling_mm(*of) / range_mm(*of))


def _spread_mm(ion: Ion, length_mm: float) -> float:
    end = np.array([0.95 * length_mm])
    energy = _energy_of(ion, length_mm)
    return float(np.sqrt(lateral_variance_mm2(ion.charge, ion.mass_number, energy, end)[0]))


def _machine_ranges() -> Iterator[Check]:
    machine = load_machine("generic_carbon")
    for energy, (_, length, _) in CARBON_WATER.items():
        ours = float(np.interp(energy, machine.energy_mev, machine.range_mm))
        name = f"R80 of {machine.name}, {energy} MeV/u"
        yield Check("", name, "mm", length, ours, 0.3, False, SCALED)


def fragmentation() -> Iterator[Check]:
    """Reaction cross sections, what survives, and the depth doses that come of it."""
    for name, (formula, target, values) in SECTIONS_MB.items():
        for energy, value in zip(WATER_MB, values):
            ours = float(formula(float(energy), CARBON, target))
            yield Check("", f"σ of {name}, {energy} MeV/u", "mb", value, ours, 1e-3, True,
                        "the paper's formula")  # fmt: skip
    for energy, value in WATER_MB.items():
        ours = float(carbon_water_mb(float(energy)))
        yield Check("", f"σ of C + H₂O, {energy} MeV/u", "mb", value, ours, 5e-3, True,
                    "Tripathi, ICRU 63 on H")  # fmt: skip
    ours = 1.0 / float(charge_changing_per_mm(300.0))
    yield Check("", "free path to another charge, 300 MeV/u", "mm", 214.0 / CHARGE_CHANGING_SHARE,
                ours, 5e-3, True, "0.86 of all reactions")  # fmt: skip
    ours = sum(
        f.ion.charge * f.multiplicity * (LIGHT_GAIN[1] if f.ion.charge <= 2 else 1.0)
        for f in FRAGMENTS
        if f.ion.charge < CARBON.charge
    )
    yield Check("", "charge of a reaction's products", "", 6.0, ours, 0.02, True, "conservation")
    for energy, value in SURVIVING.items():
        ours = float(survival(float(energy), float(range_mm(6, 12, energy))))
        name = f"carbon that survives to the peak, {energy} MeV/u"
        yield Check("", name, "", value, ours, 0.015, False, "literature, recomputed")
    yield from _depth_doses()


def _depth_doses() -> Iterator[Check]:
    for energy, (entrance, tail) in DEPTH_DOSE.items():
        depth, dose, fragments = depth_dose(energy)
        top = int(np.argmax(dose))
        name = f"dose at the entrance, {energy} MeV/u"
        yield Check("", name, "MeV cm²/g", entrance, float(dose[0]), 0.03, True, GENERIC)
        ours = float(np.interp(depth[top] + 10.0, depth, dose) / dose[0])
        name = f"dose 1 cm behind the peak over entrance, {energy} MeV/u"
        yield Check("", name, "", tail, ours, TAIL, True, GENERIC)
        if energy in FRAGMENTS_AT_PEAK:
            ours = float(fragments[top] / dose[top])
            name = f"dose share of fragments at the peak, {energy} MeV/u"
            yield Check("", name, "", FRAGMENTS_AT_PEAK[energy], ours, TAIL, True,
                        "another 1D model")  # fmt: skip


def depth_dose(energy_mev: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth in mm, dose of all and of charges below carbon's in MeV cm²/g, each (n,); the range
    is spread as generic_carbon's is."""
    field = _field(float(energy_mev))
    depth = 0.5 * (field.edges_mm[1:] + field.edges_mm[:-1])
    return depth, field.total_mev_cm2_g, field.species_mev_cm2_g[:, :-1].sum(axis=1)


@lru_cache(maxsize=8)
def _field(energy_mev: float) -> MixedField:
    return mixed_field(energy_mev, cell_edges(energy_mev), filter_spread_mm(energy_mev))


def lem_and_rbe() -> Iterator[Check]:
    """LEM I of single ions, then what it makes of a field of 3 Gy (RBE)."""
    model = chordoma()
    for ion, charge in LEM_CHARGE.items():
        for energy in LEM_SPOT_MEV:
            at, k = np.array([energy]), LEM_MEV.index(energy)
            ours = float(model.alpha_per_gy(charge, at)[0])
            name = f"of {ion}, {energy:g} MeV/u"
            yield Check("", f"α {name}", "1/Gy", LEM_ALPHA[ion][k], ours, 0.01, True, LEM)
            ours = float(model.beta_per_gy2(charge, at)[0])
            yield Check("", f"β {name}", "1/Gy²", LEM_BETA[ion][k], ours, 1.5e-3, False, LEM)
    straight = Lem1(Tissue("linear", 0.3, 0.0, 30.0, 5.0))
    ours = float(straight.alpha_per_gy(1, np.array([400.0]))[0]) / straight.alpha_x_per_gy
    yield Check("", "α of p over the photons', 400 MeV, tissue without β", "", 1.0, ours, 1e-3,
                False, "low-LET limit")  # fmt: skip
    for track_of in (scholz_kraft, kiefer_chatterjee):
        name = f"dose of a track over the LET, {track_of.__name__}, furthest from 1"
        yield Check("", name, "", 1.0, _track_balance(track_of), 1e-3, False, "identity")
    yield from _in_the_peak()


def _track_balance(track_of) -> float:
    """∫ dose dA over 0.1602 LET, where it is furthest from 1 of all ions and energies."""
    found = []
    for charge in ION_CHARGES:
        for energy in table_energies()[::4]:
            track = track_of(charge, float(energy))
            core = np.linspace(0.0, track.core_um, 100)  # within it the dose is flat
            edges = np.append(core, np.geomspace(track.core_um, track.reach_um, 5_000)[1:])
            middle = 0.5 * (edges[1:] + edges[:-1])
            total = float(np.sum(track.dose_gy(middle) * np.pi * np.diff(edges**2)))
            let = 0.1 * float(stopping_power_mev_cm2_g(charge, float(energy)))
            found.append(total / (0.1602177 * let))
    return max(found, key=lambda ratio: abs(ratio - 1.0))


def _in_the_peak() -> Iterator[Check]:
    layers = chordoma_layers()
    yield Check("", "gradient of RBE-weighted dose over finite differences, furthest from 1", "",
                1.0, _gradient_ratio(layers), 1e-6, False, "identity")  # fmt: skip
    peak = chordoma_peak()
    begin, end = TARGET_MM
    flat = (peak.depth_mm > begin + FLAT_MM) & (peak.depth_mm < end - FLAT_MM)
    apart = peak.weighted_gy[flat] / layers.level_gy - 1.0
    yield Check("", "RBE-weighted dose in 84–116 mm over 3 Gy (RBE), furthest from 1", "", 1.0,
                1.0 + float(apart[np.argmax(np.abs(apart))]), 0.03, False,
                "as optimized")  # fmt: skip
    for place, (depth, rbe, dose) in IN_PEAK.items():
        found_dose, found_rbe = peak.at(depth)
        name = f"{place} of 80–120 mm, at {depth:g} mm"
        yield Check("", f"RBE, {name}", "", rbe, found_rbe, RBE, True, ONE_D)
        tolerance = TAIL if place == "tail" else RBE
        yield Check("", f"dose, {name}", "Gy", dose, found_dose, tolerance, True, ONE_D)
    ours = peak.at(IN_PEAK["distal"][0])[0] / peak.at(IN_PEAK["proximal"][0])[0]
    yield Check("", "physical dose, distal over proximal", "", 0.75, ours, 0.10, False, ONE_D)


def _gradient_ratio(layers: Layers) -> float:
    weights = np.linspace(0.2, 0.8, layers.tables.shape[2])
    _, gradient = layers.cost(weights)
    steps = 1e-5 * np.eye(weights.size)
    numeric = [(layers.cost(weights + s)[0] - layers.cost(weights - s)[0]) / 2e-5 for s in steps]
    return float(max(gradient / numeric, key=lambda ratio: abs(ratio - 1.0)))


def chordoma() -> Lem1:
    return Lem1(tissue("chordoma"))


@lru_cache(maxsize=1)
def chordoma_layers() -> Layers:
    """Layers of generic_carbon for 3 Gy (RBE) from 80 to 120 mm."""
    return layers_for(load_machine("generic_carbon"), chordoma(), *TARGET_MM)


@lru_cache(maxsize=1)
def chordoma_peak() -> SpreadOutPeak:
    return spread_out_peak(chordoma_layers())
