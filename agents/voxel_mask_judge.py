"""How voxel-mask episodes are judged and shown: columns, figures of a plan, keep-all."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.evaluation.plan_evaluation import delta_d95
from ptenv.cases.case import Case

KEEP_ALL_100 = "keep-all @ 100"

COLUMNS = {
    "agent": "agent", "score": "score", "score_se": "± se", "Q": "Q",
    "work_percent": "work %", "selected_percent": "voxels %",
    "dD95_high": "ΔD95 high", "dD95_worst": "ΔD95 worst", "cord_gy": "cord D0.1cc",
    "brainstem_gy": "stem D0.1cc", "parotid_gy": "parotid mean", "HI": "HI %", "CN": "CN %",
    "optimization_s": "opt. s",
}  # fmt: skip
DECIMALS = {
    "score": 3, "± se": 3, "Q": 3, "work %": 1, "voxels %": 1, "ΔD95 high": 2, "ΔD95 worst": 2,
    "cord D0.1cc": 1, "stem D0.1cc": 1, "parotid mean": 1, "HI %": 1, "CN %": 1, "opt. s": 3,
}  # fmt: skip
EXPLAINED = (
    "score: 0 uniform sampling, 1 keep-all at 100 evaluations, at equal work; se over cases. "
    "work: share of keep-all at 100 evaluations.\n"
    "voxels: rows kept in a round. ΔD95: percentage points lost to keep-all at 100 evaluations, "
    "highest and worst target.\n"
    "Doses in Gy (RBE). HI: (D2 − D98)/prescription; HI and CN of the highest target. "
    "opt. s: masking and solving, one thread."
)


class VoxelMaskJudge:
    """What a comparison needs to know of voxel-mask environments."""

    columns, decimals, explained = COLUMNS, DECIMALS, EXPLAINED
    budget = "budget"  # the argument of ``make`` that all agents play under
    episode_figures = ("score", "Q", "work_used")
    reference = KEEP_ALL_100

    @staticmethod
    def budget_title(budget: float) -> str:
        return f"{100 * budget:g} %"

    @staticmethod
    def episode(state, infos: Sequence[Mapping]) -> dict:
        """Figures of a finished episode; ``infos`` are those of its steps."""
        kept = [(info["n_evaluations"], info["selected_percent"]) for info in infos]
        info = infos[-1]
        return {
            **figures(state.case, info["metrics"]),
            "budget": info["budget"], "work_percent": 100.0 * info["work_used"] * info["budget"],
            "selected_percent": _mean_kept(kept), "rounds": len(infos),
        }  # fmt: skip

    @staticmethod
    def reference_row(case: Case) -> dict:
        """Keep-all at 100 evaluations: what scores 1, at as many times the work as budgets say."""
        metrics = case.anchors.reference_metrics
        return {
            "agent": KEEP_ALL_100, "case": case.case_id, "score": 1.0, "Q": case.quality(metrics),
            "work_percent": 100.0, "selected_percent": 100.0, **figures(case, metrics),
        }  # fmt: skip

    @staticmethod
    def report(rows: Sequence[Mapping], agent: str | None, folder: Path) -> str:
        """Nothing beside the scores."""
        return ""

    @staticmethod
    def draw(state, title: str):
        """A figure of a final state."""
        from ptenv.envs.voxel_mask_render import picture_figure

        return picture_figure(state, title=title)


def figures(case: Case, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plan's figures that the table shows; NaN where a structure is missing."""
    reference = case.anchors.reference_metrics
    lost = delta_d95(reference, metrics, case.targets)
    high = case.targets[0]
    parotids = [m["Mean[Gy]"] for name, m in metrics.items() if name.startswith("Parotid")]
    return {
        "dD95_high": lost[high], "dD95_worst": max(lost.values()),
        "cord_gy": _metric(metrics, "SpinalCord", "D0.1cc[Gy]"),
        "brainstem_gy": _metric(metrics, "Brainstem", "D0.1cc[Gy]"),
        "parotid_gy": float(np.mean(parotids)) if parotids else float("nan"),
        "HI": metrics[high]["HI[%]"], "CN": metrics[high]["CN[%]"],
    }  # fmt: skip


def _mean_kept(kept: Sequence[tuple[int, float]]) -> float:
    """Selected voxels over the rounds that optimized, by their evaluations."""
    n = sum(evaluations for evaluations, _ in kept)
    return sum(e * percent for e, percent in kept) / n if n else 0.0


def _metric(metrics, structure: str, name: str) -> float:
    return float(metrics.get(structure, {}).get(name, float("nan")))
