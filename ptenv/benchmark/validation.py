"""Whether a submission holds: claims, replay, the machine's limits, the reference engine."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from time import perf_counter
from zlib import crc32

import numpy as np

from ptenv.benchmark.entry import Entry, digest_of_entry, read_entry
from ptenv.benchmark.platforms import platform_of_here, software
from ptenv.benchmark.records import BrokenRecord, Episode, digest_of_records, read_records
from ptenv.benchmark.replay import Tolerance, claims_of, replay
from ptenv.benchmark.suite import Data, Suite

VALIDATION = "validation.json"
FORMAT = 1
ENOUGH = 20  # episodes whose mean is compared where they part
SHOWN = 5  # episodes whose fault a refusal names
STATED = Tolerance()  # of replay elsewhere


@dataclass(frozen=True)
class Judged:
    """What replay says of one episode; ``reference`` is the score by the reference engine."""

    episode: Episode
    faults: tuple[str, ...]
    exact: bool = False
    largest_difference: float = 0.0
    scores: tuple[float, float] | None = None  # recorded, replayed
    reference: float | None = None
    reference_why_not: str | None = None

    @property
    def replayed_score(self) -> float | None:
        return None if self.scores is None else self.scores[1]


@dataclass(frozen=True)
class Verdict:
    """Of a whole submission: ``refused`` are reasons, empty where it holds."""

    refused: tuple[str, ...]
    n_replayed: int
    n_exact: int
    largest_difference: float
    seconds: float
    episodes: tuple[Judged, ...] = field(default=(), repr=False)

    @property
    def holds(self) -> bool:
        return not self.refused


def claims(entry: Entry, records: Sequence[Mapping], suite: Suite) -> list[str]:
    """Why a submission must be refused without playing it; empty where nothing is wrong."""
    if (entry.suite, entry.suite_version) != (suite.name, suite.version):
        return [f"it is of suite {entry.suite} version {entry.suite_version}, judged is "
                f"{suite.name} version {suite.version}"]  # fmt: skip
    wrong = []
    if entry.suite_digest != suite.digest:
        wrong.append(f"suite {suite.name} was another one: its digest differs")
    wrong += trained_on_judged(entry, suite)
    if suite.pledged is not None and (entry.name, entry.agent_sha256) not in suite.pledged:
        wrong.append(
            f"no agent of this name and hash was pledged before {suite.name} was revealed"
        )
    wrong += _foreign(entry, records)
    found = Counter(Episode.of(r) for r in records if r["task"] in entry.tasks)
    wanted = {e for name in entry.tasks
              for e in suite.episodes(suite.task(name), entry.split, entry.n_runs)}  # fmt: skip
    missing, unknown = wanted - set(found), set(found) - wanted
    if missing:
        wrong.append(f"{len(missing)} episodes are missing, the first: {min(missing)}")
    if unknown:
        wrong.append(f"{len(unknown)} episodes are not of the suite, the first: {min(unknown)}")
    twice = [e for e, n in found.items() if n > 1]
    if twice:
        wrong.append(f"{len(twice)} episodes are there twice, the first: {min(twice)}")
    return wrong


def trained_on_judged(entry: Entry, suite: Suite) -> list[str]:
    """Why what an agent says to have learned from is not allowed."""
    if entry.learned is None:
        return []
    if not entry.learned or any(not run.get("cases") for run in entry.learned):
        return ["the agent learned, and does not say on which cases"]
    learned = sorted({str(c) for run in entry.learned for c in run["cases"]})
    foreign = [case for case in learned if not suite.may_be_learned_from(case)]
    if foreign:
        return [f"the agent was trained on {len(foreign)} cases that may not be trained on, such "
                f"as {foreign[0]}"]  # fmt: skip
    return []


def _foreign(entry: Entry, records: Sequence[Mapping]) -> list[str]:
    agents = {r["agent"]["sha256"] for r in records} - {entry.agent_sha256}
    suites = {(r["suite"], r["suite_version"]) for r in records}
    suites -= {(entry.suite, entry.suite_version)}
    wrong = [f"episodes are of another agent, {a[:12]}…" for a in sorted(agents)]
    wrong += [f"episodes are of suite {name} version {v}" for name, v in sorted(suites)]
    unnamed = sorted({r["task"] for r in records} - set(entry.tasks))
    return wrong + [f"episodes are of task {t}, which the entry does not name" for t in unnamed]


def judge_record(
    record: Mapping, suite: Suite, data: Data, tolerance: Tolerance, reference: bool
) -> Judged:
    """Replay one record and judge its final plan; whatever goes wrong is a fault of the record."""
    try:
        return _judge(record, suite, data, tolerance, reference)
    except Exception as error:
        return Judged(Episode.of(record), (f"it cannot be replayed ({error!r})",))


def _judge(
    record: Mapping, suite: Suite, data: Data, tolerance: Tolerance, reference: bool
) -> Judged:
    episode = Episode.of(record)
    wrong = claims_of(record, suite)
    if wrong:
        return Judged(episode, tuple(wrong))
    again = replay(record, suite, data, tolerance)
    faults = list(again.differences)
    if again.played is None:
        return Judged(episode, tuple(faults), again.exact)
    family = suite.task(episode.task).family
    faults += family.broken_limits(again.played.state)
    score, why_not = None, None
    if reference and not faults:
        score, why_not = _by_reference(again.played.state, suite)
    scores = (record["result"]["score"], again.score)
    return Judged(episode, tuple(faults), again.exact, again.largest, scores, score, why_not)


def _by_reference(state, suite: Suite) -> tuple[float | None, str | None]:
    from ptenv.benchmark.reference import default_reference, reference_of

    judged = reference_of(state.case, default_reference(state.case)).judge(state)
    return judged.score, judged.why_not


def validate(
    folder: Path, suite: Suite, data: Data, tolerance: Tolerance = STATED,
    pool: Executor | None = None, reference: bool = True,
    part: float = 1.0,
    progress: Callable[[int], None] = lambda done: None,
) -> Verdict:  # fmt: skip
    """Check a submission's claims, then replay its episodes, or a ``part`` of them, in ``pool``."""
    began = perf_counter()
    try:
        entry, records = read_entry(folder), read_records(folder)
    except (BrokenRecord, ValueError) as error:
        return Verdict((str(error),), 0, 0, 0.0, perf_counter() - began)
    try:
        refused = claims(entry, records, suite)
    except Exception as error:
        return Verdict((f"its claims cannot be read ({error!r})",), 0, 0, 0.0, 0.0)
    known = {t.name for t in suite.tasks}
    played = [r for r in records if r["task"] in known]
    chosen = spread(sorted({Episode.of(r) for r in played}), part)
    replayed = [r for r in played if Episode.of(r) in chosen]
    judged = list(_judged(replayed, suite, data, tolerance, reference, pool, progress))
    judged.sort(key=lambda j: j.episode)
    refused += _faults(judged) + _means_apart(judged, suite, tolerance)
    return Verdict(
        tuple(refused), len(judged), sum(j.exact for j in judged),
        max((j.largest_difference for j in judged), default=0.0), perf_counter() - began,
        tuple(judged),
    )  # fmt: skip


