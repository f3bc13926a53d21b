"""The trained network as an agent of the voxel-mask environments, and as a sampler of rows."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agents.baselines.voxel_mask import MaskBaseline, evaluations_of
from agents.nets.pnet import PNet
from agents.network_folders import read_card
from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.module import chances
from agents.voxel_sampling.study_problem import RING_GROUP
from agents.voxel_sampling.training import CARD, load_pnet
from ptenv.cases.case import Case
from ptenv.envs.voxel_mask import State

WEIGHTS = Path(__file__).parent.parent / "weights"
MODES = ("budget", "probability")
RING_RATE = 1 / 8  # of normal tissue where training had none
KEPT = 4  # cases whose chances are remembered


@dataclass
class PNetSampler:
    """Voxels drawn with the network's chances; ``settings``, ``bind`` and ``predict`` play.

    ``path`` is a folder that training wrote, or the name of weights that ship with the package.
    ``mode="budget"`` fills the work that the environment allows, one voxel after another;
    "probability" draws every voxel by itself, as Quarz 2024 does, and pays for what that takes.
    ``evaluations`` of a round, as ``uniform`` has them; the paper's are 100. ``rows`` takes none of
    normal tissue; environments judge it, so that ``ring_rate`` of it joins where the agent plays
    (None: that of training, or 1/8). A mask without any leaves the weight of the ring's objectives
    to one seeded voxel. ``even``: voxels lie evenly (None: as in training), or are drawn one by one
    as Quarz 2024 has it.
    """

    path: str
    mode: str = "budget"
    evaluations: int | None = None
    ring_rate: float | None = None
    even: bool | None = None
    n_rounds: int = field(default=1, init=False)
    _net: PNet | None = field(default=None, init=False, repr=False)
    _card: dict = field(default_factory=dict, init=False, repr=False)
    _known: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _player: MaskBaseline | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is unknown; choose from {MODES}.")
        evaluations_of(self.evaluations)  # refuses what is no number of them
        if self.ring_rate is not None and not 0.0 <= self.ring_rate <= 1.0:
            raise ValueError(f"ring_rate={self.ring_rate} must lie in 0 … 1, or be null.")

    # ------------------------------------------------------------------ as an agent

    def settings(self, budget: float) -> dict:
        """Arguments of the environment that it plays."""
        return {"action": "mask", "mask_evaluations": evaluations_of(self.evaluations)(budget)}

    def bind(self, env, seed: int = 0) -> "PNetSampler":
        self._player = MaskBaseline(
            self._rates_of, evaluations_of(self.evaluations), fills=self.mode == "budget",
            even=self.evenly,
        ).bind(env, seed)  # fmt: skip
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        """Mask (max_rows,) int8 for one observation, (n_envs, max_rows) for a batch; and None."""
        if self._player is None:
            raise RuntimeError("the sampler reads its environment: call bind(env) before predict.")
        return self._player.predict(observation, state, episode_start, deterministic)

    def _rates_of(self, state: State) -> np.ndarray:
        ring = self._ring_rate() * ((state.case.group == RING_GROUP) & state.case.candidates)
        return self.rates(state.case) + ring

    def _ring_rate(self) -> float:
        if self.ring_rate is not None:
            return self.ring_rate
        self._load()
        trained = self._card["turns"]["ring_rate"]
        return RING_RATE if trained is None else trained

    # ------------------------------------------------------------------ as a sampler

    def rates(self, case: Case, rng=None, weights=None) -> np.ndarray:
        """Chance of every row (n_rows,), 0 in normal tissue and where equation (1) removed it."""
        if case.key not in self._known:
            while len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[case.key] = self._chances(case)
        return self._known[case.key]

    def rows(self, case: Case, rng: np.random.Generator, weights=None) -> np.ndarray:
        """Rows (n_rows,) bool, each with its chance; none of normal tissue."""
        return case.thresholds(rng, self.evenly) < self.rates(case)

    @property
    def learned_on(self) -> tuple[str, ...]:
        """Names of the patients whose plans it learned from, without paths."""
        self._load()
        return tuple(self._card.get("learned_on", ()))

    @property
    def learned(self) -> dict:
        """The cases that it learned on, and its environment."""
        card = read_card(pnet_folder(self.path), CARD)
        return {"env_id": card.get("environment", {}).get("id"), "seed": card.get("seed"),
                "cases": list(card.get("learned_on", ()))}  # fmt: skip

    @property
    def evenly(self) -> bool:
        """Whether voxels are spread evenly."""
        if self.even is not None:
            return self.even
        self._load()
        return bool(self._card["turns"].get("even", False))

    def extra_work(self, case: Case) -> int:
        """Choosing touches no entry of the matrix."""
        return 0

    def _chances(self, case: Case) -> np.ndarray:
        self._load()
        volume = CaseVolume.of(case)
        rates = np.zeros(case.influence.n_rows)
        rates[volume.rows] = chances(self._net, volume, self._card["bfloat16"])
        return rates

    def _load(self) -> None:
        if self._net is None:
            self._net, self._card = load_pnet(pnet_folder(self.path))

    def __getstate__(self) -> dict:
        unread = {"_net": None, "_card": {}, "_known": {}, "_player": None}
        return {**self.__dict__, **unread}  # other processes read it from disk


def is_pnet(path: str) -> bool:
    """Whether a path names a sampling network: a folder of one's own, or weights that ship."""
    return any((folder / CARD).exists() for folder in _candidates(path))


def pnet_folder(path: str) -> Path:
    """A folder of a person's own, a run's output folder, or weights that ship with ptenv."""
    for folder in _candidates(path):
        if (folder / CARD).exists():
            return folder
    shipped = sorted(p.name for p in WEIGHTS.glob("*") if (p / CARD).exists())
    raise FileNotFoundError(
        f"network {path!r}: no such folder; give one that `ptenv train agent=pnet` wrote, or one "
        f"of {shipped}."
    )


def _candidates(path: str) -> tuple[Path, Path, Path]:
    return Path(path), Path(path) / "agent", WEIGHTS / path
