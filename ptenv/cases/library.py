"""Cases by recipe: from this process's memory, from the disk cache, or built now."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ptenv.cases.build import build_case
from ptenv.cases.case import Case
from ptenv.cases.dose_shaping_build import build_dose_shaping_case
from ptenv.cases.dose_shaping_case import DoseShapingCase
from ptenv.cases.dose_shaping_recipe import DoseShapingRecipe
from ptenv.cases.energy_layer_build import build_energy_layer_case
from ptenv.cases.energy_layer_case import EnergyLayerCase
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.cases.store import CacheWarning, CaseStore, Entry

IN_MEMORY = 96  # cases of this process; the arrays of cached ones are maps of the store's files
IN_MEMORY_BYTES = 4e9  # of influence matrices that were built without the disk cache

AnyRecipe = VoxelMaskRecipe | EnergyLayerRecipe | DoseShapingRecipe
AnyCase = Case | EnergyLayerCase | DoseShapingCase


class Kind(NamedTuple):
    """One kind of case: its recipe, how it is built, and what it is once built."""

    recipe: type
    build: Callable
    case: type


KINDS = {
    kind.recipe.__name__: kind
    for kind in (
        Kind(VoxelMaskRecipe, build_case, Case),
        Kind(EnergyLayerRecipe, build_energy_layer_case, EnergyLayerCase),
        Kind(DoseShapingRecipe, build_dose_shaping_case, DoseShapingCase),
    )
}

_memory: "OrderedDict[str, AnyCase]" = OrderedDict()
_held: dict[str, int] = {}  # bytes of the cases that are not on disk
_stores: dict[str, CaseStore] = {}


def load_case(recipe: AnyRecipe, cache: bool = True) -> AnyCase:
    """The case of a recipe; ``cache=False`` builds it and leaves the disk alone."""
    key = recipe.key()
    if key in _memory:
        _memory.move_to_end(key)
        return _memory[key]
    if cache:
        return _from_store(key, recipe)
    return _remember(_kind(recipe).build(recipe), on_disk=False)


def recalled_case(settings: dict, key: str, kind: str = VoxelMaskRecipe.__name__) -> AnyCase:
    """A case that was named by its recipe and key: what unpickling one does.

    It is read from memory or the disk cache, or built anew; nothing is written to disk.
    """
    if key in _memory:
        return _memory[key]
    entry = _store().read(key)
    if entry is not None:
        return _remember(_opened(KINDS[kind], entry, settings["patient"]))
    recipe = KINDS[kind].recipe(**settings)
    if recipe.key() != key:
        raise ValueError(
            f"case {settings['patient']!r} was pickled with key {key} but has {recipe.key()} now: "
            "its patient, the machine or the version of ptenv changed; start the episode again."
        )
    return load_case(recipe, cache=False)


def forget_cases() -> None:
    """Drop what this process holds of cases; the disk cache stays."""
    _memory.clear()
    _held.clear()
    _stores.clear()


def _from_store(key: str, recipe: AnyRecipe) -> AnyCase:
    store, kind = _store(), _kind(recipe)
    entry = store.read(key)
    if entry is not None:
        return _remember(_opened(kind, entry, recipe.patient))
    store.require_writable()  # before minutes are spent on building
    case = kind.build(recipe)
    try:
        store.write(key, *_without_path(case))
    except OSError as error:
        message = f"case {case.case_id} was not written to the cache {store.folder} ({error})."
        warnings.warn(message, CacheWarning, stacklevel=3)
    entry = store.read(key)
    if entry is None:  # a full disk, or evicted at once
        return _remember(case, on_disk=False)
    return _remember(_opened(kind, entry, recipe.patient))


def _without_path(case: AnyCase) -> Entry:
    """What the store keeps: a folder of DICOM files is often named after a person."""
    description, arrays = case.as_entry()
    return _of_patient(description, case.case_id), arrays


def _opened(kind: Kind, entry: Entry, patient: str) -> AnyCase:
    """A stored case, whose patient is where it is asked for now."""
    description, arrays = entry
    return kind.case.from_entry(_of_patient(description, patient), arrays)


def _of_patient(description: dict, patient: str) -> dict:
    return {**description, "recipe": {**description["recipe"], "patient": patient}}


def _kind(recipe: AnyRecipe) -> Kind:
    return KINDS[type(recipe).__name__]


def _remember(case: AnyCase, on_disk: bool = True) -> AnyCase:
    _memory[case.key] = case
    _held[case.key] = 0 if on_disk else case.nbytes
    while len(_memory) > 1 and (len(_memory) > IN_MEMORY or sum(_held.values()) > IN_MEMORY_BYTES):
        oldest, _ = _memory.popitem(last=False)
        del _held[oldest]
    return case


def _store() -> CaseStore:
    store = CaseStore()
    return _stores.setdefault(str(store.folder), store)
