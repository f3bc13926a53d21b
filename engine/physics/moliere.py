"""Multiple scattering with its single-scattering tail: Molière's theory, with drift in between.

Single scattering by small angles θ in space is dΣ = 2 χ_c²' θ dθ/(θ² + χ_a²)² (Molière, Z.
Naturforsch. 2a (1947) 133 and 3a (1948) 78; Bethe, Phys. Rev. 89 (1953) 1256). A proton scattered
at z' is off by w θ at z, w = z − z', so the lateral density at z has the radial characteristic
function

    ln f(k) = −∫ χ_c²' / χ_a² (1 − x K₁(x)) dz',  x = k w χ_a,

and with 1 − x K₁(x) ≈ ½ x² (½ − γ − ln ½x)

    f(k) = exp(−¼ k² (p − q ln k²)),
    q = ∫ χ_c²' w² dz',  p = ∫ χ_c²' w² (1 − 2γ + ln 4 − ln χ_a² − ln w²) dz'.

Fermi–Eyges is the same without the logarithm. In units of √q the shape depends on b = p/q + ln q
alone (Molière's B − ln B = b − ln 4), and a beam's width multiplies f by a Gaussian. A mixture of
few Gaussians with variances q v(b) per axis stands for it: ``mixture`` in ``_moliere_kernels``.

Protons of 70 to 230 MeV have b = 8.5 … 11 after 1 mm of tissue and 13 … 16 at the end of range;
only in thin layers of air, which spread nothing, b falls below 4, where there is no multiple
scattering to speak of (Bethe: some 20 collisions, b ≈ 4.4). Angles are small: nothing ends the tail
at the size of the nucleus.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import j0, j1, k1

from engine.physics._moliere_kernels import EXPONENT
from engine.physics.constants import (
    AVOGADRO_PER_MOL,
    CLASSICAL_ELECTRON_RADIUS_CM,
    ELECTRON_MASS_MEV,
    FINE_STRUCTURE,
    Numbers,
    beta2,
    momentum_mev,
    pv_mev,
)
from engine.physics.materials import Material

MODELS = ("moliere", "born")
FIT_MEV = np.arange(5.0, 251.0)
HC_MEV_FM = 197.3269804
BOHR_RADIUS_FM = 52917.721
RUTHERFORD_MEV2_CM2_MOL = (
    4.0 * np.pi * AVOGADRO_PER_MOL * (CLASSICAL_ELECTRON_RADIUS_CM * ELECTRON_MASS_MEV) ** 2
)
DATA = Path(__file__).parent / "data" / "moliere_mixture.npz"
LARGEST_K, N_K = 12.0, 1024  # of the numerical transforms, in units of 1/√q


@dataclass(frozen=True)
class ScatteringCoefficients:
    """What a material contributes: χ_c² = strength · g/cm² / (pv)², and its screening.

    The effective ln χ_a², with the electrons' part subtracted, is log_constant + log_slope ·
    ln β²γ² − ln (pc)², energies in MeV.
    """

    strength_mev2_rad2_cm2_g: float
    log_constant: float
    log_slope: float


def scattering_coefficients(material: Material, model: str = "moliere") -> ScatteringCoefficients:
    """Strength of the nuclei, and a least-squares fit to ``effective_log`` over 5 to 250 MeV.

    The fit is off by up to 0.05 in water and 0.09 in bone above 20 MeV (0.5 at 5 MeV), which
    changes the width at the end of range by less than 0.3 %.
    """
    values = effective_log(FIT_MEV, material, model)
    slope, constant = np.polyfit(_log_beta2_gamma2(FIT_MEV), values, 1)
    fractions, z, a = material.per_element()
    strength = RUTHERFORD_MEV2_CM2_MOL * float(np.sum(fractions * z * z / a))
    return ScatteringCoefficients(strength, float(constant), float(slope))


def effective_log(energy_mev: np.ndarray, material: Material, model: str = "moliere") -> np.ndarray:
    """ln of (pc χ_a)² in MeV² rad², mean over nuclei by Z², less the electrons' part; (n,).

    "moliere" has Molière's screening angle, and electrons after Fano, Phys. Rev. 93 (1954) 117,
    for heavy particles as in Gottschalk et al., Nucl. Instrum. Methods B 74 (1993) 467. "born" has
    the screening of the small-angle first Born approximation, and nuclei alone.
    """
    energy = np.asarray(energy_mev, dtype=np.float64)
    fractions, z, a = material.per_element()
    nuclei, electrons = fractions * z * z / a, fractions * z / a
    log_screening = np.log(_screening_mev2(energy, z, model)) @ nuclei / nuclei.sum()
    if model == "born":
        return log_screening
    inelastic = np.where(z == 1, 3.6, 5.8)
    by_element = np.log(1130.0 * z ** (-4.0 / 3.0)) + inelastic
    speed = _log_beta2_gamma2(energy) - 0.5 * beta2(energy)
    fano = np.maximum(by_element + speed[:, None], 0.0)
    return log_screening - fano @ electrons / nuclei.sum()


def elastic_cross_section_per_cm(
    energy_mev: Numbers, material: Material, model: str = "moliere"
) -> Numbers:
    """Macroscopic elastic cross section Σ_s = Σ χ_c²'/χ_a²; (n,) or a number.

    Electrons count as in Bethe (1953), Z(Z + 1) for Z², with "moliere"; "born" has nuclei alone.
    In water Molière's is the larger above 60 MeV, by up to 6 %, for its electrons outweigh its
    stronger screening, and the smaller below. Σ_tr is the larger at every energy.
    """
    strength, screening = _by_element(energy_mev, material, model)
    return _as_given(energy_mev, np.sum(strength / screening, axis=1))


def transport_cross_section_per_cm(
    energy_mev: Numbers, material: Material, model: str, theta_max_rad: float
) -> Numbers:
    """Σ_tr = ∫ (1 − µ) dΣ_s up to an angle in space: variance per plane and length.

    (n,) or a number. ``theta_max_rad=2`` is the small-angle form of all angles (1 − µ = θ²/2). It
    includes the tail: 1.6 times what describes a Gaussian core.
    """
    if not theta_max_rad > 0.0:
        raise ValueError(f"theta_max_rad={theta_max_rad} must be positive; 2 means all angles.")
    strength, screening = _by_element(energy_mev, material, model)
    ratio = theta_max_rad**2 / screening
    by_element = 0.5 * strength * (np.log1p(ratio) - ratio / (1.0 + ratio))
    return _as_given(energy_mev, np.sum(by_element, axis=1))


def lever_tables(n: int, h_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Means of w² and of w² ln w² (w in mm) over cells d h … (d + 1) h away, each (n,)."""
    if n < 1 or not h_mm > 0.0:
        raise ValueError(f"n={n} cells of h_mm={h_mm} must be positive.")
    edges = h_mm * np.arange(n + 1.0)
    cube = edges**3 / 3.0
    log_edges = np.log(np.maximum(edges, 1e-300))
    with_log = cube * (2.0 * log_edges - 2.0 / 3.0)
    return np.diff(cube) / h_mm, np.diff(with_log) / h_mm


