"""Build icru63.npz from ICRU 63 tables: `python -m scripts.build_nuclear_data FOLDER [PATH]`.

FOLDER is the ``Materials`` folder of MCsquare, as in the package opentps-core
(``opentps/core/processing/doseCalculation/protons/MCsquare/Materials``). The same file comes out
every time. What the tables leave open, and how it is closed here:

- The spectra have 40 even steps up to the incident energy, so at 250 MeV the first step, 6.25 MeV,
  holds the whole evaporation peak. Above it the spectrum is taken as it stands, linear between
  rows; the first step is flat and gets what the multiplicity demands beyond the rest. The mean
  density that results fits that of the first row, while scaling the spectrum up to the
  multiplicity instead would add 5 to 10 % to the energy of carbon's and oxygen's secondaries.
  (Below some 15 MeV copper, lead, tantalum and exothermic targets have too little spectrum for
  their multiplicity; there the first step gets too much.)
- Angles of secondaries: dσ/dΩdE is linear in the angle between its 13 nodes.
- Quantiles of secondaries are joined linearly when they are drawn from, which a long tail in an
  end step would spoil: the end is pulled in until the mean of that step is right.
- Elastic dσ/dΩ starts at 5° in steps of 5°: a monotone cubic in ln σ over ln sin(θ/2), where
  Rutherford scattering is a straight line. The file's own totals join the nodes linearly in cos θ
  from 5° on, which makes Rutherford scattering 1.9 times too large; they are not used. Where
  diffraction swings faster than the nodes (lead and tantalum from 100 MeV), the total is uncertain
  by some 50 %.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

from engine.physics.nuclear_tables import (
    COSINE_LEVELS,
    DATA,
    ENERGY_MEV,
    FORMAT,
    PARTICLES,
    SHARE_LEVELS,
)

# Left out: titanium is a copy of calcium there, and tungsten one of tantalum.
FOLDERS = {
    "C": "carbon",
    "N": "nitrogen",
    "O": "oxygen",
    "Al": "aluminium",
    "Si": "silicon",
    "P": "phosphorus",
    "Ca": "calcium",
    "Fe": "iron",
    "Cu": "copper",
    "Ta": "tantalum",
    "Pb": "lead",
}
NODE_DEG = np.array([0, 10, 20, 30, 40, 50, 60, 70, 90, 110, 130, 150, 180.0])
N_ENERGY, N_GROUP, N_COSINE, N_ELASTIC = 64, 16, 16, 128
FINE = 32  # steps within a step, to find its mean
LAST_DIGIT_B_SR = 1e-6  # of the elastic tables, which print less as zero


def read_blocks(path: Path) -> list[dict]:
    """One dictionary per incident energy: numbers by keyword, tables as "rows" or "rows proton"."""
    blocks: list[dict] = []
    for line in path.read_text("utf-8").splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "Energy":
            blocks.append({"energy_mev": float(words[1])})
        elif words[0] == "Differential_cross_section":
            rows = blocks[-1].setdefault(" ".join(["rows", *words[1:2]]), [])
        elif words[0][0].isdigit():
            rows.append([float(word) for word in words])
        else:
            blocks[-1][" ".join(words[:-1])] = float(words[-1])
    if not blocks:
        raise ValueError(f"{path} holds no line that starts with Energy; is it a table of ICRU 63?")
    return blocks


def read_mass_u(path: Path) -> float:
    """Atomic mass from a Material_Properties.dat."""
    lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    return float(next(words[1] for words in lines if words[0] == "Atomic_Weight"))


def spectrum(rows: np.ndarray, total_b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (n + 1,) of energy, and values (n, 14) left and right in every step between them.

    Columns are dσ/dE and then dσ/dΩdE at the 13 angles. The first step gets what is left of
    ``total_b``, in the directions of the first row that is not zero.
    """
    energy, values = rows[:, 0], rows[:, 1:]
    left, right = values[:-1].copy(), values[1:].copy()
    rest_b = 0.5 * np.sum((values[1:-1, 0] + values[2:, 0]) * np.diff(energy[1:]))
    some = values[values[:, 0] > 0]
    directions = some[0] / some[0, 0] if len(some) else np.ones(values.shape[1])
    density = max(total_b - rest_b, 0.0) / (energy[1] - energy[0])
    left[0] = right[0] = density * directions
    return energy, left, right


