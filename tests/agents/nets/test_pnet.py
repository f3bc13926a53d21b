"""The network: any size, chances that are ones, how far a voxel sees."""

import numpy as np
import pytest
import torch

from agents.nets.pnet import DILATIONS, LAYERS, PNet


@pytest.mark.parametrize("size", [(9, 12, 7), (1, 1, 1), (20, 3, 30)])
def test_any_size_gives_probabilities(size):
    log_p = PNet()(torch.rand(2, 3, *size))
    assert log_p.shape == (2, 2, *size)
    np.testing.assert_allclose(log_p.exp().sum(dim=1).detach(), 1.0, rtol=1e-5)


def test_blocks_are_the_paper_s():
    net = PNet()
    convs = [[m for m in block if isinstance(m, torch.nn.Conv3d)] for block in net.blocks]
    assert [len(block) for block in convs] == [2, 2, 3, 3, 3]
    assert [block[0].dilation[0] for block in convs] == [1, 2, 3, 4, 5]
    assert all(c.kernel_size == (3, 3, 3) for block in convs for c in block)
    assert [side[0].kernel_size for side in net.sides] == [(1, 1, 1)] * 5
    assert net.last[0].in_channels == 5 * net.side_channels == 20


def test_a_voxel_sees_42_to_every_side():
    reach = sum(n * d for n, d in zip(LAYERS, DILATIONS))
    assert reach == 42
    net = PNet(channels=4).double()
    for parameter in net.parameters():  # nothing is cut, nothing cancels
        parameter.data.abs_()
    line = torch.rand(1, 3, 1, 1, 2 * reach + 5, dtype=torch.double, requires_grad=True)
    middle = reach + 2
    logits = net.last[0](torch.cat(_sides(net, line), dim=1))
    logits[0, :, 0, 0, middle].sum().backward()
    seen = np.flatnonzero(line.grad[0].abs().sum(dim=0)[0, 0])
    assert (seen.min(), seen.max()) == (middle - reach, middle + reach)


def _sides(net, x):
    sides = []
    for block, side in zip(net.blocks, net.sides):
        x = block(x)
        sides.append(side(x))
    return sides


@pytest.mark.parametrize("selected", [0.5, 0.1])
def test_an_untrained_network_selects_about_what_is_asked_for(selected):
    torch.manual_seed(0)
    p = PNet(selected=selected)(torch.rand(1, 3, 12, 12, 12))[0, 1].exp()
    assert float(p.mean().detach()) == pytest.approx(selected, rel=0.3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 × 3 × 4 = 24 voxels.*max_voxels=20"):
        PNet(max_voxels=20)(torch.rand(1, 3, 2, 3, 4))
    with pytest.raises(ValueError, match="channels=0"):
        PNet(channels=0)
    with pytest.raises(ValueError, match="selected=1.0"):
        PNet(selected=1.0)
