"""Tables 1 and 2 and figure 2 of Yang et al. 2025 for any agents over a cohort, with paired tests.

Rows are episodes as ``agents.evaluation.evaluate`` gives them. A comparison is of the same patients
at the same delivery-time limit; it holds where the mean D98 of the two differ by one percentage
point at most, and says so where it does not.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from engine.evaluation.paired import PairedComparison, paired_comparison

FIGURES = {  # column: title, whether more is better
    "D98": ("D98 %", True), "D2": ("D2 %", False), "HI": ("HI %", False), "CI": ("CI", True),
    "brainstem_mean_gy": ("stem mean Gy", False), "brainstem_max_gy": ("stem max Gy", False),
    "D95_worst": ("D95 worst %", True), "rvh_target_gy": ("RVH area Gy", False),
    "delivery_s": ("delivery s", False), "switching_s": ("switching s", False),
    "n_up": ("up", False), "n_down": ("down", False), "n_unchanged": ("unchanged", True),
    "inference_s": ("inference s", False), "score": ("score", True),
}  # fmt: skip
EQUAL_D98 = 1.0  # percentage points


def limits_of(rows: Sequence[Mapping]) -> list[float]:
    """Delivery-time limits that were played, ascending."""
    return sorted({row["budget"] for row in rows if "budget" in row})


def by_case(rows: Sequence[Mapping], agent: str, limit: float, figure: str) -> dict[str, float]:
    """An agent's figure per case at a limit, its samplings averaged."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["agent"] == agent and row.get("budget") == limit:
            values.setdefault(row["case"], []).append(row[figure])
    return {case: float(np.mean(v)) for case, v in values.items()}


def means(rows: Sequence[Mapping], limit: float) -> list[dict]:
    """Mean ± standard deviation over cases of every figure, one line an agent."""
    agents = list(dict.fromkeys(row["agent"] for row in rows if row.get("budget") == limit))
    lines = []
    for agent in agents:
        line = {"agent": agent}
        for figure, (title, _) in FIGURES.items():
            values = [v for v in by_case(rows, agent, limit, figure).values() if np.isfinite(v)]
            line[title] = _plus_minus(values)
        lines.append(line)
    return lines


def comparisons(
    rows: Sequence[Mapping], agent: str, reference: str, limit: float, rng: np.random.Generator
) -> dict[str, PairedComparison]:
    """Agent minus reference, figure by figure, over the cases that both played."""
    found = {}
    for figure in FIGURES:
        ours, theirs = (by_case(rows, name, limit, figure) for name in (agent, reference))
        cases = sorted(set(ours) & set(theirs))
        a, b = ([of[case] for case in cases] for of in (ours, theirs))
        if len(cases) >= 2 and np.isfinite(np.array(a) - np.array(b)).sum() >= 2:
            found[figure] = paired_comparison(a, b, rng)
    return found


def compared(
    rows: Sequence[Mapping], agent: str, references: Sequence[str], rng: np.random.Generator
) -> list[dict]:
    """Lines of mean differences with their intervals and p, for every limit and reference."""
    lines = []
    for limit in limits_of(rows):
        for reference in references:
            found = comparisons(rows, agent, reference, limit, rng)
            if not found:
                continue
            holds = abs(found["D98"].mean) <= EQUAL_D98
            line = {"limit": f"{limit:g} ×", "against": reference, "n": found["D98"].n,
                    "D98 equal": "yes" if holds else "NO"}  # fmt: skip
            for figure in ("D98", "HI", "CI", "brainstem_mean_gy", "D95_worst", "rvh_target_gy",
                           "delivery_s", "switching_s"):  # fmt: skip
                if figure in found:
                    line[FIGURES[figure][0]] = _difference(found[figure])
            lines.append(line)
    return lines


def volumes(rows: Sequence[Mapping], limit: float, figure: str) -> dict[str, np.ndarray]:
    """Per agent target volumes in cm³ and a figure (n, 2): the points of figure 2."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.get("budget") == limit and np.isfinite(row[figure]):
            points.setdefault(row["agent"], []).append((row["target_cm3"], row[figure]))
    return {agent: np.array(of) for agent, of in points.items()}


def _plus_minus(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    digits = 3 if max(map(abs, values)) < 2 else 1
    return f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"


def _difference(found: PairedComparison) -> str:
    digits = 3 if abs(found.mean) < 0.5 else 2
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}] " + (
        f"p {found.p_value:.3f}" if found.p_value >= 0.001 else "p < 0.001"
    )
