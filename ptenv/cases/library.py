"""Cases by recipe: from this process's memory, from the disk cache, or built now."""

from collections import OrderedDict

from ptenv.cases.build import build_case
from ptenv.cases.case import Case
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.cases.store import CaseStore

IN_MEMORY = 96  # cases of this process; their arrays are maps of the store's files

_memory: "OrderedDict[str, Case]" = OrderedDict()
_stores: dict[str, CaseStore] = {}


def load_case(recipe: VoxelMaskRecipe, cache: bool = True) -> Case:
    """The case of a recipe; ``cache=False`` builds it and leaves the disk alone."""
    key = recipe.key()
    if key in _memory:
        _memory.move_to_end(key)
        return _memory[key]
    case = _from_store(key, recipe) if cache else build_case(recipe)
    _memory[key] = case
    while len(_memory) > IN_MEMORY:
        _memory.popitem(last=False)
    return case


def _from_store(key: str, recipe: VoxelMaskRecipe) -> Case:
    store = _store()
    entry = store.read(key)
    if entry is None:
        store.write(key, *build_case(recipe).as_entry())
        entry = store.read(key)
    if entry is None:  # evicted or damaged at once: a full disk
        return build_case(recipe)
    return Case.from_entry(*entry)


def _store() -> CaseStore:
    store = CaseStore()
    return _stores.setdefault(str(store.folder), store)