def coarsen(fine: np.ndarray, n: int) -> np.ndarray:
    """Quantiles (n + 1,) out of (FINE n + 1,); the end steps keep their mean."""
    quantiles = fine[::FINE].copy()
    means = (0.5 * (fine[1:] + fine[:-1])).reshape(n, FINE).mean(axis=1)
    first, last = quantiles[0], quantiles[-1]
    quantiles[0] = np.clip(2.0 * means[0] - quantiles[1], first, quantiles[1])
    quantiles[-1] = np.clip(2.0 * means[-1] - quantiles[-2], quantiles[-2], last)
    return quantiles


def energy_quantiles(edges: np.ndarray, left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """Energies (n + 1,) at equal steps of probability of a piecewise linear density."""
    width = np.diff(edges)
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (left + right) * width)])
    targets = np.linspace(0.0, cumulative[-1], n + 1)
    last = int(np.flatnonzero(left + right)[-1])  # no particle beyond the end of the spectrum
    step = np.clip(np.searchsorted(cumulative, targets, "right") - 1, 0, last)
    mass = np.minimum(targets, cumulative[step + 1]) - cumulative[step]
    a, slope = left[step], (right[step] - left[step]) / width[step]
    root = a + np.sqrt(np.maximum(a * a + 2.0 * slope * mass, 0.0))
    return edges[step] + np.divide(2.0 * mass, root, out=np.zeros(n + 1), where=root > 0)


