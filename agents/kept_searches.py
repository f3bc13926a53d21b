"""Privileged searches that have ended, on disk, so that a killed headroom table goes on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ptenv
from agents.baselines.search import Found
from agents.headroom import Job
from ptenv.benchmark.records import mend
from ptenv.cases.digests import digest_of_content
from ptenv.cases.library import AnyCase
from ptenv.cases.patients import nameless_case


@dataclass(frozen=True, eq=False)
class KeptSearches:
    """One JSON line a search; what was found with other settings or cases does not count.

    ``settings`` are those of search and environment, as configured: ids may share their cases.
    ``cases`` go by the names in the jobs.
    """

    path: Path
    settings: Mapping[str, Mapping]
    cases: Mapping[str, AnyCase]

    def found(self, jobs: Iterable[Job]) -> dict[Job, Found]:
        """What is known of some jobs. Raises ``ValueError`` of a file that is not of searches."""
        mend(self.path)  # a kill may have cut the last line
        if not self.path.exists():
            return {}
        known = {}
        for number, line in enumerate(self.path.read_text("utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                known[row["key"]] = Found.from_dict(row["found"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number} holds no search ({error}); remove the file to "
                    "search anew."
                ) from None
        keys = {job: self._key(job) for job in jobs}
        return {job: known[key] for job, key in keys.items() if key in known}

    def add(self, job: Job, found: Found) -> None:
        name, budget = job
        row = {
            "key": self._key(job), "case": nameless_case(name), "budget": budget,
            "found": found.as_dict(),
        }  # fmt: skip
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _key(self, job: Job) -> str:
        name, budget = job
        return digest_of_content({
            "case": self.cases[name].key, "budget": budget, **self.settings,
            "ptenv": ptenv.__version__,
        })  # fmt: skip
