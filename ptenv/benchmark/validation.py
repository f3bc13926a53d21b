"""Whether a submission holds: claims, replay, the machine's limits, the reference engine."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import NamedTuple
from zlib import crc32

from ptenv.benchmark.agreement import Apart, Tolerance, faults_of_task
from ptenv.benchmark.entry import Entry, digest_of_entry, read_entry
from ptenv.benchmark.platforms import platform_of_here, software
from ptenv.benchmark.records import Episode, digest_of_records, read_records
from ptenv.benchmark.replay import claims_of, replay
from ptenv.benchmark.suite import Data, Suite

VALIDATION = "validation.json"
FORMAT = 2
FIGURES = ("score", "raw_score", "Q", "objective", "cost")  # of a board, as replayed
SHOWN = 5  # episodes whose fault a refusal names
STATED = Tolerance()  # of replay elsewhere


@dataclass(frozen=True)
class ReplayedEpisode:
    """What replay says of one episode.

    ``figures`` are FIGURES as replayed, which a board shows; ``reference`` is the score by the
    reference engine with ``reference_settings``, or why there is none.
    """

    episode: Episode
    faults: tuple[str, ...]
    exact: bool = False
    recorded_score: float = float("nan")
    figures: Mapping[str, float] | None = None
    apart: Apart | None = None
    reference: float | None = None
    reference_why_not: str | None = None
    reference_settings: Mapping | None = None


@dataclass(frozen=True)
class Verdict:
    """Of a whole submission as it was read: ``refused`` are reasons, empty where it holds."""

    refused: tuple[str, ...]
    seconds: float
    digests: Mapping[str, str] = field(default_factory=dict)  # of records and entry
    episodes: tuple[ReplayedEpisode, ...] = field(default=(), repr=False)

    @property
    def holds(self) -> bool:
        return not self.refused

    @property
    def n_replayed(self) -> int:
        return len(self.episodes)

    @property
    def n_exact(self) -> int:
        return sum(e.exact for e in self.episodes)

    @property
    def largest_difference(self) -> float:
        """Between a recorded score and the replayed one."""
        return max((e.apart.score for e in self.episodes if e.apart is not None), default=0.0)


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
) -> ReplayedEpisode:
    """Replay one record and judge its final plan; whatever goes wrong is a fault of the record."""
    try:
        return _judge(record, suite, data, tolerance, reference)
    except Exception as error:
        return ReplayedEpisode(Episode.of(record), (f"it cannot be replayed ({error!r})",))


def _judge(
    record: Mapping, suite: Suite, data: Data, tolerance: Tolerance, reference: bool
) -> ReplayedEpisode:
    episode = Episode.of(record)
    wrong = claims_of(record, suite)
    if wrong:
        return ReplayedEpisode(episode, tuple(wrong))
    again = replay(record, suite, data, tolerance)
    if again.played is None:
        return ReplayedEpisode(episode, again.differences, again.exact)
    family = suite.task(episode.task).family
    faults = (*again.differences, *family.broken_limits(again.played.state))
    figures = {name: again.result[name] for name in FIGURES}
    replayed = ReplayedEpisode(
        episode, faults, again.exact, record["result"]["score"], figures, again.apart
    )
    return _with_reference(replayed, again.played.state) if reference and not faults else replayed


def _with_reference(replayed: ReplayedEpisode, state) -> ReplayedEpisode:
    # its engines take seconds to import, which who leaves them out need not pay
    from ptenv.benchmark.reference import default_reference, reference_of

    settings = default_reference(state.case)
    judged = reference_of(state.case, settings).judge(state)
    return replace(
        replayed, reference=judged.score, reference_why_not=judged.why_not,
        reference_settings=asdict(settings),
    )  # fmt: skip


def validate(
    folder: Path, suite: Suite, data: Data, tolerance: Tolerance = STATED,
    pool: Executor | None = None, reference: bool = True, part: float = 1.0,
    progress: Callable[[int], None] = lambda done: None,
) -> Verdict:  # fmt: skip
    """Check a submission's claims, then replay its episodes, or a ``part`` of them, in ``pool``."""
    began, digests = perf_counter(), {}
    try:
        digests = {
            "records_sha256": digest_of_records(folder), "entry_sha256": digest_of_entry(folder),
        }  # fmt: skip
        entry, records = read_entry(folder), read_records(folder)
        refused = claims(entry, records, suite)
    except Exception as error:
        told = str(error) if isinstance(error, ValueError | OSError) else repr(error)
        return Verdict((f"it cannot be read: {told}",), perf_counter() - began, digests)
    known = {t.name for t in suite.tasks}
    played = [r for r in records if r["task"] in known]
    chosen = spread(sorted({Episode.of(r) for r in played}), part)
    replayed = [r for r in played if Episode.of(r) in chosen]
    judged = list(_judged(replayed, suite, data, tolerance, reference, pool, progress))
    judged.sort(key=lambda j: j.episode)
    refused += _faults(judged) + _tasks_apart(judged, suite, tolerance)
    return Verdict(tuple(refused), perf_counter() - began, digests, tuple(judged))


