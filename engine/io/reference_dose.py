"""Doses that another engine computed, handed over for comparison: NAME.npz beside NAME.json.

NAME.npz, axes (z, y, x): ``dose`` float32, Gy per primary particle times the spots' weights;
``density_g_cm3`` float32; ``hu`` int16, or ``material`` uint8, an index into ``materials`` of the
metadata; optionally ``sem``, the standard error of ``dose``. Wider types of the same kind are
taken too.

NAME.json: ``grid`` {``spacing_mm``, ``origin_mm``: [z, y, x], the origin being the center of voxel
(0, 0, 0)}; ``particle``; ``spots``, a list of {``energy_mev``, ``energy_std_mev``, ``position_mm``
[x, y, z], ``direction`` [x, y, z] unit vector, ``sigma_mm``, ``angle_std_rad``, ``correlation``,
``weight``}; ``nuclear_interactions``; ``scored``, "dose to medium" or "dose to water";
``i_water_ev``; ``materials``, a list of {``name``, ``by_weight``, optionally ``i_ev``}; ``source``.
"""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.geometry.single_spots import SingleSpot
from engine.machine.single_spots import SpotKind
from engine.patient.ct import DEFAULT_CALIBRATION, Calibration
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient, Structure
from engine.physics.materials import LIMITS_I_WATER_EV, Material

SCORED = ("dose to medium", "dose to water")
KEYS = ("grid", "particle", "spots", "nuclear_interactions", "scored", "i_water_ev", "source")
PHASE_SPACE = ("energy_mev", "energy_std_mev", "sigma_mm", "angle_std_rad", "correlation")
UNIT_WITHIN = 1e-4  # of a direction's length
GEANT4_FROM_EV = 77.0


@dataclass(frozen=True, eq=False)
class ReferenceDose:
    """A dose with all that is needed to compute it again. Volumes are (nz, ny, nx).

    ``hu`` is None where ``material`` says what each voxel is made of, and the other way round.
    """

    name: str
    grid: Grid
    dose_gy: np.ndarray  # float32, of all spots with their weights
    sem_gy: np.ndarray | None
    density_g_cm3: np.ndarray  # float32
    hu: np.ndarray | None
    material: np.ndarray | None  # uint8, index into materials
    materials: tuple[Material, ...]
    spots: tuple[SingleSpot, ...]
    nuclear_interactions: bool
    scored: str
    i_water_ev: float
    source: str

    def medium(self, calibration: Calibration = DEFAULT_CALIBRATION) -> KnownMedium:
        """The voxels as they were computed: the density given, and the composition given or, by
        a calibration, that of the CT numbers.

        Materials without an excitation energy of their own have an additive one. Water of 77 eV
        or more is Geant4's, whose compounds are made of elemental values, oxygen at 95 eV; below,
        the values for condensed compounds of ICRU 37 are taken, oxygen at 106 eV, as they give
        water its 75 eV. In soft tissue the two differ by 0.7 % in range.
        """
        given = self.material is not None
        materials = self.materials if given else calibration.materials
        if self.i_water_ev >= GEANT4_FROM_EV:
            materials = tuple(m if m.i_ev is not None else m.elemental() for m in materials)
        return KnownMedium(
            self.density_g_cm3,
            self.material if given else calibration.composition(self.hu),
            materials,
            self.i_water_ev,
            calibration.energy_mev,
        )

    def patient(self) -> Patient:
        """The volume as a patient: its whole box is the external, for air takes dose too.

        The target, which a patient needs, is where the dose is at least half its maximum.
        """
        box = np.ones(self.grid.shape, dtype=bool)
        high = self.dose_gy >= 0.5 * self.dose_gy.max()
        hu = np.zeros(self.grid.shape) if self.hu is None else self.hu
        structures = [Structure("External", box, "external"), Structure("High", high, "target")]
        return Patient(
            self.name, self.grid, hu.astype(np.float32), {s.name: s for s in structures},
            {"High": 1.0}, 1, source=f"reference:{self.name}",
        )  # fmt: skip


def read_reference_dose(path: str | Path) -> ReferenceDose:
    """Read NAME.npz and NAME.json; ``path`` is the first. Anything malformed is refused."""
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise ValueError(f"reference={str(path)!r} must be the path of NAME.npz.")
    arrays, metadata = _arrays(path), _metadata(path.with_suffix(".json"))
    where = f"of {path.with_suffix('.json').name}"
    particle = metadata["particle"]
    if particle == "carbon":
        raise ValueError(f"particle='carbon' {where} cannot be compared yet; 'proton' can.")
    if particle != "proton":
        raise ValueError(f"particle={particle!r} {where} is unknown; 'proton' can be compared.")
    volumes = _volumes(path, arrays)
    materials = _materials(metadata.get("materials"), where)
    _check_material(volumes["material"], materials, where)
    grid = _grid(metadata["grid"], volumes["dose"].shape, where)
    return ReferenceDose(
        name=path.stem,
        grid=grid,
        dose_gy=volumes["dose"],
        sem_gy=volumes["sem"],
        density_g_cm3=volumes["density_g_cm3"],
        hu=volumes["hu"],
        material=volumes["material"],
        materials=materials,
        spots=_spots(metadata["spots"], grid, where),
        nuclear_interactions=_choice(metadata, "nuclear_interactions", (True, False), where),
        scored=_choice(metadata, "scored", SCORED, where),
        i_water_ev=_number(metadata, "i_water_ev", f"{where} (eV)", LIMITS_I_WATER_EV),
        source=str(metadata["source"]),
    )


