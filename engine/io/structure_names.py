"""Local structure names to names after TG-263, by patterns: one's own first, then the package's.

What no pattern matches is handed back, not guessed. Source of the names: Mayo et al., IJROBP 100
(2018) 1057, where targets carry their dose in cGy (PTV_7000) and helpers of planning begin with z.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from engine.patient.patient import Role

Patterns = Mapping[str, Mapping[str, list[str]] | list[str]]  # by section, as in the YAML file

SECTIONS: dict[str, Role | None] = {
    "leave_out": None,
    "external": "external",
    "targets": "target",
    "paired": "organ",
    "organs": "organ",
    "support": "support",
    "keep": None,
}
LISTS = ("leave_out", "external", "keep")  # sections of patterns alone
EXTERNAL = "External"
SIDES = {
    "l": "L", "lt": "L", "le": "L", "left": "L", "li": "L", "links": "L",
    "r": "R", "rt": "R", "ri": "R", "right": "R", "re": "R", "rechts": "R",
}  # fmt: skip
DOSES_GY = (1.0, 100.0)  # what a number in a target's name may mean
_DOSED = re.compile(r"(ptv|ctv|gtv|itv)([pn]?) ?(\d+(?:\.\d+)?) ?(c?gy)?")
_TG263_DOSE = re.compile(r"(?:PTV|CTV|GTV|ITV)[pn]?_(\d{3,5})")


@dataclass(frozen=True)
class Named:
    """A TG-263 name; ``role`` is None where only the file that it comes from can say it."""

    name: str
    role: Role | None


@dataclass(frozen=True)
class MappedNames:
    """What became of local names."""

    named: Mapping[str, Named]
    left_out: tuple[str, ...]  # by a pattern
    unmatched: tuple[str, ...]


def mapped(names: Iterable[str], own: str | Path | Patterns | None = None) -> MappedNames:
    """TG-263 names of local ones, after one's own patterns (a YAML file, or its content) and ours.

    Two local names for one structure are refused. Where one's own patterns chose one of them, the
    other counts as unmatched.
    """
    own_rules = () if own is None else _rules(_content(own), "names")
    named: dict[str, Named] = {}
    chosen: dict[str, str] = {}  # TG-263 name by one's own patterns: local name
    left_out, unmatched = [], []
    for name in names:
        found = _found(name, own_rules)
        is_own = found is not None
        found = found or _dosed_target(name) or _found(name, _our_rules())
        if found is None:
            unmatched.append(name)
        elif found.name == "":
            left_out.append(name)
        elif name in named:
            raise ValueError(
                f"two structures are both named {name!r}; rename one where they were drawn."
            )
        else:
            if is_own:
                _refuse_second(chosen.get(found.name), name, found.name)
                chosen[found.name] = name
            named[name] = found
    for name in [n for n, found in named.items() if chosen.get(found.name, n) != n]:
        del named[name]
        unmatched.append(name)
    first: dict[str, str] = {}
    for name, found in named.items():
        _refuse_second(first.setdefault(found.name, name), name, found.name)
    return MappedNames(named, tuple(left_out), tuple(unmatched))


def dose_in_name_gy(name: str) -> float | None:
    """The dose that a TG-263 target name holds, in Gy: 70.0 of PTV_7000."""
    match = _TG263_DOSE.fullmatch(name)
    return int(match[1]) / 100.0 if match else None


_Rule = tuple[str, str, re.Pattern]  # section, TG-263 name, pattern
_LEFT_OUT = Named("", None)


def _found(name: str, rules: Iterable[_Rule]) -> Named | None:
    """What the first matching rule makes of a name; ``_LEFT_OUT``, or None without any."""
    plain = _plain(name)
    base, side = _without_side(plain)
    for section, tg263, pattern in rules:
        if section == "paired":
            if side and pattern.fullmatch(base):
                return Named(f"{tg263}_{side}", SECTIONS[section])
        elif pattern.fullmatch(plain) or pattern.fullmatch(name):
            if section == "leave_out":
                return _LEFT_OUT
            return Named(name if section == "keep" else tg263, SECTIONS[section])
    return None


def _plain(name: str) -> str:
    """Small letters, words apart by one blank: of SpinalCord and Spinal_cord, spinal cord."""
    words = re.sub(r"(?<=[a-zäöüß])(?=[A-Z])", " ", name)
    return re.sub(r"[\s_.\-]+", " ", words).strip().lower()


def _without_side(plain: str) -> tuple[str, str]:
    """A name without the side before or after it, and the side: L, R or none."""
    words = plain.split(" ")
    if len(words) > 1 and words[-1] in SIDES:
        return " ".join(words[:-1]), SIDES[words[-1]]
    if len(words) > 1 and words[0] in SIDES:
        return " ".join(words[1:]), SIDES[words[0]]
    return plain, ""


def _dosed_target(name: str) -> Named | None:
    """PTV70, PTV_63.0 Gy and PTV_5600 after their dose; PTV1 and PTV2 are numbers, not doses."""
    match = _DOSED.fullmatch(re.sub(r"[\s_\-]+", " ", name).strip().lower())
    if match is None:
        return None
    kind, part, digits, unit = match.groups()
    value = float(digits)
    if unit is None and 1.0 <= value < 10.0 and value.is_integer():
        return Named(f"{kind.upper()}{part}{digits}", "target")
    dose_gy = value / 100.0 if unit == "cgy" or (unit is None and value >= 1000.0) else value
    if not DOSES_GY[0] <= dose_gy <= DOSES_GY[1]:
        return None
    return Named(f"{kind.upper()}{part}_{round(100 * dose_gy):04d}", "target")


def _refuse_second(other: str | None, name: str, tg263: str) -> None:
    if other not in (None, name):
        raise ValueError(
            f"structures {other!r} and {name!r} are both {tg263} by their names; leave one out by "
            f"a file of your own (names=FILE.yaml with `leave_out: ['{re.escape(name)}']`)."
        )


@cache
def _our_rules() -> tuple[_Rule, ...]:
    path = files("engine.io").joinpath("data", "structure_names.yaml")
    return _rules(yaml.safe_load(path.read_text(encoding="utf-8")), "structure_names.yaml")


def _content(own: str | Path | Patterns) -> Patterns:
    if isinstance(own, Mapping):
        return own
    path = Path(own).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"names={str(own)!r} does not exist; give a YAML file of patterns.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"names={str(own)!r} is no readable YAML ({error}).") from error


def _rules(content: Patterns, where: str) -> tuple[_Rule, ...]:
    if not isinstance(content, Mapping) or not set(content) <= set(SECTIONS):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else content
        raise ValueError(f"{where} has {found}; its sections may be {', '.join(SECTIONS)}.")
    rules = []
    for section, entries in content.items():
        if section in LISTS:
            entries = {EXTERNAL if section == "external" else "": entries}
        if not isinstance(entries, Mapping):
            raise ValueError(
                f"{section} of {where} must give lists of patterns by name, as `Brainstem: [...]`."
            )
        for tg263, patterns in entries.items():
            rules += [(section, tg263, _compiled(p, where)) for p in _listed(patterns, where)]
    return tuple(rules)


def _listed(patterns, where: str) -> list:
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ValueError(f"{where} has {patterns!r} where a list of patterns is needed.")
    return list(patterns)


def _compiled(pattern, where: str) -> re.Pattern:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{where} has the pattern {pattern!r}, which is no regular expression ({error})."
        ) from None
