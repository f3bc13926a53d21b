"""Machines by name: those that ship with the package, or a file of one's own."""

from functools import lru_cache
from pathlib import Path

from engine.machine.ion import IonMachine
from engine.machine.photon import PhotonMachine, generic_photon
from engine.machine.tables import read_machine

DATA = Path(__file__).parent / "data"


COMPUTED = {"generic_photon": generic_photon}  # machines that are formulas rather than files


def available_machines() -> list[str]:
    """Names of the machines that ship with the package."""
    return sorted([*COMPUTED, *(path.stem for path in DATA.glob("*.npz"))])


def load_machine(name: str | Path) -> IonMachine | PhotonMachine:
    """A machine by name ("generic_proton", "generic_carbon", "generic_photon") or by the path of
    its ``.npz``; read once a process."""
    if str(name) in COMPUTED:
        return COMPUTED[str(name)]()
    path = Path(name)
    if path.suffix != ".npz":
        path = DATA / f"{name}.npz"
        if str(name) not in available_machines():
            raise ValueError(
                f"name={str(name)!r} is no machine here; choose from {available_machines()}, or "
                "give the path of an .npz file."
            )
    if not path.is_file():
        raise FileNotFoundError(f"name={str(name)!r}: there is no file {path}; check the path.")
    return _read(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, modified_ns: int) -> IonMachine:
    machine = read_machine(path)
    for array in vars(machine).values():
        if hasattr(array, "setflags"):
            array.setflags(write=False)  # shared by everyone in the process
    return machine
