"""What a sampling study leaves in its folder: tables, tests and pictures.

table_2 (txt, csv, md), organs (txt, csv), ks.txt, figure_4.png, figure_5.png and the dose washes of
the best and the worst patient, figure_2_best.png and figure_2_worst.png.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.environments import AnyEnvironment
from agents.voxel_sampling import study_tables as tables
from agents.voxel_sampling.study import PLANS, KeptPlans, case_named
from agents.voxel_sampling.study_plans import REDUCED, REFERENCE
from ptenv.rendering import save, score_table
from ptenv.rendering_voxel_sampling import Drawn, Points, patients_figure, plans_figure

FIGURE_4 = {
    "sv_percent": "selected voxels in %", "d95_percent": "D95 of the target in %",
    "cn_percent": "CN in %", "hi_percent": "HI in %",
}  # fmt: skip
FIGURE_5 = {"memory_mib": "memory in MiB", "optimization_s": "optimization in s"}
WITHOUT_REFERENCE = ("sv_percent",)  # it is 100 % and more by definition


@dataclass(frozen=True)
class Report:
    """Writes tables and pictures of a study's rows into a folder.

    ``heuristic`` is the sampler that others are tested against beside the reference; ``models``
    are those that say which patient is best and worst. Both may be absent.
    """

    folder: Path
    environment: AnyEnvironment
    heuristic: str | None
    models: Sequence[str]
    note: str = ""  # below the table

    def write(self, rows: Sequence[Mapping]) -> str:
        """All of it; returns the table that a person reads first."""
        text = self.write_tables(rows)
        self.write_figures(rows)
        self.write_dose_washes(rows)
        return text

    def write_tables(self, rows: Sequence[Mapping]) -> str:
        shown = tables.shown_table_2(rows)
        density = ", ".join(f"{d:.0f}" for d in sorted({r["voxels_per_cm3"] for r in rows}))
        said = (tables.EXPLAINED, f"Voxels per cm³ in the targets: {density}.", self.note)
        explained = "\n".join(line for line in said if line)
        text = f"{_narrow(shown)}\n\n{explained}"
        (self.folder / "table_2.txt").write_text(f"{text}\n", encoding="utf-8")
        marked = f"{tables.markdown(shown)}\n\n{explained}\n"
        (self.folder / "table_2.md").write_text(marked, encoding="utf-8")
        organs = tables.organs_table(rows)
        (self.folder / "organs.txt").write_text(f"{score_table(organs)}\n", encoding="utf-8")
        tests = score_table(tables.ks_table(rows, self._tested_against(rows)), decimals=4)
        (self.folder / "ks.txt").write_text(f"{tests}\n", encoding="utf-8")
        return f"{text}\n\n{tests}"

    def write_figures(self, rows: Sequence[Mapping]) -> None:
        order = tables.by_volume(rows)
        volumes = {row["case"]: row["target_cm3"] for row in rows}
        patients = [f"{n}\n{volumes[c]:.3g} cm³" for n, c in enumerate(order, start=1)]
        (self.folder / "patients.txt").write_text(
            "".join(f"{n}  {c}  {volumes[c]:.1f} cm³\n" for n, c in enumerate(order, start=1)),
            encoding="utf-8",
        )
        for file, keys in (("figure_4.png", FIGURE_4), ("figure_5.png", FIGURE_5)):
            panels = {label: _panel(rows, order, key) for key, label in keys.items()}
            logarithmic = tuple(panels) if keys is FIGURE_5 else ()
            figure = patients_figure(panels, patients, REFERENCE, logarithmic=logarithmic)
            save(figure, self.folder / file)

    def write_dose_washes(self, rows: Sequence[Mapping]) -> None:
        known = tables.sampler_names(rows)
        models = [m for m in self.models if m in known]
        if not models:
            return
        for what, case in zip(("best", "worst"), tables.best_and_worst(rows, models)):
            figure = self._dose_wash(rows, case, models, what)
            save(figure, self.folder / f"figure_2_{what}.png")

    def _dose_wash(self, rows, name: str, models: Sequence[str], what: str):
        case, kept = case_named(self.environment, name), KeptPlans.read(self.folder / PLANS, name)
        marked = dict.fromkeys(n for n in (self.heuristic, *models) if n in kept.names)
        plans = [_drawn(kept, rows, name, n) for n in (REFERENCE, *marked)]
        volume = case.volumes_cm3[case.targets[0]]
        title = f"{case.case_id}: the {what} patient by ΔD95, target {volume:.0f} cm³"
        return plans_figure(case, plans, title=title, rbe=case.quantity.rbe)

    def _tested_against(self, rows: Sequence[Mapping]) -> list[str]:
        known = tables.sampler_names(rows)
        return [n for n in (REFERENCE, self.heuristic) if n in known]


def _panel(rows, order: Sequence[str], key: str) -> dict[str, Points]:
    names = [n for n in tables.sampler_names(rows) if n != REDUCED]
    if key in WITHOUT_REFERENCE:
        names.remove(REFERENCE)
    panel = {}
    for name in names:
        found = tables.by_patient(rows, name, key)
        panel[name] = Points(*np.array([found[case] for case in order]).T)
    return panel


def _drawn(kept: KeptPlans, rows, case: str, name: str) -> Drawn:
    (row,) = [r for r in rows if (r["case"], r["sampler"], r["sampling"]) == (case, name, 0)]
    at = kept.names.index(name)
    title = f"{name}: D95 {row['d95_percent']:.1f} %, CN {row['cn_percent']:.0f} %"
    if name == REFERENCE:
        return Drawn(kept.dose_gy[at], None, f"{title}, {row['selected']:,.0f} voxels")
    title += f", {row['sv_percent']:.1f} % of the voxels, gamma {row['gamma_percent']:.0f} %"
    return Drawn(kept.dose_gy[at], kept.rows[at], title)


def _narrow(shown: Sequence[Mapping[str, str]]) -> str:
    """The table in blocks of samplers that fit a screen, one below the other."""
    names = [n for n in shown[0] if n not in ("criterion", "type") and not n.endswith(" min–max")]
    blocks = []
    for first in range(0, len(names), 3):
        columns = [c for n in names[first : first + 3] for c in (n, f"{n} min–max")]
        blocks.append(score_table(shown, ["criterion", "type", *columns]))
    return "\n\n".join(blocks)
