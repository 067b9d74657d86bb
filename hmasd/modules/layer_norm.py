"""LayerNorm over the last axis by the compiled kernel, alone or of a ReLU."""

from __future__ import annotations

from torch import Tensor, nn

from hmasd.kernels.relu_layer_norm import layer_norm, relu_layer_norm


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm(size)`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        return layer_norm(x, self.weight, self.bias, self.eps)


class ReLULayerNorm(nn.LayerNorm):
    """`nn.Sequential(nn.ReLU(), nn.LayerNorm(size))` as one layer."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        return relu_layer_norm(x, self.weight, self.bias, self.eps)
