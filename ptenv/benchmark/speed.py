"""How fast environments are: steps a second, engine calls, start-up, memory of further workers.

Every measurement runs in processes of its own (``ptenv.benchmark.speed_jobs``), so that none
inherits another's cases or threads, and ends at a time limit, which then stands in its place.

An engine call is what ``Family.engine_calls`` counts: for voxel masks and energy layers an
evaluation of the plan's objective with its gradient, all scenarios together; for dose shaping a
dose product, of which an evaluation takes two.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ptenv.benchmark.platforms import platform_of_here, software
from ptenv.benchmark.speed_jobs import MEGA, cached_case
from ptenv.registration import IDS
from ptenv.rendering import score_table

MINI = "-mini"
POLL_S = 0.05
TITLE = (
    "Steps and engine calls a second by number of processes (of several each has one thread);\n"
    "seconds from `import ptenv` to the first step, without and with the case in the cache"
)
STARTUP = """
import time; began = time.perf_counter()
import gymnasium, ptenv
imported = time.perf_counter()
env = gymnasium.make(job["id"], **job["settings"])
env.action_space.seed(0)
_, info = env.reset(seed=0)
was_reset = time.perf_counter()
env.step(env.action_space.sample(info.get("action_mask")))
ended = time.perf_counter()
answer({"total_s": ended - began, "import_s": imported - began, "reset_s": was_reset - imported,
        "first_step_s": ended - was_reset})
"""
CALLS = "from ptenv.benchmark import speed_jobs\nanswer(speed_jobs.{}(job))"
HOLDS = "from ptenv.benchmark import speed_jobs\nspeed_jobs.hold(job, answer)"
# A job ends when the process that wants it does: its standard input is closed then.
FRAME = """
import json, os, sys, threading
def end_with_parent():
    os.read(0, 1)
    os.killpg(0, 9)
threading.Thread(target=end_with_parent, daemon=True).start()
job, path = json.loads(sys.argv[1]), sys.argv[2]
def answer(result):
    with open(path + "~", "w") as file:
        json.dump(result, file)
    os.replace(path + "~", path)
