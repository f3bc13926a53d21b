"""With which ions a case is treated, and what their dose counts for.

Recipes that offer the choice hold the fields of ``Modality``: a machine, a biological model of
it (None: physical dose times a constant RBE), and the prescription of one fraction.
"""

from collections.abc import Sequence
from typing import Protocol

from engine.dose.quantities import Quantity, RbeDose, biological_dose
from engine.machine.ion import IonMachine
from engine.machine.library import available_machines, load_machine
from engine.physics.biology import BiologicalModel
from engine.physics.constant_rbe import ConstantRbe
from engine.physics.lem import Lem1, Tissue, tissue
from engine.physics.mkm import Mkm

PROTONS, PROTON_RBE = "generic_proton", 1.1
BIOLOGIES = ("lem1", "mkm", "constant")
MODALITY_BOUNDS = {"rbe": (0.1, 10.0), "fraction_gy": (0.1, 30.0), "n_fractions": (1, 60)}
MODALITY_COUNTS = ("n_fractions",)
MODALITY_OPTIONAL = ("fraction_gy", "n_fractions")


class Modality(Protocol):
    """Fields of a recipe; ``rbe`` counts where the biology is None or "constant", ``tissue`` (a
    name, or α in 1/Gy, β in 1/Gy², threshold in Gy and nucleus radius in µm) where it is "lem1" or
    "constant"."""

    machine: str
    biology: str | None
    tissue: str | tuple[float, float, float, float]
    rbe: float
    fraction_gy: float | None
    n_fractions: int | None


def check_modality(recipe: Modality) -> None:
    """Refuse unknown machines, models and tissues before a patient is read."""
    known = [name for name in available_machines() if isinstance(load_machine(name), IonMachine)]
    if recipe.machine not in known:
        raise ValueError(f"machine={recipe.machine!r} is unknown here; choose from {known}.")
    if recipe.biology not in (None, *BIOLOGIES):
        raise ValueError(
            f"biology={recipe.biology!r} is unknown; choose from {list(BIOLOGIES)}, or None for "
            "physical dose times rbe."
        )
    if recipe.biology is not None and load_machine(recipe.machine).spectra is None:
        raise ValueError(
            f"biology={recipe.biology!r}: {recipe.machine} has no spectra of its ions; take "
            "generic_carbon, or biology=None."
        )
    if recipe.biology is None and recipe.rbe == PROTON_RBE and recipe.machine != PROTONS:
        raise ValueError(
            f"rbe={recipe.rbe} is that of protons, the machine {recipe.machine}; give its biology "
            "('lem1', 'mkm'), or an rbe of its own (about 3)."
        )
    if recipe.biology == "mkm" and recipe.tissue != "chordoma":
        raise ValueError(f"tissue={recipe.tissue!r} has no place in biology='mkm', of HSG cells.")
    _tissue(recipe.tissue)  # refuses an unknown one


def biology_of(recipe: Modality) -> BiologicalModel | None:
    """The biological model that the engine is given."""
    if recipe.biology is None:
        return None
    if recipe.biology == "mkm":
        return Mkm()
    cells = _tissue(recipe.tissue)
    return Lem1(cells) if recipe.biology == "lem1" else ConstantRbe(recipe.rbe, cells)


def _tissue(named: str | Sequence[float]) -> Tissue:
    """A tissue by name or by its four parameters."""
    if isinstance(named, str):
        return tissue(named)
    try:
        return Tissue("own", *(float(value) for value in named))
    except TypeError as error:
        raise ValueError(
            f"tissue={named!r} must be a name, or (alpha_x_per_gy, beta_x_per_gy2, threshold_gy, "
            "nucleus_radius_um)."
        ) from error


def quantity_of(recipe: Modality, n_fractions: int) -> Quantity:
    """Course dose in Gy (RBE)."""
    model = biology_of(recipe)
    if model is None:
        return RbeDose(n_fractions, recipe.rbe)
    return biological_dose(model, n_fractions)
