"""The multi-layer perceptron of the discoverer and of the discriminators."""

from __future__ import annotations

from torch import Tensor, nn

from hmasd.modules.init import RELU_GAIN, orthogonal
from hmasd.modules.layer_norm import LayerNorm, ReLULayerNorm


class MLP(nn.Module):
    """LayerNorm on the input, then `num_layers` times Linear, ReLU, LayerNorm."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [LayerNorm(input_size)]
        for size in [input_size] + [hidden_size] * (num_layers - 1):
            layers += [orthogonal(nn.Linear(size, hidden_size), RELU_GAIN)]
            # The ReLU is within the LayerNorm; its place keeps the parameters' names.
            layers += [nn.Identity(), ReLULayerNorm(hidden_size)]
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., input_size] -> [..., hidden_size]."""
        return self.layers(inputs)