"""


@dataclass(frozen=True)
class SpeedSettings:
    """What is measured, and how long.

    ``settings`` are further arguments of ``make``. Patients are the first ``n_patients`` that an
    id draws from, unless the settings name a case. ``workers`` are the most processes that hold one
    case; 0 leaves memory out.
    """

    processes: tuple[int, ...] = (1, 2, 8)
    n_patients: int = 2
    seconds: float = 3.0
    repeats: int = 3
    startup: bool = True
    workers: int = 3
    time_limit_s: float = 600.0
    settings: Mapping | None = None

    def __post_init__(self):
        object.__setattr__(self, "processes", tuple(self.processes))
        if not all(isinstance(n, int) and n >= 1 for n in self.processes):
            raise ValueError(f"processes={list(self.processes)} must be whole numbers, 1 or more.")
        for name in ("n_patients", "repeats", "time_limit_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more.")
        for name in ("seconds", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more.")

    def job(self, id: str, n_patients: int | None = None) -> dict:
        patients = {"n_patients": n_patients or self.n_patients}
        return {"id": id, "settings": {**patients, **(self.settings or {})}}


def chosen_ids(ids: str | Sequence[str]) -> list[str]:
    """Ids by name, or "mini" or "all" of them."""
    if ids == "all":
        return list(IDS)
    if ids == "mini":
        return [id for id in IDS if MINI in id]
    names = [ids] if isinstance(ids, str) else list(ids)
    unknown = [name for name in names if name not in IDS]
    if unknown or not names:
        raise ValueError(f"ids={ids!r}: choose 'mini', 'all', or a list of {list(IDS)}.")
    return names


def measure(
    ids: Sequence[str], settings: SpeedSettings, tell: Callable[[str], None] = lambda text: None
) -> list[dict]:
    """One row an id: "id", "cases", "steps" by number of processes, "startup", "cached_startup",
    "memory". What has no figure says why: {"failed": …}."""
    return [_measured(id, settings, tell) for id in ids]


def _measured(id: str, settings: SpeedSettings, tell: Callable[[str], None]) -> dict:
    row = {"id": id}
    if settings.startup:
        row["startup"], row["cached_startup"] = _startups(id, settings, tell)
    if settings.processes:
        row |= _steps(id, settings, tell)
    if settings.workers:
        row["memory"] = _told(tell, f"{id}: memory", lambda: memory_of_workers(id, settings))
    return row


def _startups(id: str, settings: SpeedSettings, tell) -> tuple[dict, dict]:
    """From ``import ptenv`` to the first step in a fresh process: with an empty case cache, and
    with the case in it."""
    with tempfile.TemporaryDirectory() as folder:
        job, there = settings.job(id, n_patients=1), {"PTENV_CACHE": folder}

        def start():
            return run_job(STARTUP, job, settings.time_limit_s, there)

        return (
            _told(tell, f"{id}: start-up, no case in the cache", start),
            _told(tell, f"{id}: start-up, case in the cache", start),
        )


def _steps(id: str, settings: SpeedSettings, tell) -> dict:
    limit = settings.time_limit_s
    job = settings.job(id)
    prepared = _told(
        tell, f"{id}: cases", lambda: run_job(CALLS.format("prepare"), job, limit)
    )
    if "failed" in prepared:
        return {"steps": dict.fromkeys(settings.processes, prepared)}
    job |= prepared | {"seconds": settings.seconds, "repeats": settings.repeats}
    found = {
        n: _told(
            tell, f"{id}: steps, processes: {n}",
            lambda n=n: run_job(CALLS.format("steps"), job | {"processes": n}, limit),
        )
        for n in settings.processes
    }  # fmt: skip
    return {**prepared, "steps": found}


def _told(tell: Callable[[str], None], what: str, measured: Callable[[], dict]) -> dict:
    began = time.perf_counter()
    found = measured()
    note = found.get("failed", "done")
    tell(f"{what}: {note} ({time.perf_counter() - began:.0f} s)")
    return found


def run_job(
    code: str, job: Mapping, limit_s: float, environment: Mapping[str, str] | None = None
) -> dict:
    """What a fresh process answers to a job; {"failed": …} if it does not within the limit."""
    with tempfile.TemporaryDirectory() as folder, _process(code, job, folder, environment) as run:
        return _answer(run, limit_s)


@dataclass(frozen=True)
class _Run:
    process: subprocess.Popen
    answer: Path
    errors: Path


@contextmanager
def _process(code: str, job: Mapping, folder: str, environment=None) -> Iterator[_Run]:
    """A process that works on a job, with a group of its own, which ends with the block."""
    answer, errors = Path(folder) / "answer.json", Path(folder) / "errors.txt"
    command = [sys.executable, "-c", FRAME + code, json.dumps(job), str(answer)]
    with errors.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=file,
            start_new_session=True, env=os.environ | dict(environment or {}),
        )  # fmt: skip
    try:
        yield _Run(process, answer, errors)
    finally:
        _end(process)


def _answer(run: _Run, limit_s: float) -> dict:
    began = time.perf_counter()
    while not run.answer.exists():
        if time.perf_counter() - began > limit_s:
            return {"failed": f"stopped after the limit of {limit_s:g} s"}
        ended = run.process.poll() is not None
        if ended and not run.answer.exists():
            return {"failed": _last_line(run.errors) or f"exit code {run.process.returncode}"}
        time.sleep(POLL_S)
    return json.loads(run.answer.read_text())


def _last_line(errors: Path) -> str:
    lines = errors.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _end(process: subprocess.Popen) -> None:
    """End a process and the workers that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    process.stdin.close()


# ---------------------------------------------------------------------- memory


