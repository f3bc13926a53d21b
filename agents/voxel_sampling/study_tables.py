"""Table 2 of Quarz 2024 for any samplers, one of organs, and Kolmogorov–Smirnov tests.

A patient's figure is the median over samplings, its spread their standard deviation (n − 1). A
table has the median and the range of both over the patients. Differences are reference − sampler.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import ks_2samp

from agents.voxel_sampling.study_plans import REFERENCE

NOMINAL, UNCERTAINTY, DIFFERENCE = "nominal", "uncertainty", "Δ"
TESTED = {NOMINAL: "d95_percent", UNCERTAINTY: "d95_percent_std"}


class Criterion(NamedTuple):
    """One row of the table; ``wanted`` is ↑ or ↓ where one of them is better."""

    name: str
    type: str
    key: str
    decimals: int
    wanted: str = ""

    @property
    def title(self) -> str:
        return f"{self.name} {self.wanted}".rstrip()


TABLE_2 = (
    Criterion("D95 [%]", NOMINAL, "d95_percent", 2, "↑"),
    Criterion("D95 [%]", UNCERTAINTY, "d95_percent_std", 2),
    Criterion("D95 [%]", DIFFERENCE, "delta_d95_percent", 2),
    Criterion("selected voxels", NOMINAL, "selected", 0, "↓"),
    Criterion("SV in the target [%]", NOMINAL, "sv_target_percent", 2, "↓"),
    Criterion("SV [%]", NOMINAL, "sv_percent", 2, "↓"),
    Criterion("HI [%]", NOMINAL, "hi_percent", 2, "↓"),
    Criterion("HI [%]", UNCERTAINTY, "hi_percent_std", 2),
    Criterion("HI [%]", DIFFERENCE, "delta_hi_percent", 2),
    Criterion("CN [%]", NOMINAL, "cn_percent", 2, "↑"),
    Criterion("CN [%]", UNCERTAINTY, "cn_percent_std", 2),
    Criterion("CN [%]", DIFFERENCE, "delta_cn_percent", 2),
    Criterion("gamma", NOMINAL, "gamma_percent", 1, "↑"),
    # what the paper reports beside its table, and what a claim needs besides
    Criterion("D95 of the worst target [%]", DIFFERENCE, "delta_d95_worst_target_percent", 2),
    Criterion("organs, near maximum [Gy]", DIFFERENCE, "delta_organ_gy", 2),
    Criterion("organs, mean [Gy]", DIFFERENCE, "delta_organ_mean_gy", 2),
    Criterion("voxels per spot", NOMINAL, "rows_per_spot", 2),
    Criterion("nonzeros", NOMINAL, "nonzeros", 0, "↓"),
    Criterion("memory [MiB]", NOMINAL, "memory_mib", 1, "↓"),
    Criterion("optimization [s]", NOMINAL, "optimization_s", 3, "↓"),
    Criterion("  of it masking [s]", NOMINAL, "masking_s", 3, "↓"),
    Criterion("time of Reference's", NOMINAL, "time_ratio", 3, "↓"),
    Criterion("choosing [s]", NOMINAL, "sampling_s", 3, "↓"),
    Criterion("choosing, of Reference's work", NOMINAL, "sampling_work", 3, "↓"),
    Criterion("objective F", NOMINAL, "objective", 4, "↓"),
    Criterion("score", NOMINAL, "score", 3, "↑"),
)
EXPLAINED = (
    "Median over patients of each patient's median over samplings, their standard deviation in "
    "brackets; then the range of both.\n"
    "nominal: as planned. uncertainty: standard deviation over the set-up scenarios. Δ: Reference "
    "− sampler; organs: the largest change of any organ, with its sign (negative: the sampler "
    "gives more).\n"
    "D95, HI = (D5 − D95)/prescription and CN (95 % isodose, over all rows that a case holds) of "
    "the target with the highest prescription. SV: of the voxels that equation (1) leaves, in the "
    "target of those of all targets.\n"
    "choosing: of a patient's samplings the longest, as a network remembers a patient.\n"
    "F and score: the environment's, with objectives on the ring where a case has them; plans here "
    "are made without, as in Quarz 2024."
)


class Spread(NamedTuple):
    """Of one figure and sampler: medians and ranges over the patients, of values and spreads."""

    median: float
    low: float
    high: float
    median_std: float
    low_std: float
    high_std: float


def by_patient(rows: Iterable[Mapping], sampler: str, key: str) -> dict[str, tuple[float, float]]:
    """{case: (median, standard deviation)} over a sampler's samplings; NaN for a single one."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["sampler"] == sampler:
            values.setdefault(row["case"], []).append(row[key])
    return {
        case: (float(np.median(of)), float(np.std(of, ddof=1)) if len(of) > 1 else float("nan"))
        for case, of in values.items()
    }


def spread(rows: Iterable[Mapping], sampler: str, key: str) -> Spread:
    medians, deviations = (np.array(a) for a in zip(*by_patient(rows, sampler, key).values()))
    return Spread(*_range(medians), *_range(deviations))


