"""The network: any size, chances that are ones, how far a voxel sees."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv3d

from agents.nets.pnet import DILATIONS, LAYERS, DilatedBlock, PNet


@pytest.mark.parametrize("size", [(9, 12, 7), (1, 1, 1), (20, 3, 30)])
def test_any_size_gives_probabilities(size):
    log_p = PNet()(torch.rand(2, 3, *size))
    assert log_p.shape == (2, 2, *size)
    np.testing.assert_allclose(log_p.exp().sum(dim=1).detach(), 1.0, rtol=1e-5)


def test_blocks_are_the_paper_s():
    net = PNet()
    convs = [list(block.convolutions) for block in net.blocks]
    assert [len(block) for block in convs] == [2, 2, 3, 3, 3]
    assert [block.dilation for block in net.blocks] == [1, 2, 3, 4, 5]
    assert all(c.kernel_size == (3, 3, 3) for block in convs for c in block)
    assert [side[0].kernel_size for side in net.sides] == [(1, 1, 1)] * 5
    assert net.last[0].in_channels == 5 * net.side_channels == 20


@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_a_block_is_dilated_convolutions_on_any_size(dilation):
    torch.manual_seed(0)
    block = DilatedBlock(3, 4, 3, dilation).double()
    x = torch.randn(2, 3, 7, 11, 10, dtype=torch.double, requires_grad=True)
    expected = x
    for c in block.convolutions:
        expected = torch.relu(
            conv3d(expected, c.weight, c.bias, padding=dilation, dilation=dilation)
        )
    torch.testing.assert_close(block(x), expected)
    weight = block.convolutions[0].weight
    found, known = (torch.autograd.grad((y**2).sum(), weight)[0] for y in (block(x), expected))
    torch.testing.assert_close(found, known)


@pytest.mark.parametrize("depth", range(1, 16))
def test_gradients_in_bfloat16_are_those_of_float32(depth):
    """At a depth of 1 or 2 oneDNN reads what lies about in memory: NaN here."""
    torch.manual_seed(depth)
    net, x = PNet().to(memory_format=torch.channels_last_3d), torch.rand(1, 3, depth, 7, 9)
    found = []
    for half in (True, False):
        litter = [torch.full((1000 * n,), torch.nan) for n in range(1, 200)]
        del litter
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            net(x)[0, 1].mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 0.05


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
