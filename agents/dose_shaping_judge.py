"""How dose-shaping episodes are judged and shown, beside direct optimization."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ptenv.cases.dose_shaping_case import DoseShapingCase

DIRECT = "direct optimization"
NAN = float("nan")

COLUMNS = {
    "agent": "agent", "score": "score", "score_se": "± se", "Q": "Q", "n_requests": "requests",
    "dose_products": "products", "objective_share": "F / F start", "D95": "D95 %", "D2": "D2 %",
    "cord_gy": "cord D0.1cc", "brainstem_gy": "stem D0.1cc", "parotid_gy": "parotid mean",
    "inference_s": "inf. s", "optimization_s": "shaping s",
}  # fmt: skip
DECIMALS = {
    "score": 3, "± se": 3, "Q": 3, "requests": 1, "products": 1, "F / F start": 3, "D95 %": 1,
    "D2 %": 1, "cord D0.1cc": 1, "stem D0.1cc": 1, "parotid mean": 1, "inf. s": 3, "shaping s": 3,
}  # fmt: skip
EXPLAINED = (
    "score: 0 nothing done, 1 direct optimization from the same plan with as many dose products "
    "(five evaluations at least); se over cases.\n"
    "products: whole dose computations that the requests took. F: the weighted objective. D95, D2 "
    "of the highest target; organs in Gy (RBE). shaping s: modification and recovery, one thread."
)


class DoseShapingJudge:
    """What a comparison needs to know of dose-shaping environments."""

    columns, decimals, explained = COLUMNS, DECIMALS, EXPLAINED
    budget = "goals"  # the argument of ``make`` that all agents play under
    episode_figures = ("score", "Q", "dose_products")
    reference = DIRECT

    @staticmethod
    def budget_title(budget: float) -> str:
        return f"goals {budget:g}"

    @staticmethod
    def episode(state, infos: Sequence[Mapping]) -> dict:
        """Figures of a finished episode; ``infos`` are those of its steps."""
        info = infos[-1]
        return {
            **figures(state.case, info["metrics"]),
            "budget": info["goals"], "n_requests": info["n_requests"],
            "dose_products": info["dose_products"], "objective": info["objective"],
            "objective_share": info["objective"] / max(state.start_objective, 1e-12),
            "direct_objective": info["direct_objective"],
            "invalid_actions": sum(bool(i["invalid_action"]) for i in infos),
        }  # fmt: skip

    @staticmethod
    def reference_row(case: DoseShapingCase) -> dict:
        """The solver from the same start, run to the end of its kept trace, first weighting."""
        metrics, direct = case.anchors.reference_metrics, case.anchors.direct
        return {
            "agent": DIRECT, "case": case.case_id, "score": 1.0, "Q": case.quality(metrics),
            "objective_share": float(np.mean([d[-1] / d[0] for d in direct])),
            "dose_products": 2.0 * (len(direct[0]) - 1), **figures(case, metrics),
        }  # fmt: skip

    @staticmethod
    def report(rows: Sequence[Mapping], agent: str | None, folder: Path) -> str:
        """Nothing beside the scores."""
        return ""

    @staticmethod
    def draw(state, title: str):
        """A figure of a final state."""
        from ptenv.envs.dose_shaping_render import picture_figure

        return picture_figure(state, title=title)


def figures(case: DoseShapingCase, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plan's figures that the table shows; NaN where a structure is missing."""
    target = metrics[case.targets[0]]
    parotids = [m["Mean[Gy]"] for name, m in metrics.items() if name.startswith("Parotid")]
    return {
        "D95": target["D95%[%]"], "D2": target["D2%[%]"],
        "cord_gy": float(metrics.get("SpinalCord", {}).get("D0.1cc[Gy]", NAN)),
        "brainstem_gy": float(metrics.get("Brainstem", {}).get("D0.1cc[Gy]", NAN)),
        "parotid_gy": float(np.mean(parotids)) if parotids else NAN,
    }  # fmt: skip
