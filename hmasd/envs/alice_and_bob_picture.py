"""Pictures of Alice_and_Bob for videos and eyes, drawn with numpy alone."""

from __future__ import annotations

import numpy as np

CELL = 40  # pixels


def draw_picture(
    position: np.ndarray, collected: np.ndarray, clock: int, episode_length: int
) -> np.ndarray:
    """Draw one game; position: [2, 2], collected: [2] bool. Returns [H, W, 3] uint8."""
    picture = np.zeros((11 * CELL, 10 * CELL, 3), dtype=np.uint8)
    for agent in range(2):
        row, column = position[agent] * CELL
        picture[row : row + CELL, column : column + CELL, agent] = 255
    return picture
