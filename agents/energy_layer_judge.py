"""How energy-layer episodes are judged and shown: the paper's figures, robustness, delivery."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.energy_layer_report import FIGURES, compared, limits_of, means, volumes
from ptenv.cases.energy_layer_case import EnergyLayerCase
from ptenv.rendering import save, score_table, volume_figure

ALL_LAYERS = "all layers"
NAN = float("nan")

COLUMNS = {
    "agent": "agent", "score": "score", "score_se": "± se", "Q": "Q",
    "D98": "D98 %", "D2": "D2 %", "HI": "HI %", "CI": "CI", "brainstem_mean_gy": "stem mean",
    "brainstem_max_gy": "stem max", "D95_worst": "D95 worst", "rvh_target_gy": "RVH area",
    "delivery_s": "delivery s", "switching_s": "switching s", "n_up": "up", "n_down": "down",
    "n_unchanged": "same", "inference_s": "inf. s", "optimization_s": "opt. s",
}  # fmt: skip
DECIMALS = {
    "score": 3, "± se": 3, "Q": 3, "D98 %": 1, "D2 %": 1, "HI %": 1, "CI": 3, "stem mean": 2,
    "stem max": 2, "D95 worst": 1, "RVH area": 2, "delivery s": 1, "switching s": 1, "up": 1,
    "down": 1, "same": 1, "inf. s": 3, "opt. s": 2,
}  # fmt: skip
EXPLAINED = (
    "score: 0 dynamic programming on spot counts at the same delivery time, 1 a plan that may use "
    "all layers; worst of nominal, ± range, six set-up shifts; se over cases.\n"
    "D98, D2, HI (Wu), CI (van 't Riet) of the target, nominal; brainstem mean, maximum (D0.1cc) "
    "in Gy (RBE) over the course. D95 worst: the lowest of the scenarios, %.\n"
    "RVH area: mean over the target of the root-mean-square dose deviation over scenarios, Gy. "
    "inf. s: choosing the layers; opt. s: the plan's robust optimization."
)


class EnergyLayerJudge:
    """What a comparison needs to know of energy-layer environments."""

    columns, decimals, explained = COLUMNS, DECIMALS, EXPLAINED
    budget = "limit"  # the argument of ``make`` that all agents play under
    episode_figures = ("score", "Q", "coverage")
    reference = ALL_LAYERS

    @staticmethod
    def budget_title(budget: float) -> str:
        return f"{budget:g} ×"

    @staticmethod
    def episode(state, infos: Sequence[Mapping]) -> dict:
        """Figures of a finished episode; ``infos`` are those of its steps."""
        info = infos[-1]
        return {
            **figures(state.case, info["metrics"]),
            "D95_worst": info["robust"]["D95_worst"], "D98_worst": info["robust"]["D98_worst"],
            "rvh_target_gy": info["robust"]["rvh_area_target_gy"],
            "rvh_organ_gy": info["robust"]["rvh_area_organ_gy"],
            "target_cm3": state.case.volumes_cm3[state.case.target],
            "budget": info["limit"], "limit_s": info["limit_s"], "delivery_s": info["delivery_s"],
            "switching_s": info["switching_s"], "n_up": info["n_up"], "n_down": info["n_down"],
            "n_unchanged": info["n_unchanged"], "coverage": info["coverage"],
            "objective": info["objective"],
        }  # fmt: skip

    @staticmethod
    def reference_row(case: EnergyLayerCase) -> dict:
        """The plan that may use all layers: what scores 1, at any delivery time."""
        metrics = case.anchors.reference_metrics
        return {
            "agent": ALL_LAYERS, "case": case.case_id, "score": 1.0, "Q": case.quality(metrics),
            **figures(case, metrics),
        }  # fmt: skip

    @staticmethod
    def report(rows: Sequence[Mapping], agent: str | None, folder: Path) -> str:
        """Tables 1 and 2 of the paper at every limit, and what ``agent`` differs from the others.

        Writes tables.txt and figure 2 (volumes.png) into ``folder``.
        """
        text = []
        played = [row for row in rows if "budget" in row]
        for limit in limits_of(played):
            text.append(f"limit {limit:g} × the least delivery time, mean ± sd over patients")
            text.append(score_table(means(played, limit)))
        others = [n for n in dict.fromkeys(r["agent"] for r in played) if n != agent]
        if agent is not None:
            lines = compared(played, agent, others, np.random.default_rng(0))
            if lines:
                text.append(f"{agent!r} minus others, paired over patients: mean [95 % interval] p")
                text.append(score_table(lines))
        written = "\n\n".join(text)
        (folder / "tables.txt").write_text(f"{written}\n", encoding="utf-8")
        _draw_volumes(played, folder / "volumes.png")
        return written

    @staticmethod
    def draw(state, title: str):
        """A figure of a final state."""
        from ptenv.envs.energy_layer_render import picture_figure

        return picture_figure(state, title=title)


def _draw_volumes(rows: Sequence[Mapping], path: Path) -> None:
    """Figure 2 of the paper at the middle limit: figures of plans over the target's volume."""
    limits = limits_of(rows)
    limit = limits[len(limits) // 2]
    shown = ("HI", "CI", "D98", "D2", "brainstem_mean_gy", "brainstem_max_gy")
    panels = {FIGURES[f][0]: volumes(rows, limit, f) for f in shown}
    save(volume_figure({title: of for title, of in panels.items() if of}), path)


def figures(case: EnergyLayerCase, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The nominal plan's figures of table 1 of Yang et al. 2025; NaN where a structure is missing.

    Doses in Gy (RBE) over the course, percentages of the prescription.
    """
    target, brainstem = metrics[case.target], metrics.get("Brainstem", {})
    return {
        "D98": target["D98%[%]"], "D95": target["D95%[%]"], "D2": target["D2%[%]"],
        "HI": target["HI[%]"], "CI": target["CN[%]"] / 100.0,
        "brainstem_mean_gy": brainstem.get("Mean[Gy]", NAN),
        "brainstem_max_gy": brainstem.get("D0.1cc[Gy]", NAN),
    }  # fmt: skip
