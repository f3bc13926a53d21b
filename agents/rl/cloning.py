"""Fits a policy to actions that a teacher took: behavioural cloning."""

import numpy as np
import torch

LARGEST_GRADIENT = 1.0


def clone(
    policy, seen, actions: np.ndarray, seed: int, *, epochs: int, batch_size: int,
    learning_rate: float, masks: np.ndarray | None = None,
) -> list[float]:  # fmt: skip
    """Fit ``policy`` to ``actions`` (n,) on observations ``seen``, an array (n, …) or a dict of
    them; returns the loss (mean −log π of the teacher) of every epoch. ``masks`` (n, n_actions) of
    policies that take some.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    losses = []
    for _ in range(epochs):
        order, total = rng.permutation(len(actions)), 0.0
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            masked = {} if masks is None else {"action_masks": masks[batch]}
            _, log_prob, _ = policy.evaluate_actions(
                _at(seen, batch), torch.from_numpy(actions[batch]), **masked
            )
            loss = -log_prob.mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(order))
    return losses


def stacked(observations: list):
    """Observations one after another as an array (n, …), or a dict of them."""
    if isinstance(observations[0], dict):
        return {k: np.stack([o[k] for o in observations]) for k in observations[0]}
    return np.stack(observations)


def _at(seen, batch: np.ndarray):
    if isinstance(seen, dict):
        return {k: torch.from_numpy(v[batch]) for k, v in seen.items()}
    return torch.from_numpy(seen[batch])