def write_reference_dose(reference: ReferenceDose, path: str | Path) -> None:
    """Write NAME.npz and NAME.json, for judging elsewhere a dose of ours."""
    path = Path(path)
    volumes = {
        "dose": reference.dose_gy, "sem": reference.sem_gy,
        "density_g_cm3": reference.density_g_cm3, "hu": reference.hu,
        "material": reference.material,
    }  # fmt: skip
    np.savez_compressed(path, **{n: a for n, a in volumes.items() if a is not None})
    metadata = {
        "grid": {"spacing_mm": reference.grid.spacing_mm, "origin_mm": reference.grid.origin_mm},
        "particle": "proton",
        "spots": [
            {**asdict(s.kind), "position_mm": s.position_mm, "direction": s.direction,
             "weight": s.weight}
            for s in reference.spots
        ],
        "nuclear_interactions": reference.nuclear_interactions,
        "scored": reference.scored,
        "i_water_ev": reference.i_water_ev,
        "source": reference.source,
    }  # fmt: skip
    if reference.materials:
        metadata["materials"] = [
            {"name": m.name, "by_weight": m.mass_fractions}
            | ({} if m.i_ev is None else {"i_ev": m.i_ev})
            for m in reference.materials
        ]
    path.with_suffix(".json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"reference={str(path)!r} does not exist; check the path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"reference={str(path)!r} is no readable npz ({error}); it may be truncated, or hold "
            "objects instead of arrays."
        ) from error
    except (AttributeError, TypeError):  # a bare array, saved under the wrong ending
        raise ValueError(f"reference={str(path)!r} is no npz archive of named arrays.") from None


def _metadata(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist; a reference is two files, NAME.npz and NAME.json."
        )
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is no readable JSON ({error}).") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{str(path)!r} holds a {type(metadata).__name__}; an object is needed.")
    _need(metadata, KEYS, f"of {path.name}")
    return metadata


def _volumes(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray | None]:
    """The arrays by name, None where left out; same shape, right kind, finite."""
    composition = "material" if "material" in arrays else "hu"
    missing = [n for n in ("dose", "density_g_cm3", composition) if n not in arrays]
    if missing:
        raise ValueError(f"{path.name} lacks {missing}; it holds {sorted(arrays)}.")
    shape = arrays["dose"].shape
    kinds = {"dose": "f", "sem": "f", "density_g_cm3": "f", "hu": "i", "material": "u"}
    types = {"f": np.float32, "i": np.int16, "u": np.uint8}
    volumes = dict.fromkeys(kinds)
    for name, kind in kinds.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.ndim != 3 or array.shape != shape:
            raise ValueError(
                f"{name} in {path.name} has shape {array.shape}; a volume (nz, ny, nx) like dose, "
                f"{shape}, is needed."
            )
        volumes[name] = _converted(name, array, kind, types[kind], path)
    if not volumes["dose"].max() > 0.0:
        raise ValueError(f"dose in {path.name} is zero everywhere; there is nothing to compare.")
    return volumes


def _converted(name: str, array: np.ndarray, kind: str, dtype, path: Path) -> np.ndarray:
    accepted = {"f": "f", "i": "i", "u": "ui"}[kind]
    if array.dtype.kind not in accepted or array.dtype.itemsize < np.dtype(dtype).itemsize:
        raise ValueError(
            f"{name} in {path.name} is {array.dtype}; {np.dtype(dtype).name} is needed."
        )
    if kind == "f":
        if not np.all(np.isfinite(array)):
            n_bad = int(np.count_nonzero(~np.isfinite(array)))
            raise ValueError(f"{name} in {path.name} holds {n_bad} NaN or infinite values.")
        if array.min() < 0.0:
            raise ValueError(
                f"{name} in {path.name} falls to {array.min():.3g}; it must be 0 or more."
            )
    else:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(
                f"{name} in {path.name} spans {array.min()} … {array.max()}, beyond "
                f"{np.dtype(dtype).name}."
            )
    return np.ascontiguousarray(array, dtype=dtype)


