"""Default clinical goals by site, each with where it was published.

Limits are total doses in Gy (RBE) in conventional fractions; for protons they are applied to
doses with RBE 1.1.
"""

from engine.evaluation.scorecard import Goal
from engine.patient.patient import Patient, without_side
from engine.patient.structures import RING

_COVERAGE = "ICRU Report 50 (1993): 95 % of the dose, read at D95 (ICRU Report 83, 2010)"
_HOT_SPOT = "ICRU Report 50 (1993): 107 % of the dose, read at D2 (ICRU Report 83, 2010)"
_OPTIC = "QUANTEC, Mayo et al., IJROBP 76 (2010) S28: below 55 Gy neuropathy is rare"
_PAROTID = "RTOG 0225/0615: mean < 26 Gy; QUANTEC, Deasy et al., IJROBP 76 (2010) S58"

# TG-263 name without its side: (metric, limit, source)
_ORGANS = {
    "SpinalCord": (
        "D0.1cc[Gy]", 45.0, "RTOG 0225/0615; QUANTEC, Kirkpatrick et al., IJROBP 76 (2010) S42"
    ),
    "Brainstem": (
        "D0.1cc[Gy]", 54.0, "RTOG 0225/0615; QUANTEC, Mayo et al., IJROBP 76 (2010) S36"
    ),
    "OpticChiasm": ("D0.1cc[Gy]", 55.0, _OPTIC),
    "OpticNrv": ("D0.1cc[Gy]", 55.0, _OPTIC),
    "Eye": ("Mean[Gy]", 35.0, "RTOG 0615: mean < 35 Gy"),
    "Parotid": ("Mean[Gy]", 26.0, _PAROTID),
    "Bone_Mandible": ("D2%[Gy]", 70.0, "RTOG 0225/0615: 70 Gy, read at D2"),
    "Larynx": (
        "Mean[Gy]", 45.0, "RTOG 0615: mean < 45 Gy; QUANTEC, Rancati et al., IJROBP 76 (2010) S64"
    ),
}  # fmt: skip


def head_and_neck_goals(
    patient: Patient, ring: str = RING, integral: bool = False
) -> tuple[Goal, ...]:
    """Goals for the targets and organs that a patient has, and for normal tissue.

    Every target D95 ≥ 95 %, the highest one D2 ≤ 107 %. The normal-tissue goals have no published
    limit. The structure ``ring`` must be evaluated too; ``integral`` adds the mean dose of the
    body, which only anchors of the same case make a score of (a scan that ends at the target's
    edge holds little else).
    """
    goals = [Goal(t, "D95%[%]", 95.0, "at least", _COVERAGE, "target") for t in patient.targets]
    goals.append(Goal(patient.targets[0], "D2%[%]", 107.0, "at most", _HOT_SPOT, "target"))
    for name in patient.organs:
        if without_side(name) in _ORGANS:
            metric, limit, source = _ORGANS[without_side(name)]
            goals.append(Goal(name, metric, limit, "at most", source))
    return tuple(goals) + normal_tissue_goals(patient, ring, integral)


def normal_tissue_goals(
    patient: Patient, ring: str = RING, integral: bool = False
) -> tuple[Goal, ...]:
    """Mean dose of the ring and, if wished, of the whole body, relative to the highest
    prescription; the limits are a convention of this package.
    """
    convention = "convention of this package; no published limit"
    goals = [Goal(ring, "Mean[%]", 50.0, "at most", convention, "normal tissue")]
    if integral:
        body = patient.external.name
        goals.append(Goal(body, "Mean[%]", 15.0, "at most", convention, "normal tissue"))
    return tuple(goals)
