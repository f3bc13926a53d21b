"""Shape a dose by hand on a page that this machine serves to itself.

Writes into the folder ``output``: episode.json (every request as it is made, to play it again as a
demonstration), plan.png at the end, config.yaml, record.json.
"""

import logging
import sys
import webbrowser

from hydra.utils import instantiate
from omegaconf import DictConfig

from engine.optimization.shaping_session import ShapingSession
from engine.parallel import set_threads
from engine.patient.patient import Patient
from engine.patient.structures import RING
from ptenv.cases.drawn import drawn_patient
from ptenv.envs.dose_shaping import DoseShapingEnv, State
from ptenv.rendering import dose_wash, save
from scripts.record import output_folder, save_record, stage
from scripts.shape_page import ShapedView
from scripts.shape_server import ShapeServer

EPISODE = "episode.json"


def run(cfg: DictConfig) -> float:
    """Serves until Ctrl+C; returns the objective of the plan at the end."""
    folder = output_folder()
    save_record(cfg, folder)
    if cfg.threads is not None:
        set_threads(cfg.threads)
    if not (isinstance(cfg.port, int) and 0 <= cfg.port <= 65535):
        raise ValueError(f"port={cfg.port!r} must lie in 0 … 65535; 0 takes a free one.")
    environment = instantiate(cfg.env, _convert_="all")
    settings = {
        "case": cfg.case, "goals": cfg.goals, "action": "point", "n_recovery": cfg.n_recovery,
        "guarded": cfg.guarded,
    }  # fmt: skip
    with stage("Case") as notes:
        env = environment.make(**settings)
        player: DoseShapingEnv = env.unwrapped
        player.reset()
        session = session_of(player)
        notes.append(f"{session.scene.points_mm.shape[0]} voxels")
    drawn = {"case": player.state.case.recipe["patient"], "goals": player.state.goals}
    settings = {**env.spec.kwargs, **drawn}
    about = {"environment": {"id": environment.id, "settings": settings},
             "case_key": player.state.case.key}  # fmt: skip
    server = ShapeServer(session, view_of(player.state), folder / EPISODE, about)
    for name in ("bokeh", "tornado.access"):  # a line for every file of the page
        logging.getLogger(name).setLevel(logging.WARNING)
    url = server.start(cfg.port)
    print(f"{url} shapes {player.state.case.case_id}; Ctrl+C ends. Requests go to {folder}/")
    if cfg.open_browser:
        webbrowser.open(url)
    server.wait()
    return _finished(player.state, session, folder)


def session_of(player: DoseShapingEnv) -> ShapingSession:
    """Requests on the plan that an environment starts from, carried out as it does."""
    state: State = player.state
    shaper = state.case.shaper(state.goals, player.task.recovery)
    return ShapingSession(shaper, state.case.scene, state.case.start_weights[state.goals])


def view_of(state: State) -> ShapedView:
    """What the page draws of a case."""
    patient = drawn_patient(state.case)
    masks = {name: patient.mask(name) for name in _contoured(patient)}
    return ShapedView(state.case.case_id, patient.hu, masks, dict(state.case.prescription_gy))


def _finished(state: State, session: ShapingSession, folder) -> float:
    """Draw the last plan and tell what it is worth."""
    case = state.case
    goals = case.goals(state.goals)
    before, after = state.start_objective, goals.value(session.dose_gy)
    patient, volume = drawn_patient(case), case.influence.volume(session.dose_gy)
    picture = dose_wash(
        patient, volume, structures=_contoured(patient), title=f"{case.case_id}, shaped by hand",
        rbe=case.quantity.rbe,
    )  # fmt: skip
    save(picture, folder / "plan.png")
    print(f"objective {before:.4g} → {after:.4g}. Written to {folder}/")
    return float(after)


def _contoured(patient: Patient) -> list[str]:
    """Targets and organs; the ring would cover the outline of the targets."""
    return [n for n in (*patient.targets, *patient.organs) if n != RING]


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["shape", *sys.argv[1:]]))