def memory_of_workers(id: str, settings: SpeedSettings) -> dict:
    """Memory of 1 … ``workers`` processes that have played an episode on one cached case.

    "total_mb" is the sum of their proportional shares (PSS) as workers are added one by one: pages
    that several hold count once. "added_mb" is what a further worker adds to it on average, and
    "private_mb" each one's own pages at the end; "case_mb" is the size of the case on disk.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        return {"failed": "this system has no /proc/PID/smaps_rollup"}
    job = settings.job(id)
    case = cached_case(id, job["settings"])
    if case is None:
        return {"failed": "no case of this id in the cache"}
    with tempfile.TemporaryDirectory() as folder:
        return _held(job | {"cases": [case]}, settings, Path(folder), [])


def _held(job: dict, settings: SpeedSettings, folder: Path, runs: list, totals=()) -> dict:
    """Start one more worker; the figures once there are enough."""
    if len(runs) == settings.workers:
        return _memory(runs, totals)
    place = folder / str(len(runs))
    place.mkdir()
    with _process(HOLDS, job, str(place), {"PTENV_THREADS": "1"}) as run:
        found = _answer(run, settings.time_limit_s)
        if "failed" in found:
            return found
        pids = [r.process.pid for r in (*runs, run)]
        total = sum(smaps(pid)["Pss"] for pid in pids)
        return found | _held(job, settings, folder, [*runs, run], (*totals, total))


def _memory(runs: list, totals: Sequence[float]) -> dict:
    own = [smaps(run.process.pid) for run in runs]
    found = {
        "total_mb": list(totals),
        "private_mb": [s["Private_Clean"] + s["Private_Dirty"] for s in own],
        "resident_mb": [s["Rss"] for s in own],
    }
    if len(totals) > 1:
        found["added_mb"] = (totals[-1] - totals[0]) / (len(totals) - 1)
    return found


def smaps(pid: int) -> dict[str, float]:
    """Memory of a process in MB by the names of the kernel."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): 1024 * int(kb) / MEGA for name, kb, *_ in fields}


# ---------------------------------------------------------------------- what is told


def hardware() -> dict:
    """The machine and the software that figures were measured with."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(), "cores": _cores(), "memory_gb": _memory_gb(),
        "os": platform.platform(), **platform_of_here(), "packages": software(),
        "load_before": load,
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def tables(rows: Sequence[Mapping], machine: Mapping) -> str:
    """Everything measured, as text: hardware, throughput and start-up, memory, what failed."""
    shown = [_speed_row(row) for row in rows]
    decimals = {name: 2 if name.endswith(" s") else 1 for row in shown for name in row}
    parts = [_machine_line(machine)]
    if decimals.keys() > {"id"}:
        parts.append(f"{TITLE}\n{score_table(shown, decimals=decimals)}")
    kept = [_memory_row(row) for row in rows if "failed" not in row.get("memory", {"failed": 0})]
    if kept:
        parts.append("Memory of workers on one case, MB\n" + score_table(kept, decimals=1))
    failures = [f"{what}: {why}" for row in rows for what, why in _failures(row)]
    return "\n\n".join([*parts, "\n".join(failures)]).rstrip()


def _machine_line(m: Mapping) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    load = "" if m["load_before"] is None else f"; load average before {m['load_before']:.1f}"
    return (
        f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, {m['os']}{load}\n"
        f"Python {m['python']}, {packages}"
    )


def _speed_row(row: Mapping) -> dict:
    shown = {"id": row["id"].removeprefix("ptenv/")}
    for title, name in (("steps/s", "steps_per_s"), ("calls/s", "engine_calls_per_s")):
        for n, found in row.get("steps", {}).items():
            shown[f"{title}, {n}"] = _middle(found, name)
    if "startup" in row:
        shown["start-up s"] = row["startup"].get("total_s")
        shown["cached s"] = row["cached_startup"].get("total_s")
    return shown


def _middle(found: Mapping, name: str) -> float | None:
    return median(found[name]) if name in found else None


def _memory_row(row: Mapping) -> dict:
    m = row["memory"]
    totals = {f"of {i}": total for i, total in enumerate(m["total_mb"], start=1)}
    return {
        "id": row["id"].removeprefix("ptenv/"), "case": m["case"], "case on disk": m["case_mb"],
        **totals, "a further worker": m.get("added_mb"), "private, each": median(m["private_mb"]),
        "resident, each": median(m["resident_mb"]),
    }  # fmt: skip


def _failures(row: Mapping) -> Iterator[tuple[str, str]]:
    found = {f"steps, processes {n}": part for n, part in row.get("steps", {}).items()}
    found |= {name: row[name] for name in ("startup", "cached_startup", "memory") if name in row}
    for name, part in found.items():
        if "failed" in part:
            yield f"{row['id']}, {name.replace('_', ' ')}", part["failed"]
