"""Arguments that all environments of cases take, checked alike."""

from collections.abc import Mapping, Sequence


def checked_recipe(recipe_type: type, presets: Mapping, preset: str, overrides, patient: str):
    """A recipe of a preset with a person's overrides; the patient is filled in per case."""
    if preset not in presets:
        raise ValueError(f"preset={preset!r} is unknown; choose from {list(presets)}.")
    if not isinstance(overrides, Mapping | None):
        raise ValueError(f"recipe={overrides!r} must be a mapping such as {{'dose_grid_mm': 3.0}}.")
    settings = {**presets[preset], **(overrides or {})}
    known = sorted(set(recipe_type.__dataclass_fields__) - {"patient"})
    unknown = [name for name in settings if name not in known]
    if unknown:
        hint = " The patient is the argument case." if "patient" in unknown else ""
        raise ValueError(f"recipe has unknown settings {unknown}; known are {known}.{hint}")
    return recipe_type(patient=patient, **settings)


def checked_options(options: Mapping | None, known: Sequence[str]) -> dict:
    """Options of reset, none but the known ones."""
    if not isinstance(options, Mapping | None):
        raise ValueError(f"options={options!r} must be a mapping such as {{{known[-1]!r}: …}}.")
    options = dict(options or {})
    unknown = sorted(set(options) - set(known))
    if unknown:
        named = " and ".join(repr(k) for k in known)
        raise ValueError(f"options={unknown} of reset are unknown; known are {named}.")
    return options


def checked_choice(name: str, value, known: Sequence):
    """One of a few values."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; choose from {list(known)}.")
    return value


def constraint_costs(metrics: Mapping[str, Mapping[str, float]], target: str) -> dict[str, float]:
    """How far cord, brainstem and the hot spot lie above their limits, 0 or more."""
    cord = metrics.get("SpinalCord", {}).get("D0.1cc[Gy]", 0.0)
    brainstem = metrics.get("Brainstem", {}).get("D0.1cc[Gy]", 0.0)
    return {
        "cost_cord": float(max(0.0, cord - 45.0)),
        "cost_brainstem": float(max(0.0, brainstem - 54.0)),
        "cost_hot_spot": float(max(0.0, metrics[target]["D2%[%]"] - 107.0)),
    }