def sampler_names(rows: Iterable[Mapping]) -> list[str]:
    return list(dict.fromkeys(row["sampler"] for row in rows))


def table_2(rows: Sequence[Mapping]) -> list[dict]:
    """The table, long: one row a criterion and sampler."""
    return [
        {"criterion": c.name, "type": c.type, "sampler": s, **spread(rows, s, c.key)._asdict()}
        for c in TABLE_2
        for s in sampler_names(rows)
    ]


def shown_table_2(rows: Sequence[Mapping]) -> list[dict[str, str]]:
    """The table as it is printed: criteria below one another, two columns a sampler."""
    lines = []
    for c in TABLE_2:
        line = {"criterion": c.title, "type": c.type}
        for sampler in sampler_names(rows):
            line |= _cells(sampler, spread(rows, sampler, c.key), c.decimals)
        lines.append(line)
    return lines


def organs_table(rows: Sequence[Mapping]) -> list[dict]:
    """Per organ and metric what the reference gives, and each sampler's Δ: median and range.

    Only organs that a patient has count; ``n`` is how many have them.
    """
    names = sampler_names(rows)
    found = dict.fromkeys((o, m) for r in rows for o, of in r["organs"].items() for m in of)
    lines = []
    for organ, metric in sorted(found):
        of = [{"sampler": r["sampler"], "case": r["case"], "value": r["organs"][organ][metric]}
              for r in rows if organ in r["organs"]]  # fmt: skip
        known = by_patient(of, REFERENCE, "value")
        line = {"organ": organ, "metric": metric, "n": len(known),
                REFERENCE: float(np.median([v for v, _ in known.values()]))}  # fmt: skip
        for name in (n for n in names if n != REFERENCE):
            found_by = by_patient(of, name, "value")
            delta = np.array([known[case][0] - found_by[case][0] for case in known])
            line |= {f"Δ {name}": float(np.median(delta)), f"Δ {name} low": float(delta.min()),
                     f"Δ {name} high": float(delta.max())}  # fmt: skip
        lines.append(line)
    return lines


def ks_table(rows: Sequence[Mapping], others: Sequence[str] = (REFERENCE,)) -> list[dict]:
    """Two-sample Kolmogorov–Smirnov tests of the patients' D95, nominal and under uncertainty.

    ``others`` are what every sampler is compared with. A large p says no more than that this many
    patients show no difference.
    """
    lines = []
    for quantity, key in TESTED.items():
        known = {s: [v for v, _ in by_patient(rows, s, key).values()] for s in sampler_names(rows)}
        for other in others:
            for name in (n for n in known if n != other):
                if np.any(np.isnan(known[name] + known[other])):
                    continue  # no scenarios were asked for
                test = ks_2samp(known[name], known[other])
                lines.append({"D95": quantity, "sampler": name, "against": other,
                              "patients": len(known[name]), "D": float(test.statistic),
                              "p": float(test.pvalue)})  # fmt: skip
    return lines


def flat(row: Mapping) -> dict:
    """A row of figures for a table: organs' metrics as columns."""
    organs = {f"{o} {m}": v for o, of in row["organs"].items() for m, v in of.items()}
    return {k: v for k, v in row.items() if k != "organs"} | organs


def markdown(lines: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    cells = [names, ["---"] * len(names)]
    cells += [[str(line.get(n, "")).strip() for n in names] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def best_and_worst(rows: Sequence[Mapping], models: Sequence[str]) -> tuple[str, str]:
    """Cases where the models lose least and most target coverage, by their mean median ΔD95."""
    lost: dict[str, list[float]] = {}
    for name in models:
        for case, (median, _) in by_patient(rows, name, "delta_d95_percent").items():
            lost.setdefault(case, []).append(median)
    means = {case: float(np.mean(of)) for case, of in lost.items()}
    return min(means, key=means.get), max(means, key=means.get)


def by_volume(rows: Iterable[Mapping]) -> list[str]:
    """Cases, the smallest target first."""
    volumes = {row["case"]: row["target_cm3"] for row in rows}
    return sorted(volumes, key=volumes.get)


def _range(values: np.ndarray) -> tuple[float, float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return (float("nan"),) * 3
    return float(np.median(known)), float(known.min()), float(known.max())


def _cells(sampler: str, s: Spread, decimals: int) -> dict[str, str]:
    if np.isnan(s.median):
        return {sampler: "–", f"{sampler} min–max": "–"}
    low, high = f"{s.low:.{decimals}f}", f"{s.high:.{decimals}f}"
    middle, reach = f"{s.median:.{decimals}f}", f"{low} – {high}"
    if not np.isnan(s.median_std):
        middle += f" ({s.median_std:.{decimals}f})"
        reach += f" ({s.low_std:.{decimals}f}–{s.high_std:.{decimals}f})"
    return {sampler: middle, f"{sampler} min–max": reach}
