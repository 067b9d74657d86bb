"""Initial weights and the MLP: gains decide whether the first policy is close to uniform."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hmasd.modules.init import RELU_GAIN, SMALL_GAIN, orthogonal
from hmasd.modules.mlp import MLP


@pytest.mark.parametrize("gain", [RELU_GAIN, SMALL_GAIN, 1.0])
@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_orthogonal_scales_by_the_gain(gain: float, shape: tuple[int, int], float64: None) -> None:
    layer = nn.Linear(*shape)
    assert orthogonal(layer, gain) is layer
    singular = torch.linalg.svdvals(layer.weight)
    torch.testing.assert_close(singular, torch.full_like(singular, gain))
    assert (layer.bias == 0).all()
    assert torch.linalg.svdvals(nn.Linear(*shape).weight).std() > 1e-3  # control: torch's default


def test_the_head_is_a_last_linear_layer_of_small_weights() -> None:
    mlp, inputs = MLP(4, 8, num_outputs=3), torch.randn(5, 4)
    assert mlp(inputs).shape == (5, 3)
    torch.testing.assert_close(mlp(inputs), mlp.layers(inputs), atol=1e-5, rtol=1e-5)
    assert torch.linalg.svdvals(mlp.layers[-1].weight).max() < 0.011


def test_mlp_loads_and_equals_plain_torch() -> None:
    """One operation, with the parameters of the modules that it stands for."""
    block = [nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8)]
    plain = nn.Sequential(nn.LayerNorm(4), *block, nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8))
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    mlp, inputs = MLP(4, 8), torch.randn(5, 4)
    assert (mlp(inputs) - plain(inputs)).abs().max() > 1e-2  # control: other parameters
    mlp.layers.load_state_dict(plain.state_dict())
    torch.testing.assert_close(mlp(inputs), plain(inputs), atol=1e-5, rtol=1e-5)


def test_mlp_maps_the_last_axis_of_any_shape() -> None:
    mlp = MLP(4, 8)
    inputs = torch.randn(2, 3, 4)
    assert mlp(inputs).shape == (2, 3, 8)
    torch.testing.assert_close(mlp(inputs)[1, 2], mlp(inputs[1, 2]))


def test_mlp_normalises_its_input(float64: None) -> None:
    """Observations of the game are raw map codes: their scale must not reach the first layer."""
    mlp = MLP(4, 8)
    inputs = 100 * torch.randn(5, 4)
    torch.testing.assert_close(mlp(inputs), mlp(10 * inputs + 3000), atol=1e-4, rtol=1e-4)
    bare = mlp.layers[1:]  # control: without LayerNorm
    assert (bare(inputs) - bare(10 * inputs + 3000)).abs().max() > 1e-2
