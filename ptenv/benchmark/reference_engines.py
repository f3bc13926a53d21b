"""Dose engines of references, with how far they are."""

from collections.abc import Callable

from engine.dose.engine import DoseEngine
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.dose.progress import Progress
from engine.dose.yoda.engine import YodaEngine
from engine.machine.ion import IonMachine
from engine.machine.library import load_machine
from engine.physics.biology import BiologicalModel
from ptenv.benchmark.reference_settings import (
    PENCIL_BEAM,
    PHOTON_SVD,
    YODA,
    ReferenceSettings,
    Tell,
)  # fmt: skip

TOLD = 10  # times in a matrix


def default_engine(machine: str) -> str:
    """The best engine that there is for a machine's particles."""
    particles = load_machine(machine)
    if not isinstance(particles, IonMachine):
        return PHOTON_SVD
    return YODA if particles.charge == 1 else PENCIL_BEAM


def refuse_unfit(settings: ReferenceSettings, machine: str) -> None:
    """Refuse an engine that cannot compute a machine's dose."""
    best = default_engine(machine)
    if settings.engine == best or {settings.engine, best} == {PENCIL_BEAM, YODA} and best == YODA:
        return
    raise ValueError(
        f"engine={settings.engine!r} cannot compute the dose of {machine}; the reference of this "
        f"case takes {best!r}."
    )


def reference_engine(
    settings: ReferenceSettings, tell: Tell, what: str,
    biology: BiologicalModel | None = None, bixel_mm: float | None = None,
) -> DoseEngine:  # fmt: skip
    """The engine of a reference; ``biology`` is of ions, ``bixel_mm`` of photons."""
    if settings.engine == YODA:
        return YodaEngine(
            depth_step_mm=settings.depth_step_mm, scheme=settings.scheme,
            influence_scheme=settings.scheme, entry_cutoff=settings.cutoff,
            fokker_planck_step_mm=settings.fokker_planck_step_mm, progress=_teller(tell, what),
        )  # fmt: skip
    if settings.engine == PHOTON_SVD:
        return PhotonSvdEngine(bixel_mm, settings.reach_mm)
    return PencilBeamEngine(lateral_cutoff=settings.cutoff, biology=biology)


def _teller(tell: Tell, what: str) -> Callable[[Progress], None]:
    def progress(at: Progress) -> None:
        if at.done % max(1, at.expected // TOLD) == 0:
            tell(f"{what}: {at.done} of {at.expected} spots")

    return progress
