"""The network: any size, probabilities that are ones, masks that hold."""

from time import perf_counter

import numpy as np
import pytest
import torch

from agents.nets.sparc_unet import SparcUnet


def inputs(n_angles, n_layers, n_planes=2, batch=2):
    rng = torch.Generator().manual_seed(0)
    planes = torch.rand(batch, n_planes, n_angles, n_layers, generator=rng)
    valid = torch.rand(batch, n_angles, n_layers, generator=rng) < 0.4
    return planes, torch.rand(batch, n_angles, generator=rng), valid


@pytest.mark.parametrize("size", [(72, 102), (180, 102), (24, 20), (7, 5)])
@pytest.mark.parametrize("periodic", [False, True])
def test_any_number_of_angles_and_layers_gives_probabilities(size, periodic):
    net = SparcUnet(periodic=periodic)
    planes, wed, valid = inputs(*size)
    log_p = net(planes, wed, valid)
    assert log_p.shape == (2, *size)
    p = log_p.exp()
    np.testing.assert_allclose(p.sum(dim=2).detach(), 1.0, rtol=1e-5)
    kept = valid | ~valid.any(dim=2, keepdim=True)
    assert float(p[~kept].detach().sum()) == 0.0


def test_the_levels_are_the_paper_s():
    widths = [block[0].conv.out_channels for block in SparcUnet().down]
    assert widths == [16, 32, 64, 128]
    assert all(c.conv.kernel_size == (3, 3) for block in SparcUnet().down for c in block[::2])
    assert all(block[1].negative_slope == 0.2 for block in SparcUnet().down)


def test_the_depth_matters():
    net = SparcUnet().eval()
    planes, wed, valid = inputs(24, 20)
    assert not torch.allclose(net(planes, wed, valid), net(planes, wed + 0.5, valid))


def test_a_periodic_network_turns_with_the_arc():
    net = SparcUnet(periodic=True).eval()
    planes, wed, valid = inputs(24, 20)
    turned = net(planes.roll(8, 2), wed.roll(8, 1), valid.roll(8, 1))
    torch.testing.assert_close(turned, net(planes, wed, valid).roll(8, 1), atol=1e-4, rtol=1e-4)


def test_bounded_logits_keep_every_chance_alive():
    net = SparcUnet(logit_limit=2.0)
    with torch.no_grad():
        net.last.weight.mul_(1e4)
    log_p = net(*inputs(24, 20)[:2])
    assert float(log_p.detach().min()) >= -4.0 - np.log(20) - 1e-4


def test_a_forward_pass_of_the_paper_s_size_takes_a_fraction_of_a_second():
    net, n = SparcUnet().eval(), torch.get_num_threads()
    planes, wed, valid = inputs(72, 102, batch=1)
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            net(planes, wed, valid)
            began = perf_counter()
            net(planes, wed, valid)
        assert perf_counter() - began < 1.0, "the paper: 50 ms"
    finally:
        torch.set_num_threads(n)
