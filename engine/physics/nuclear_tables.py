"""ICRU 63's nuclear data for protons up to 250 MeV, as plain arrays for a Monte Carlo kernel.

Non-elastic reactions with their secondary protons, deuterons and alphas, and elastic scattering
beyond 5°, on elements from carbon to lead. ``scripts/build_nuclear_data.py`` makes the file from
the tables that MCsquare carries and says how they are read; ``data/NOTICE.md`` names the source.

Elastic angles are those of the center of mass: below the Coulomb barrier (calcium, iron and lead
at 5 MeV) the table is Rutherford's in that frame within 1 %, and by about (1 + 1/A)² larger than
Rutherford's in the laboratory. Coulomb scattering beyond 5° is in it, with its interference; a
kernel that uses this table must end its own Coulomb tail at 5° in the center of mass. Nuclear
scattering below 5° is missing. Hydrogen has no table: proton–proton scattering is in
``engine.physics.nuclear``.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from engine.physics.materials import ELEMENTS

DATA = Path(__file__).parent / "data" / "icru63.npz"
FORMAT = 1
PARTICLES = ("proton", "deuteron", "alpha")
ENERGY_MEV = np.arange(301.0)  # grid of the cross sections; the tables end at 250 MeV
SHARE_LEVELS, COSINE_LEVELS = 65535, 2000  # integers in the file per unit
MAX_MASS_RATIO = 1.5  # to the nearest element that has a table


@dataclass(frozen=True, eq=False)
class NuclearTables:
    """Read-only float32 arrays (counts int64), elements first; particles as ``PARTICLES``.

    Blocks are incident energies; elements with fewer blocks repeat their last. Quantiles run over
    equal steps of probability and want linear interpolation. Cross sections are linear between
    blocks, zero below the first (no threshold law: elastic starts at 1 to 7 MeV) and flat beyond
    the last, which is 250 MeV but for copper's elastic, 150 MeV.

    Particles of an event are drawn independently: only their mean energy, with ``recoil_share``,
    stays below the incident energy. Tritons and ³He are not in the tables.
    """

    symbols: tuple[str, ...]
    mass_u: np.ndarray  # (n_elements,) atomic masses
    energy_mev: np.ndarray  # (n_energies,) 0, 1, … 300
    non_elastic_mb: np.ndarray  # (n_elements, n_energies)
    elastic_mb: np.ndarray  # (n_elements, n_energies) beyond 5° in the center of mass
    n_blocks: np.ndarray  # (n_elements,)
    block_energy_mev: np.ndarray  # (n_elements, n_blocks)
    multiplicity: np.ndarray  # (n_elements, n_blocks, 3)
    energy_share: np.ndarray  # (n_elements, n_blocks, 3, 65) quantiles of E'/E
    cosine: np.ndarray  # (n_elements, n_blocks, 3, 16, 17) quantiles of the laboratory's cos θ,
    # one row for each sixteenth of the particles, slowest first
    recoil_share: np.ndarray  # (n_elements, n_blocks) of E, left on the spot by heavy recoils
    n_elastic_blocks: np.ndarray  # (n_elements,)
    elastic_block_energy_mev: np.ndarray  # (n_elements, n_elastic_blocks)
    # Quantiles of v = 1/(1 − cos θ) in the center of mass, backward first, at the probabilities
    # (k/128)². A kernel joins them linearly at sqrt(random) and has cos θ = 1 − 1/v: linear in v
    # is exact for Rutherford, where linear in cos θ would double the mean of 1 − cos θ.
    elastic_inverse_versine: np.ndarray  # (n_elements, n_elastic_blocks, 129)

    def index_of(self, symbol: str) -> tuple[int, float]:
        """Row of an element, and the factor on its cross sections.

        An element without a table follows the nearest in mass as A^(2/3), the geometric cross
        section, up to a factor of 1.5 in mass. (Coulomb scattering grows as Z² instead: the
        elastic cross section of such an element is rough below 30 MeV.)
        """
        if symbol in self.symbols:
            return self.symbols.index(symbol), 1.0
        if symbol not in ELEMENTS:
            raise ValueError(f"symbol={symbol!r} is no element here; choose from {list(ELEMENTS)}.")
        ratio = ELEMENTS[symbol].a_g_mol / self.mass_u
        row = int(np.argmin(np.abs(np.log(ratio))))
        if max(ratio[row], 1.0 / ratio[row]) > MAX_MASS_RATIO:
            raise ValueError(
                f"symbol={symbol!r} has no nuclear table, and its nearest, {self.symbols[row]}, "
                f"differs by more than a factor of {MAX_MASS_RATIO} in mass; treat it apart."
            )
        return row, float(ratio[row] ** (2.0 / 3.0))


@lru_cache(maxsize=1)
def load_nuclear_tables() -> NuclearTables:
    """The tables that ship with the package, read once a process."""
    with np.load(DATA) as file:
        if int(file["format"]) != FORMAT:
            raise ValueError(
                f"{DATA} has format {file['format']}, this version reads {FORMAT}; rebuild it "
                "with python -m scripts.build_nuclear_data."
            )
        stored = {name: file[name] for name in file.files}
    stored["energy_mev"] = ENERGY_MEV
    stored["energy_share"] = stored["energy_share"] / SHARE_LEVELS
    stored["cosine"] = stored["cosine"] / COSINE_LEVELS
    symbols = tuple(str(symbol) for symbol in stored["symbol"])
    names = [field.name for field in fields(NuclearTables) if field.name != "symbols"]
    return NuclearTables(symbols, **{name: _frozen(stored[name]) for name in names})


def _frozen(values: np.ndarray) -> np.ndarray:
    """A contiguous read-only copy that a kernel can index: float32, or int64 for counts."""
    kind = np.int64 if values.dtype == np.uint8 else np.float32
    array = np.ascontiguousarray(values, dtype=kind)
    array = array if array is not values else array.copy()
    array.setflags(write=False)  # shared by everyone in the process
    return array