def spread(episodes: Sequence[Episode], part: float) -> set[Episode]:
    """A share of the episodes of every task, one at least; the same ones every time."""
    chosen: set[Episode] = set()
    for task in {e.task for e in episodes}:
        of = sorted((e for e in episodes if e.task == task), key=lambda e: crc32(str(e).encode()))
        chosen |= set(of[: ceil(part * len(of))])
    return chosen


def _judged(records, suite, data, tolerance, reference, pool, progress) -> Iterator[Judged]:
    jobs = [(record, suite, data, tolerance, reference) for record in records]
    if pool is None:
        found = (judge_record(*job) for job in jobs)
    else:
        found = (f.result() for f in as_completed([pool.submit(judge_record, *j) for j in jobs]))
    for done, judged in enumerate(found, start=1):
        yield judged
        progress(done)


def _means_apart(judged: Sequence[Judged], suite: Suite, tolerance: Tolerance) -> list[str]:
    """Tasks whose episodes part after a rounding, and whose means do not agree."""
    wrong = []
    for task in suite.tasks:
        of = [j for j in judged if j.episode.task == task.name and not j.exact]
        pairs = [j.scores for j in of if j.scores is not None]
        if task.family.parts and len(pairs) >= ENOUGH:
            before, now = np.mean(pairs, axis=0)
            if not abs(before - now) <= tolerance.mean:
                wrong.append(f"{task.name}: the mean score is {before:.3f}, replay gives {now:.3f}")
    return wrong


def _faults(judged: Sequence[Judged]) -> list[str]:
    broken = [j for j in judged if j.faults]
    told = [f"{j.episode}: {'; '.join(j.faults)}" for j in broken[:SHOWN]]
    if len(broken) > SHOWN:
        told.append(f"and {len(broken) - SHOWN} more episodes")
    return told


def write_verdict(
    verdict: Verdict, folder: Path, suite: Suite, complete: bool, tolerance: Tolerance = STATED
) -> Path:
    """What validation found, beside the records; the board shows no other."""
    plain = {
        "format": FORMAT, "suite": suite.name, "suite_version": suite.version,
        "suite_digest": suite.digest, "holds": verdict.holds, "complete": complete,
        "refused": list(verdict.refused), "n_replayed": verdict.n_replayed,
        "n_exact": verdict.n_exact, "largest_difference": verdict.largest_difference,
        "seconds": round(verdict.seconds, 2), "tolerance": asdict(tolerance),
        "records_sha256": digest_of_records(folder), "entry_sha256": digest_of_entry(folder),
        "reference": [
            [*j.episode, j.reference, j.reference_why_not, j.replayed_score]
            for j in verdict.episodes
        ],
        "software": software(), "platform": platform_of_here(),
    }  # fmt: skip
    aside = folder / f".{VALIDATION}"
    aside.write_text(json.dumps(plain, indent=0) + "\n", encoding="utf-8")
    os.replace(aside, folder / VALIDATION)
    return folder / VALIDATION

