"""How energy-layer episodes are judged and shown: the paper's figures, robustness, delivery."""

from collections.abc import Mapping, Sequence

from ptenv.cases.energy_layer_case import EnergyLayerCase

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
    budgets = (1.1, 1.25, 1.5, 2.0)  # multiples of the least delivery time
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
    def draw(state, title: str):
        """A figure of a final state."""
        from ptenv.envs.energy_layer_render import picture_figure

        return picture_figure(state, title=title)


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
