"""The multi-layer perceptron of the discoverer and of the discriminators."""

from __future__ import annotations

from torch import Tensor, nn

from hmasd.kernels.mlp import normalized_mlp
from hmasd.modules.init import RELU_GAIN, SMALL_GAIN, orthogonal


class MLP(nn.Module):
    """LayerNorm on the input, then twice Linear, ReLU, LayerNorm; maybe a head."""

    def __init__(self, input_size: int, hidden_size: int, num_outputs: int | None = None) -> None:
        """With `num_outputs` a last Linear of small weights, the head, follows."""
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(input_size)]
        for size in (input_size, hidden_size):
            linear = orthogonal(nn.Linear(size, hidden_size), RELU_GAIN)
            layers += [linear, nn.ReLU(), nn.LayerNorm(hidden_size)]
        if num_outputs is not None:
            layers.append(orthogonal(nn.Linear(hidden_size, num_outputs), SMALL_GAIN))
        self.layers = nn.Sequential(*layers)
        self.weights = list(self.layers.parameters())  # looked up once: it is asked every step

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., input_size] -> [..., hidden_size or num_outputs], as `layers`, in one operation."""
        return normalized_mlp(inputs, self.weights)
