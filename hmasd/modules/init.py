"""Orthogonal initialisation, as in MAPPO's and MAT's code."""

from __future__ import annotations

from torch import nn

RELU_GAIN = 2.0**0.5
SMALL_GAIN = 0.01  # for last layers and attention: starts near uniform choices


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Draw an orthogonal weight scaled by `gain`, set the bias to 0, and return the layer."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
