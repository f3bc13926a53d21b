"""Local credit: where it looks, which way it points, against an exact gradient."""

import numpy as np
import pytest
import torch

from agents.voxel_sampling.policy_gradient import LocalCredit, smoothed

N = 6


def gradient(loss, visit, logits):
    """Of the loss by the log odds of being selected (n,)."""
    odds = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    log_p = torch.log_softmax(torch.stack([torch.zeros(N), odds]), dim=0).reshape(2, 1, 1, N)
    loss(log_p, visit)[0].backward()
    return odds.grad.numpy()


def cost(selected, harm):
    """Penalties of the rows (8,): what harm voxels do that are left out, and a bit everywhere."""
    penalty = np.full(8, 0.1)
    penalty[1:7] += np.where(selected, 0.0, harm)
    return penalty


@pytest.mark.parametrize("baseline", ["mean", "pair", "mode"])
def test_voxels_that_matter_are_learned_and_others_dropped(toy_visit, toy_plan, baseline):
    harm, rng, logits = np.array([1.0, 1, 1, 0, 0, 0]), np.random.default_rng(0), np.zeros(N)
    loss = LocalCredit(price=0.3, sigma_mm=0.0, baseline=baseline, entropy=0.0)
    for step in range(300):
        p = 1 / (1 + np.exp(-logits))
        drawn = [rng.random(N) < p for _ in range(2)]
        if baseline == "mode":
            drawn[1] = p > 0.5
        if baseline == "mean":
            drawn = drawn[:1]
        plans = [toy_plan(penalty=cost(d, harm)) for d in drawn]
        visit = toy_visit(drawn[0], *plans, second=drawn[1] if len(drawn) > 1 else None,
                          chances=p.astype(np.float32), step=step)  # fmt: skip
        logits -= 2.0 * gradient(loss, visit, logits)
    assert logits[:3].min() > 1.0
    assert logits[3:].max() < -1.0


def test_the_credit_is_the_gradient_of_the_expected_objective(toy_visit, toy_plan):
    """Over all 2⁶ masks, with a wide neighborhood, against the baseline's F."""
    harm, logits = np.array([1.0, 0.5, 0, 0, 0.2, 0]), np.array([0.3, -0.2, 0, 1, -1, 0.5])
    p, found = 1 / (1 + np.exp(-logits)), np.zeros(N)
    base = cost(np.zeros(N, bool), harm)
    for code in range(2**N):
        selected = np.array([code >> i & 1 for i in range(N)], bool)
        chance = np.prod(np.where(selected, p, 1 - p))
        loss = LocalCredit(price=0.0, sigma_mm=1e4, entropy=0.0, baseline="mean")
        loss.remember({"toy": base.astype(np.float32)})
        visit = toy_visit(selected, toy_plan(penalty=cost(selected, harm)),
                          chances=p.astype(np.float32))  # fmt: skip
        found += chance * gradient(loss, visit, logits)
    wanted = -harm * p * (1 - p) / base.sum()  # of Σ (1 − p) harm / F
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_price_is_that_of_the_selected_share(toy_visit, toy_plan):
    visit, logits = toy_visit([1, 0] * 3, toy_plan(penalty=np.ones(8))), np.zeros(N)
    found = gradient(LocalCredit(price=0.6, entropy=0.0), visit, logits)
    np.testing.assert_allclose(found, 0.6 / N * 0.25, rtol=1e-4)


def test_the_entropy_pulls_to_a_half(toy_visit, toy_plan):
    logits = np.array([-1.0, 1, -2, 2, 0, 0.5])
    p = (1 / (1 + np.exp(-logits))).astype(np.float32)
    visit = toy_visit([1, 0] * 3, toy_plan(penalty=np.ones(8)), chances=p)
    found = gradient(LocalCredit(price=0.0, entropy=1.0), visit, logits)
    assert np.all(np.sign(found) == np.sign(logits))


def test_credit_fades_with_distance(toy_volume):
    volume, one = toy_volume(), np.zeros(8)
    one[3] = 2.0
    around = smoothed(volume, one, 2.0)  # a voxel is 2 mm
    assert around[2] == pytest.approx(2.0)
    assert around[3] == pytest.approx(2.0 * np.exp(-0.5), rel=1e-6)
    np.testing.assert_allclose(smoothed(volume, one, 0.0), one[volume.rows])


def test_old_chances_are_followed_only_so_far(toy_visit, toy_plan):
    loss = LocalCredit(price=0.0, entropy=0.0, sigma_mm=0.0, clip=0.2)
    loss.remember({"toy": np.ones(8, np.float32)})
    visit = toy_visit([1] * N, toy_plan(penalty=np.zeros(8)),
                      chances=np.full(N, 0.1, np.float32))  # fmt: skip
    np.testing.assert_allclose(gradient(loss, visit, np.zeros(N)), 0.0)  # five times as likely now


def test_the_mean_is_one_plan_a_patient(toy_visit, toy_plan):
    loss = LocalCredit()
    for step in range(50):
        visit = toy_visit([1] * N, toy_plan(penalty=np.full(8, float(step))))
        gradient(loss, visit, np.zeros(N))
    assert list(loss.state()) == ["toy"]
    assert loss.state()["toy"].shape == (8,)


@pytest.mark.parametrize(
    "wrong", [{"baseline": "best"}, {"price": -1}, {"memory": 0.0}, {"clip": 2.0}]
)
def test_what_means_nothing_is_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        LocalCredit(**wrong)
