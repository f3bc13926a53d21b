"""Sealed seasons: test patients that nobody knows before agents are pledged.

Who holds a season draws a secret and publishes its hash. Agents are pledged by their hashes. Then
the secret is revealed: the patients follow from it, everybody can check that they do, and only
pledged agents count. Procedural patients alone can be sealed.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np

from ptenv.cases.patients import SITES, procedural_id

FORMAT = 1
SEALED_SEEDS = (1_000_000, 2**31)  # beyond all public splits
SECRET_LENGTH = 64  # hexadecimal digits
MOST_PATIENTS = 500


@dataclass(frozen=True)
class Pledge:
    """An agent that was there before the secret was known."""

    name: str
    agent_sha256: str
    at: str


@dataclass(frozen=True)
class Season:
    """What is public of a season; ``secret`` is empty until it is revealed."""

    name: str
    suite: str  # whose tasks are played on the sealed patients
    site: str
    n_patients: int
    commitment: str
    sealed_at: str
    pledges: tuple[Pledge, ...] = ()
    secret: str = ""

    def __post_init__(self):
        if self.site not in SITES:
            raise ValueError(f"site={self.site!r} is unknown; choose from {list(SITES)}.")
        if not 1 <= self.n_patients <= MOST_PATIENTS:
            raise ValueError(f"n_patients={self.n_patients} must lie in 1 … {MOST_PATIENTS}.")

    def pledged(self, name: str, agent_sha256: str) -> "Season":
        """The season with one more agent; refused once the secret is known."""
        if self.secret:
            raise ValueError(f"season {self.name} is revealed: no agent can be pledged any more.")
        if any(p.agent_sha256 == agent_sha256 for p in self.pledges):
            raise ValueError(f"season {self.name} has a pledge of this very agent already.")
        if any(p.name == name for p in self.pledges):
            raise ValueError(f"name={name!r} is pledged in season {self.name}; take another name.")
        return replace(self, pledges=(*self.pledges, Pledge(name, agent_sha256, _now())))

    def revealed(self, secret: str) -> "Season":
        """The season with its secret, which must be the one that was sealed."""
        sealed = commitment_of(self.name, secret, self.suite, self.site, self.n_patients)
        if sealed != self.commitment:
            raise ValueError(f"the secret is not the one that season {self.name} was sealed with.")
        return replace(self, secret=secret)

    def cases(self) -> list[str]:
        """The sealed patients, ascending."""
        if not self.secret:
            raise ValueError(f"season {self.name} is sealed: its patients are not known yet.")
        return sealed_cases(self.name, self.secret, self.site, self.n_patients)


def seal(name: str, suite: str, site: str, n_patients: int) -> tuple[Season, str]:
    """A new season and its secret."""
    secret = secrets.token_hex(SECRET_LENGTH // 2)
    sealed = commitment_of(name, secret, suite, site, n_patients)
    return Season(name, suite, site, n_patients, sealed, _now()), secret


def commitment_of(name: str, secret: str, suite: str, site: str, n_patients: int) -> str:
    """What is published of a season: a hash of all that its patients follow from."""
    if len(secret) != SECRET_LENGTH or set(secret) - set("0123456789abcdef"):
        raise ValueError(f"secret must be {SECRET_LENGTH} hexadecimal digits.")
    sealed = json.dumps([name, secret, suite, site, n_patients])
    return sha256(f"ptenv season {sealed}".encode()).hexdigest()


def sealed_cases(name: str, secret: str, site: str, n_patients: int) -> list[str]:
    """The procedural patients that follow from a secret."""
    entropy = int.from_bytes(sha256(f"patients of {name}\n{secret}".encode()).digest(), "big")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    found: set[int] = set()
    while len(found) < n_patients:
        found.add(int(rng.integers(*SEALED_SEEDS)))
    return [procedural_id(seed, site) for seed in sorted(found)]


def read_season(path: Path) -> Season:
    """A season's public file."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        pledges = tuple(Pledge(**p) for p in plain.pop("pledges"))
        if plain.pop("format") != FORMAT:
            raise KeyError("format")
        return Season(**plain, pledges=pledges)
    except OSError:
        raise FileNotFoundError(f"season {path}: no such file.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no season ({error}).") from None


def write_season(season: Season, path: Path) -> None:
    aside = path.with_name(f".{path.name}")
    plain = {"format": FORMAT, **asdict(season)}
    aside.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def season_toml(season: Season, base: Mapping) -> str:
    """The suite of a revealed season as a TOML file: the base's tasks, its shifts left out, on the
    sealed patients."""
    cases = json.dumps(season.cases())
    lines = [
        f"# Season {season.name}: the tasks of suite {season.suite} on patients that were sealed.",
        f"name = {json.dumps(f'season-{season.name}')}", "version = 0",
        f"description = {json.dumps(f'Sealed season {season.name} of {season.suite}.')}",
        f"n_runs = {base['n_runs']}", f"seed = {base['seed']}", "", "[train]",
        *(f"{json.dumps(k)} = {list(v)}" for k, v in base["train"].items()), "", "[season]",
        f"name = {json.dumps(season.name)}", f"commitment = {json.dumps(season.commitment)}",
        f"suite = {json.dumps(season.suite)}",
        f"secret = {json.dumps(season.secret)}", f"site = {json.dumps(season.site)}",
        f"n_patients = {season.n_patients}",
        f"pledged = {json.dumps([[p.name, p.agent_sha256] for p in season.pledges])}",
    ]  # fmt: skip
    for task in (t for t in base["tasks"] if "shift_of" not in t):
        lines += ["", "[[tasks]]", f"name = {json.dumps(task['name'])}",
                  f"env_id = {json.dumps(task['env_id'])}", f"budgets = {task['budgets']}",
                  f"test = {cases}"]  # fmt: skip
        if task.get("settings"):
            lines.append(f"settings = {_inline(task['settings'])}")
    return "\n".join(lines) + "\n"


def refuse_false_season(plain: Mapping, judged: Sequence[set[str]]) -> None:
    """Raise where the patients of a suite's tasks do not follow from the secret that was sealed."""
    parts = (plain[k] for k in ("name", "secret", "suite", "site", "n_patients"))
    if commitment_of(*parts) != plain["commitment"]:
        raise ValueError(f"season {plain['name']}: the secret is not the one that was sealed.")
    cases = sealed_cases(plain["name"], plain["secret"], plain["site"], plain["n_patients"])
    if any(of != set(cases) for of in judged):
        raise ValueError(f"season {plain['name']}: its patients do not follow from its secret.")


def _inline(settings: Mapping) -> str:
    return "{" + ", ".join(f"{k} = {_value(v)}" for k, v in settings.items()) + "}"


def _value(value) -> str:
    return _inline(value) if isinstance(value, Mapping) else json.dumps(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