@lru_cache
def mixture_table(n_gaussians: int = 2) -> np.ndarray:
    """What ``mixture`` looks up, from ``scripts/build_moliere_table.py``; read-only.

    (n_nodes, 2, 2 n_gaussians): values and slopes of the weights, then of the variances over q,
    narrowest first, at b = FIRST_B + i B_STEP (4 … 20). Against ``exact_density`` within six σ of
    the core, for b from 8.5 up: 0.6 % of the maximum with two Gaussians, 0.05 % with three, and
    0.15 % and 0.02 % once a beam as wide as the core is convolved.
    """
    if n_gaussians not in (2, 3):
        raise ValueError(f"n_gaussians={n_gaussians} has no table; choose 2 or 3.")
    with np.load(DATA) as data:
        table = np.ascontiguousarray(data[f"gaussians_{n_gaussians}"])
    table.flags.writeable = False
    return table


def characteristic_function(k: np.ndarray, b: float) -> np.ndarray:
    """f(k) of the shape b, k in units of 1/√q.

    As if all scattering happened at one distance: x K₁(x) then replaces the logarithm, whose
    exponent would turn around at large k. From b = 7 up the density changes by less than 0.1 %.
    """
    collisions = np.exp(b - EXPONENT)
    x = np.maximum(k, 1e-12) / np.sqrt(collisions)
    return np.exp(-collisions * (1.0 - x * k1(x)))


