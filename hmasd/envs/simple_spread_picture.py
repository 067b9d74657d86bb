"""Pictures of simple_spread for videos and eyes, drawn with numpy alone.

Agents are discs of their true size, a landmark is a dot in the ring within which an agent covers
it; the ring is filled while it is covered. The line below tells the time of the episode.
"""

from __future__ import annotations

import numpy as np

SIDE = 400  # pixels of the plane's picture
BAR = 40  # height of the bar below it
LEAST_RANGE = 1.25  # the picture shows [-range, range] at least; more if an agent is beyond

FLOOR, GRID = (240, 237, 230), (222, 217, 207)
WALL, WALL_EDGE = (58, 66, 82), (76, 86, 105)
WHITE, INK, COVERED = (255, 255, 255), (38, 43, 54), (22, 160, 133)
AGENTS = ((46, 110, 200), (214, 84, 62), (155, 89, 182), (230, 160, 30), (52, 152, 160))

Colour = tuple[int, int, int]


def draw_picture(
    position: np.ndarray,
    landmark: np.ndarray,
    radii: tuple[float, float],
    time: tuple[int, int],
) -> np.ndarray:
    """Draw one game.

    Args:
        position: [N, 2] x and y of the agents, y upwards.
        landmark: [N, 2] x and y.
        radii: of an agent, and within which it covers a landmark.
        time: steps played in this episode, and its length.

    Returns:
        [SIDE + BAR, SIDE, 3] uint8.
    """
    agent_radius, cover_radius = radii
    shown = max(LEAST_RANGE, float(np.abs(position).max()) + agent_radius)
    scale = SIDE / (2.0 * shown)  # pixels per unit
    picture = np.empty((SIDE + BAR, SIDE, 3), dtype=np.float32)
    picture[:SIDE], picture[SIDE:] = FLOOR, WALL
    _draw_edge(picture, scale)
    for mark in landmark:
        covered = bool((np.hypot(*(position - mark).T) < cover_radius).any())
        ring = _distance(mark, scale) - cover_radius * scale
        _paint(picture, ring, COVERED, alpha=0.6 if covered else 0.15)
        _paint(picture, np.abs(ring) - 0.8, COVERED)
    for agent, point in enumerate(position):
        distance = _distance(point, scale)
        _paint(picture, distance - agent_radius * scale, WHITE)
        _paint(picture, distance - agent_radius * scale + 1.5, AGENTS[agent % len(AGENTS)], 0.85)
    for mark in landmark:
        _paint(picture, _distance(mark, scale) - 3.0, INK)
    played, length = time
    picture[SIDE + 18 : SIDE + 22, BAR : SIDE - BAR] = WALL_EDGE
    filled = BAR + round((SIDE - 2 * BAR) * min(played / length, 1.0))
    picture[SIDE + 18 : SIDE + 22, BAR:filled] = WHITE
    return np.rint(picture).astype(np.uint8)


def _distance(point: np.ndarray, scale: float) -> np.ndarray:
    """Pixels from every pixel of the plane to a point [2]: [SIDE, SIDE]."""
    axis = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    x, y = axis - point[0] * scale, axis + point[1] * scale
    return np.hypot(x[None, :], y[:, None])


def _paint(picture: np.ndarray, distance: np.ndarray, colour: Colour, alpha: float = 1.0) -> None:
    """Fill where distance [SIDE, SIDE] is negative; edges are one pixel soft."""
    cover = np.clip(0.5 - distance, 0.0, 1.0)[:, :, None] * alpha
    plane = picture[:SIDE]
    plane += (np.asarray(colour, dtype=np.float32) - plane) * cover


def _draw_edge(picture: np.ndarray, scale: float) -> None:
    """The square in which all start."""
    low, high = round(SIDE / 2 - scale), round(SIDE / 2 + scale)
    for place in (low, high - 1):
        picture[low:high, place] = GRID
        picture[place, low:high] = GRID