def integrate_between(
    bounds: np.ndarray, edges: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Integrals (n_bounds − 1, n_columns) of piecewise linear columns (n_steps, n_columns)."""
    width = np.diff(edges)
    begin = np.clip(bounds[:-1, None], edges[:-1], edges[1:])
    end = np.clip(bounds[1:, None], edges[:-1], edges[1:])
    middle = (0.5 * (begin + end) - edges[:-1]) / width
    at_middle = left + middle[..., None] * (right - left)
    return np.sum((end - begin)[..., None] * at_middle, axis=1)


def cosine_quantiles(per_sr: np.ndarray, n: int) -> np.ndarray:
    """Cosines (n_groups, n + 1) at equal steps of probability, from densities (n_groups, 13)."""
    angle_deg = np.linspace(180.0, 0.0, 721)  # backwards, so that cosines rise
    angle = np.radians(angle_deg)
    cosine = np.cos(angle)
    probability = np.linspace(0.0, 1.0, FINE * n + 1)
    quantiles = []
    for node in np.where(per_sr.sum(axis=1, keepdims=True) > 0, per_sr, 1.0):
        density = np.interp(angle_deg, NODE_DEG, node) * np.sin(angle)
        steps = 0.5 * (density[1:] + density[:-1])
        cumulative = np.concatenate([[0.0], np.cumsum(steps)])
        fine = np.interp(probability, cumulative / cumulative[-1], cosine)
        quantiles.append(coarsen(fine, n))
    return np.array(quantiles)


def secondary(block: dict, particle: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Multiplicity, energy quantiles (65,) as shares, and cosine quantiles (16, 17)."""
    multiplicity = block.get(f"Multiplicity {particle}", 0.0)
    if multiplicity == 0.0:
        isotropic = np.linspace(-1.0, 1.0, N_COSINE + 1)
        return 0.0, np.zeros(N_ENERGY + 1), np.tile(isotropic, (N_GROUP, 1))
    rows = np.array(block[f"rows {particle}"])
    edges, left, right = spectrum(rows, multiplicity * block["Cross_section"])
    fine = energy_quantiles(edges, left[:, 0], right[:, 0], FINE * N_ENERGY)
    groups = fine[:: FINE * N_ENERGY // N_GROUP]
    per_sr = integrate_between(groups, edges, left[:, 1:], right[:, 1:])
    shares = np.minimum(coarsen(fine, N_ENERGY) / block["energy_mev"], 1.0)
    return multiplicity, shares, cosine_quantiles(per_sr, N_COSINE)


def non_elastic(blocks: list[dict]) -> dict[str, np.ndarray]:
    """All that the reactions of one element need, blocks first."""
    events = [[secondary(block, particle) for particle in PARTICLES] for block in blocks]
    return {
        "block_energy_mev": np.array([block["energy_mev"] for block in blocks]),
        "recoil_share": np.array([block["Energy_fraction_recoils"] for block in blocks]),
        "multiplicity": np.array([[particle[0] for particle in event] for event in events]),
        "energy_share": np.array([[particle[1] for particle in event] for event in events]),
        "cosine": np.array([[particle[2] for particle in event] for event in events]),
    }


def differential_elastic(rows: np.ndarray, versine: np.ndarray) -> np.ndarray:
    """dσ/dΩ in b/sr at 1 − cos θ, between the table's angles."""
    node = np.radians(rows[:, 0])
    log_value = np.log(np.maximum(rows[:, 1], 0.5 * LAST_DIGIT_B_SR))
    log_sine = 0.5 * np.log(0.5 * versine)  # 1 − cos θ = 2 sin²(θ/2)
    nodes = np.log(np.sin(0.5 * node))
    return np.exp(PchipInterpolator(nodes, log_value)(np.clip(log_sine, nodes[0], nodes[-1])))


def elastic_angles(rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross section beyond the first angle, in barn, and quantiles (129,) of 1/(1 − cos θ).

    Probabilities are the squares of even steps: dense at the rare large angles, which carry most
    of the mean of 1 − cos θ.
    """
    inverse = np.geomspace(0.5, 1.0 / (1.0 - np.cos(np.radians(rows[0, 0]))), 8001)
    # dΩ = 2π d(1 − cos θ), and 1/(1 − cos θ) is even where Rutherford rules
    density = 2.0 * np.pi * differential_elastic(rows, 1.0 / inverse) / inverse**2
    steps = 0.5 * (density[1:] + density[:-1]) * np.diff(inverse)
    cumulative = np.concatenate([[0.0], np.cumsum(steps)])
    probability = np.linspace(0.0, 1.0, N_ELASTIC + 1) ** 2
    return float(cumulative[-1]), np.interp(probability, cumulative / cumulative[-1], inverse)


def elastic(blocks: list[dict]) -> dict[str, np.ndarray]:
    """All that elastic scattering off one element needs, blocks first."""
    angles = [elastic_angles(np.array(block["rows"])) for block in blocks]
    return {
        "elastic_block_energy_mev": np.array([block["energy_mev"] for block in blocks]),
        "elastic_block_mb": 1e3 * np.array([total for total, _ in angles]),
        "elastic_inverse_versine": np.array([quantiles for _, quantiles in angles]),
    }


def on_grid(block_energy_mev: np.ndarray, block_mb: np.ndarray) -> np.ndarray:
    """Cross sections on the common grid: none below the first block, flat beyond the last."""
    return np.interp(ENERGY_MEV, block_energy_mev, block_mb, left=0.0)


def stack(arrays: list[np.ndarray]) -> np.ndarray:
    """One array for all elements; the last block fills the rows of those that have fewer."""
    n = max(len(array) for array in arrays)
    return np.array([np.concatenate([a, np.repeat(a[-1:], n - len(a), axis=0)]) for a in arrays])


def build(folder: Path) -> dict[str, np.ndarray]:
    """All that the data file holds."""
    masses, reactions, scatterings, curves = [], [], [], []
    for name in FOLDERS.values():
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"folder={str(folder)!r} has no {name!r}; give MCsquare's Materials folder."
            )
        masses.append(read_mass_u(folder / name / "Material_Properties.dat"))
        blocks = read_blocks(folder / name / "ICRU_Nuclear_inelastic.dat")
        reactions.append(non_elastic(blocks))
        scatterings.append(elastic(read_blocks(folder / name / "ICRU_Nuclear_elastic.dat")))
        curves.append(1e3 * np.array([block["Cross_section"] for block in blocks]))
    scattered = [(s["elastic_block_energy_mev"], s.pop("elastic_block_mb")) for s in scatterings]
    tables = {
        name: stack([element[name] for element in elements])
        for elements in (reactions, scatterings)
        for name in elements[0]
    }
    reacted = zip([r["block_energy_mev"] for r in reactions], curves)
    return {
        "format": np.array(FORMAT),
        "symbol": np.array(list(FOLDERS)),
        "mass_u": np.array(masses),
        "non_elastic_mb": np.array([on_grid(*curve) for curve in reacted], dtype=np.float32),
        "elastic_mb": np.array([on_grid(*curve) for curve in scattered], dtype=np.float32),
        "n_blocks": np.array([len(r["block_energy_mev"]) for r in reactions], dtype=np.uint8),
        "n_elastic_blocks": np.array([len(energy) for energy, _ in scattered], dtype=np.uint8),
        **{name: values.astype(np.float32) for name, values in tables.items()},
        "energy_share": np.round(tables["energy_share"] * SHARE_LEVELS).astype(np.uint16),
        "cosine": np.round(tables["cosine"] * COSINE_LEVELS).astype(np.int16),
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m scripts.build_nuclear_data FOLDER [PATH]")
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else DATA
    np.savez_compressed(path, **build(Path(sys.argv[1])))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