def _grid(grid, shape: tuple[int, int, int], where: str) -> Grid:
    where = f"in grid {where}"
    if not isinstance(grid, dict):
        raise ValueError(f"grid={grid!r} {where[8:]} must hold spacing_mm and origin_mm.")
    _need(grid, ("spacing_mm", "origin_mm"), where)
    return Grid(
        shape,
        _triple(grid["spacing_mm"], "spacing_mm", "z, y, x", where),
        _triple(grid["origin_mm"], "origin_mm", "z, y, x", where),
    )


def _materials(listed, where: str) -> tuple[Material, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise ValueError(f"materials {where} must be a list of {{name, by_weight}}.")
    materials = []
    for i, entry in enumerate(listed):
        which = f"of materials[{i}] {where}"
        if not isinstance(entry, dict):
            raise ValueError(f"materials[{i}]={entry!r} {where} must be {{name, by_weight}}.")
        _need(entry, ("name", "by_weight"), which)
        if not isinstance(entry["by_weight"], dict):
            raise ValueError(f"by_weight {which} must map elements to mass fractions.")
        try:
            i_ev = _number(entry, "i_ev", which, (1.0, 2000.0)) if "i_ev" in entry else None
            materials.append(Material(str(entry["name"]), 1.0, entry["by_weight"], i_ev))
        except (ValueError, TypeError) as error:
            raise ValueError(f"by_weight {which} is refused: {error}") from None
    return tuple(materials)


def _check_material(material: np.ndarray | None, materials: Sequence[Material], where: str) -> None:
    if material is None:
        return
    if not materials:
        raise ValueError(f"materials {where} is missing, but the npz holds material.")
    if material.max() >= len(materials):
        raise ValueError(
            f"material holds the index {material.max()}, but materials {where} has only "
            f"{len(materials)} entries."
        )


def _spots(listed, grid: Grid, where: str) -> tuple[SingleSpot, ...]:
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"spots {where} is empty or no list; give at least one spot.")
    spots = tuple(_spot(entry, f"of spots[{i}] {where}") for i, entry in enumerate(listed))
    if not sum(s.weight for s in spots) > 0.0:
        raise ValueError(f"every weight of spots {where} is 0; there is nothing to compare.")
    for i, spot in enumerate(spots):
        if not _hits(grid, spot):
            raise ValueError(
                f"the axis of spots[{i}] {where} misses the grid: from {list(spot.position_mm)} mm "
                f"along {list(spot.direction)} (x, y, z; the grid's own numbers are z, y, x)."
            )
    return spots


def _spot(entry, where: str) -> SingleSpot:
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} {where} must be an object with the spot's keys.")
    _need(entry, (*PHASE_SPACE, "position_mm", "direction", "weight"), where)
    direction = np.array(_triple(entry["direction"], "direction", "x, y, z", where))
    length = float(np.linalg.norm(direction))
    if abs(length - 1.0) > UNIT_WITHIN:
        raise ValueError(
            f"direction={entry['direction']} {where} has length {length:.6g}; give a unit vector."
        )
    weight = _number(entry, "weight", where, (0.0, np.inf))
    try:
        kind = SpotKind(*(_number(entry, name, where) for name in PHASE_SPACE))
    except ValueError as error:
        said = str(error)
        raise ValueError(said if where in said else f"{where[3:]}: {said}") from None
    position = _triple(entry["position_mm"], "position_mm", "x, y, z", where)
    return SingleSpot(kind, position, tuple(float(c) for c in direction / length), weight)


def _hits(grid: Grid, spot: SingleSpot) -> bool:
    """Whether the axis, downstream of its start, passes through the grid's box."""
    start, direction = np.array(spot.position_mm), np.array(spot.direction)
    along = np.abs(direction) > 1e-12
    inside = (start >= grid.lower_mm) & (start <= grid.upper_mm)
    if not np.all(inside[~along]):
        return False
    faces = np.stack([grid.lower_mm, grid.upper_mm])[:, along]
    t = np.sort((faces - start[along]) / direction[along], axis=0)
    return bool(t[1].min() > max(t[0].max(), 0.0))


def _need(entry: dict, names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in entry]
    if missing:
        raise ValueError(f"{missing[0]} {where} is missing; needed are {', '.join(names)}.")


def _choice(metadata: dict, name: str, choices: tuple, where: str):
    value = metadata[name]
    if not any(value is c or (isinstance(c, str) and value == c) for c in choices):
        listed = " or ".join(repr(c) if isinstance(c, str) else str(c).lower() for c in choices)
        raise ValueError(f"{name}={value!r} {where} is unknown; choose {listed}.")
    return value


def _number(entry: dict, name: str, where: str, limits=(-np.inf, np.inf)) -> float:
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ValueError(f"{name}={value!r} {where} must be a finite number.")
    if not limits[0] <= value <= limits[1]:
        raise ValueError(f"{name}={value} {where} must lie within {limits[0]:g} … {limits[1]:g}.")
    return float(value)


def _triple(value, name: str, order: str, where: str) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ValueError(f"{name}={value!r} {where} must be three numbers {order}.")
    return tuple(_number({name: v}, name, where) for v in value)
