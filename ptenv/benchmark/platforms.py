"""What numbers may depend on: versions, processor, threads."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import llvmlite.binding
from numba import config

from engine.parallel import threads

PACKAGES = ("ptenv", "numpy", "scipy", "numba", "llvmlite", "gymnasium")
EXACT = ("numpy", "scipy", "numba", "llvmlite")  # these and the processor: the same bits


def software() -> dict[str, str | None]:
    """Versions of what numbers depend on."""
    return dict(_software())


@cache
def _software() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, _version(name)) for name in PACKAGES)


def platform_of_here() -> dict:
    return {
        "system": platform.system(), "machine": platform.machine(),
        "cpu": config.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
        "python": platform.python_version(), "threads": threads(),
    }  # fmt: skip


def is_like_here(record) -> bool:
    """Whether a record was made where replay must give the same bits."""
    here, there = platform_of_here(), record["platform"]
    same = all(here[name] == there[name] for name in ("system", "machine", "cpu"))
    versions = software()
    return same and all(versions[name] == record["software"].get(name) for name in EXACT)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