def spread(episodes: Sequence[Episode], part: float) -> set[Episode]:
    """A share of the episodes of every task, one at least; the same ones every time."""
    chosen: set[Episode] = set()
    for task in {e.task for e in episodes}:
        of = sorted((e for e in episodes if e.task == task), key=lambda e: crc32(str(e).encode()))
        chosen |= set(of[: ceil(part * len(of))])
    return chosen


def _judged(
    records, suite, data, tolerance, reference, pool, progress
) -> Iterator[ReplayedEpisode]:
    jobs = [(record, suite, data, tolerance, reference) for record in records]
    if pool is None:
        found = (judge_record(*job) for job in jobs)
    else:
        found = (f.result() for f in as_completed([pool.submit(judge_record, *j) for j in jobs]))
    for done, judged in enumerate(found, start=1):
        yield judged
        progress(done)


def _tasks_apart(
    judged: Sequence[ReplayedEpisode], suite: Suite, tolerance: Tolerance
) -> list[str]:
    """Tasks that replay elsewhere does not agree with, taken as a whole."""
    wrong = []
    for task in suite.tasks:
        of = [j for j in judged
              if j.episode.task == task.name and not j.exact and j.apart is not None]  # fmt: skip
        scores = [(j.recorded_score, j.figures["score"]) for j in of]
        wrong += [
            f"{task.name}: {fault}"
            for fault in faults_of_task([j.apart for j in of], scores, tolerance)
        ]
    return wrong


def _faults(judged: Sequence[ReplayedEpisode]) -> list[str]:
    broken = [j for j in judged if j.faults]
    told = [f"{j.episode}: {'; '.join(j.faults)}" for j in broken[:SHOWN]]
    if len(broken) > SHOWN:
        told.append(f"and {len(broken) - SHOWN} more episodes")
    return told


def write_verdict(
    verdict: Verdict, folder: Path, suite: Suite, complete: bool, tolerance: Tolerance = STATED
) -> Path:
    """What validation found, beside the records; the board shows no other.

    Reference scores that an earlier validation of the very same submission found are kept where
    this one left them out.
    """
    known = _known_references(folder, verdict, suite)
    settings = {e.episode.task: e.reference_settings for e in verdict.episodes
                if e.reference_settings is not None}  # fmt: skip
    plain = {
        "format": FORMAT, "suite": suite.name, "suite_version": suite.version,
        "suite_digest": suite.digest, "holds": verdict.holds, "complete": complete,
        "refused": list(verdict.refused), "n_replayed": verdict.n_replayed,
        "n_exact": verdict.n_exact, "largest_difference": verdict.largest_difference,
        "seconds": round(verdict.seconds, 2), "tolerance": asdict(tolerance), **verdict.digests,
        "reference_settings": known.settings | settings,
        "episodes": [_plain_episode(e, known) for e in verdict.episodes],
        "software": software(), "platform": platform_of_here(),
    }  # fmt: skip
    aside = folder / f".{VALIDATION}"
    aside.write_text(json.dumps(plain, indent=0) + "\n", encoding="utf-8")
    os.replace(aside, folder / VALIDATION)
    return folder / VALIDATION


class _Known(NamedTuple):
    """Reference scores, or why there are none, and the settings they were found with."""

    scores: Mapping[Episode, tuple[float | None, str | None]] = {}
    settings: Mapping[str, Mapping] = {}


def _known_references(folder: Path, verdict: Verdict, suite: Suite) -> _Known:
    """What the validation that is there knows of this submission; nothing if it is another's."""
    try:
        plain = json.loads((folder / VALIDATION).read_text(encoding="utf-8"))
        same = plain["suite_digest"] == suite.digest and plain["holds"]
        if not same or any(plain[name] != value for name, value in verdict.digests.items()):
            return _Known()
        scores = {
            Episode(*e["episode"]): (e["reference"], e["reference_why_not"])
            for e in plain["episodes"]
            if e["reference"] is not None or e["reference_why_not"] is not None
        }
        return _Known(scores, plain["reference_settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return _Known()


def _plain_episode(replayed: ReplayedEpisode, known: _Known) -> dict:
    reference = (replayed.reference, replayed.reference_why_not)
    if reference == (None, None) and not replayed.faults:
        reference = known.scores.get(replayed.episode, reference)
    return {
        "episode": list(replayed.episode), "figures": replayed.figures,
        "reference": reference[0], "reference_why_not": reference[1],
    }  # fmt: skip