def exact_density(radius: np.ndarray, b: float, beam_variance: float = 0.0) -> np.ndarray:
    """Density per area at radii up to 30 √q, (n,); lengths in √q, the beam's variance per axis."""
    k, weight = _nodes(b, beam_variance)
    return j0(np.outer(radius, k)) @ (weight * k) / (2.0 * np.pi)


def exact_share_beyond(radius: np.ndarray, b: float, beam_variance: float = 0.0) -> np.ndarray:
    """Share of the protons beyond radii up to 30 √q, (n,); units as in ``exact_density``."""
    k, weight = _nodes(b, beam_variance)
    return 1.0 - radius * (j1(np.outer(radius, k)) @ weight)


def _nodes(b: float, beam_variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss's nodes in k, and their weights times the characteristic function, (N_K,)."""
    x, weight = _gauss()
    k = 0.5 * LARGEST_K * (x + 1.0)
    f = characteristic_function(k, b) * np.exp(-0.5 * beam_variance * k * k)
    return k, 0.5 * LARGEST_K * weight * f


@lru_cache
def _gauss() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(N_K)


def _by_element(
    energy_mev: Numbers, material: Material, model: str
) -> tuple[np.ndarray, np.ndarray]:
    """χ_c²' in rad²/cm and χ_a² in rad², each (n_energies, n_elements)."""
    energy = np.atleast_1d(np.asarray(energy_mev, dtype=np.float64))
    if not np.all(energy > 0.0):
        raise ValueError(f"energy_mev={energy_mev!r} must be positive.")
    fractions, z, a = material.per_element()
    screening = _screening_mev2(energy, z, model) / momentum_mev(energy)[:, None] ** 2
    charges = z * (z + 1.0) if model == "moliere" else z * z
    per_g = RUTHERFORD_MEV2_CM2_MOL * fractions * charges / a
    return material.density_g_cm3 * per_g / pv_mev(energy)[:, None] ** 2, screening


def _screening_mev2(energy_mev: np.ndarray, z: np.ndarray, model: str) -> np.ndarray:
    """(pc χ_a)² in MeV² rad², (n_energies, n_elements); a is the Thomas–Fermi radius.

    Born: an exponentially screened (Yukawa) atom scatters by θ²/(θ² + χ_a²)² with χ_a = ħ/(p a)
    exactly. Molière's 1.13 fits the Thomas–Fermi atom; his 3.76 goes beyond Born. Scott, Rev. Mod.
    Phys. 35 (1963) 231.
    """
    if model not in MODELS:
        raise ValueError(f'model={model!r} is unknown; choose "moliere" or "born".')
    yukawa = (HC_MEV_FM / (0.885 * BOHR_RADIUS_FM) * z ** (1.0 / 3.0)) ** 2
    if model == "born":
        return np.broadcast_to(yukawa, (energy_mev.size, z.size))
    return yukawa * (1.13 + 3.76 * (FINE_STRUCTURE * z) ** 2 / beta2(energy_mev)[:, None])


def _log_beta2_gamma2(energy_mev: np.ndarray) -> np.ndarray:
    b2 = beta2(energy_mev)
    return np.log(b2 / (1.0 - b2))


def _as_given(energy_mev: Numbers, values: np.ndarray) -> Numbers:
    return float(values[0]) if np.ndim(energy_mev) == 0 else values
