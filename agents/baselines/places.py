"""Chance of baselines: a stream of their own, apart from their environments'."""

import numpy as np

OWN = 1  # numpy pads a seed with zeros: without it place 0 would draw what its environment draws


def places_of(env, seed: int) -> list[tuple[object, np.random.Generator]]:
    """One environment, or every one of a DummyVecEnv, each with its generator."""
    every = getattr(env, "envs", [env])
    return [(e, np.random.default_rng([seed, i, OWN])) for i, e in enumerate(every)]
