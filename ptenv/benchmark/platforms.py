"""What numbers may depend on: versions, processor, threads."""

import platform
from collections.abc import Mapping
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


def is_like_here(record: Mapping) -> bool:
    """Whether a record was made where replay must give the same bits."""
    return is_like(record, {"platform": platform_of_here(), "software": software()})


def is_like(record: Mapping, other: Mapping) -> bool:
    """Whether two records were made where the same calls give the same bits."""
    if not other:
        return False
    places = all(
        record["platform"].get(name) == other["platform"].get(name)
        for name in ("system", "machine", "cpu")
    )
    return places and all(
        record["software"].get(name) == other["software"].get(name) for name in EXACT
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
