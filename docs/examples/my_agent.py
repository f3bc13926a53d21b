"""An agent for proton arcs: down the ladder of energies, and up again when it must."""

import numpy as np

CHOSEN, HERE, ALLOWED = 5, 6, 8  # planes of the observation


class MyAgent:
    """At every angle an allowed layer two steps down or more; the highest when there is none."""

    env_ids = ("ptenv/EnergyLayer-mini-v0", "ptenv/EnergyLayer-v0")  # what it is meant for
    learned = None  # it did not learn; a learner: [{"cases": ["head-and-neck-00000", …]}, …]

    def __init__(self, step: int = 2):
        self.step = step  # layers down from angle to angle

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        """The layer for one observation, and None for the state."""
        plane = observation["plane"]
        angle = int(plane[HERE].any(axis=1).argmax())
        before = np.flatnonzero(plane[CHOSEN, angle - 1]) if angle else []
        allowed = np.flatnonzero(plane[ALLOWED, angle])
        lower = allowed[allowed <= before[0] - self.step] if len(before) else []
        return int(lower[-1] if len(lower) else allowed[-1]), None
