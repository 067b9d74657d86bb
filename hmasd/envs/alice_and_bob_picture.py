"""Pictures of Alice_and_Bob for videos and eyes, drawn with numpy alone.

A key is a plate that is framed in white while it is held, its diamond has the same colour and
leaves an empty outline when it is collected. The bar below tells the time of the episode and
shows the diamonds that were collected.

Shapes are signed distances in pixels to their outline (negative inside), which gives smooth edges.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

CELL = 40  # pixels
BAR = CELL  # height of the bar below the map

WALL, WALL_EDGE = (58, 66, 82), (76, 86, 105)
FLOOR, GRID = (240, 237, 230), (222, 217, 207)
AGENTS = ((46, 110, 200), (214, 84, 62))  # A blue, B red
PAIRS = (  # key and diamond 0 green, 1 violet, 2 amber, 3 pink
    (22, 160, 133),
    (155, 89, 182),
    (217, 154, 28),
    (213, 93, 150),
)
WHITE, INK = (255, 255, 255), (38, 43, 54)

Cell = tuple[int, int]
Colour = tuple[int, int, int]

_LETTERS = {  # corners of strokes in a box of [-1, 1] x [-1, 1], y downwards
    "A": (((-0.8, 1), (0, -1), (0.8, 1)), ((-0.48, 0.3), (0.48, 0.3))),
    "B": (
        ((-0.6, -1), (-0.6, 1), (0.2, 1), (0.62, 0.8), (0.72, 0.45), (0.55, 0.12), (0.15, -0.02)),
        ((-0.6, -1), (0.1, -1), (0.48, -0.82), (0.56, -0.5), (0.45, -0.18), (0.15, -0.02)),
        ((-0.6, -0.02), (0.15, -0.02)),
    ),
}
_DIGITS = {  # 3 x 5 dots, row by row
    "0": "111101101101111",
    "1": "010110010010111",
    "2": "111001111100111",
    "3": "111001111001111",
    "4": "101101111001001",
    "5": "111100111001111",
    "6": "111100111101111",
    "7": "111001010010010",
    "8": "111101111101111",
    "9": "111101111001111",
    "/": "001001010100100",
}


def draw_picture(
    size: int,
    position: np.ndarray,
    collected: np.ndarray,
    cells: tuple[np.ndarray, np.ndarray],
    time: Cell,
) -> np.ndarray:
    """Draw one game.

    Args:
        size: cells to walk on, per side; the map is two wider.
        position: [2, 2] row and column of the agents.
        collected: [P] bool, the diamonds.
        cells: of the keys and of the diamonds, [P, 2] each.
        time: steps played in this episode, and its length.

    Returns:
        [(size + 3) * CELL, (size + 2) * CELL, 3] uint8.
    """
    picture = _board(size + 2).copy()
    keys, goals = cells
    for i, colour in enumerate(PAIRS[: len(collected)]):
        held = bool((position == keys[i]).all(axis=1).any())
        _draw_key(picture, keys[i], colour, held)
        _draw_goal(picture, goals[i], colour, bool(collected[i]))
    _draw_agents(picture, position)
    _draw_bar(picture, collected, time)
    return np.rint(picture).astype(np.uint8)


@cache
def _board(side: int) -> np.ndarray:
    """Walls, floor and an empty bar: [H, W, 3] float32. Copy it before drawing."""
    picture = np.empty((side * CELL + BAR, side * CELL, 3), dtype=np.float32)
    picture[:] = WALL
    for row in range(side):
        for column in range(side):
            wall = row in (0, side - 1) or column in (0, side - 1)
            block = _block(picture, (row, column))
            block[:] = WALL_EDGE if wall else GRID
            block[1:-1, 1:-1] = WALL if wall else FLOOR
    return picture


@cache
def _grid(middle_x: float, middle_y: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels' x and y [CELL, CELL] in a cell, seen from a point of it (0, 0: its middle)."""
    axis = np.arange(CELL, dtype=np.float32) - (CELL - 1) / 2
    return np.broadcast_to(axis - middle_x, (CELL, CELL)), axis[:, None] - middle_y


def _block(picture: np.ndarray, cell: Cell) -> np.ndarray:
    """The cell's pixels: [CELL, CELL, 3], a view."""
    row, column = int(cell[0]) * CELL, int(cell[1]) * CELL
    return picture[row : row + CELL, column : column + CELL]


def _paint(block: np.ndarray, distance: np.ndarray, colour: Colour, alpha: float = 1.0) -> None:
    """Fill where distance [CELL, CELL] is negative; edges are one pixel soft."""
    cover = np.clip(0.5 - distance, 0.0, 1.0)[:, :, None] * alpha
    block += (np.asarray(colour, dtype=np.float32) - block) * cover


def _rounded_square(half: float, corner: float) -> np.ndarray:
    """Distance to a square with round corners in the middle of the cell."""
    x, y = _grid(0.0, 0.0)
    outside_x = np.maximum(np.abs(x) - half + corner, 0.0)
    outside_y = np.maximum(np.abs(y) - half + corner, 0.0)
    return np.hypot(outside_x, outside_y) - corner


def _diamond(half: float) -> np.ndarray:
    """Distance to a square on its tip in the middle of the cell."""
    x, y = _grid(0.0, 0.0)
    return (np.abs(x) + np.abs(y) - half) / np.sqrt(2.0)


def _draw_key(picture: np.ndarray, cell: Cell, colour: Colour, held: bool) -> None:
    """A plate with a round button; held: the whole plate shines."""
    block = _block(picture, cell)
    if held:
        _paint(block, _rounded_square(19.0, 7.0), colour)
        _paint(block, np.abs(_rounded_square(17.0, 6.0)) - 1.2, WHITE)
        return
    _paint(block, _rounded_square(15.0, 6.0), colour, alpha=0.25)
    _paint(block, np.abs(_rounded_square(15.0, 6.0)) - 1.2, colour)
    x, y = _grid(0.0, 0.0)
    _paint(block, np.hypot(x, y) - 8.0, colour)
    x, y = _grid(0.0, -2.0)
    _paint(block, np.hypot(x, y) - 4.5, WHITE, alpha=0.35)


def _draw_goal(picture: np.ndarray, cell: Cell, colour: Colour, collected: bool) -> None:
    """A diamond; collected: only its outline is left."""
    block = _block(picture, cell)
    if collected:
        _paint(block, np.abs(_diamond(14.0)) - 0.8, colour, alpha=0.45)
        return
    _draw_gem(block, colour, 17.0)


def _draw_gem(block: np.ndarray, colour: Colour, half: float) -> None:
    """A diamond with a light and a dark side."""
    x, y = _grid(0.0, 0.0)
    _paint(block, _diamond(half), colour)
    _paint(block, np.maximum(_diamond(half - 3.0), np.maximum(x, y)), WHITE, alpha=0.55)
    _paint(block, np.maximum(_diamond(half - 3.0), np.maximum(-x, -y)), INK, alpha=0.2)
    _paint(block, np.maximum(_diamond(half - 3.0), np.maximum(-x, y)), WHITE, alpha=0.25)


def _draw_agents(picture: np.ndarray, position: np.ndarray) -> None:
    """Two discs with letters; side by side and smaller where they share a cell."""
    shared = bool((position[0] == position[1]).all())
    for agent, letter in enumerate(_LETTERS):
        block = _block(picture, position[agent])
        radius = 9.5 if shared else 14.0
        middle = (9.0 if agent else -9.0) if shared else 0.0
        x, y = _grid(middle, 0.0)
        disc = np.hypot(x, y) - radius
        _paint(block, disc - 1.5, WHITE)
        _paint(block, disc, AGENTS[agent])
        _paint(block, _letter_distance(letter, middle, radius / 2.0), WHITE)


@cache
def _letter_distance(letter: str, middle: float, size: float) -> np.ndarray:
    """Distance to a letter's strokes; size: half its height, in pixels."""
    x, y = _grid(middle, 0.0)
    distance = np.full((CELL, CELL), np.inf, dtype=np.float32)
    for stroke in _LETTERS[letter]:
        corners = np.asarray(stroke, dtype=np.float32) * size
        for start, end in pairwise(corners):
            along = end - start
            part = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along)
            part = np.clip(part, 0.0, 1.0)
            off_x, off_y = x - start[0] - part * along[0], y - start[1] - part * along[1]
            distance = np.minimum(distance, np.hypot(off_x, off_y))
    return distance - 0.19 * size


def _draw_bar(picture: np.ndarray, collected: np.ndarray, time: Cell) -> None:
    """The time as numbers and as a filling line, and the diamonds that were collected."""
    played, length = time
    side = picture.shape[1] // CELL
    first_gem = side - 1 - len(collected)
    top, left, right = side * CELL, CELL, first_gem * CELL
    _draw_text(picture, f"{played}/{length}", (top + 6, left))
    picture[top + 25 : top + 29, left:right] = WALL_EDGE
    filled = left + round((right - left) * min(played / length, 1.0))
    picture[top + 25 : top + 29, left:filled] = WHITE
    for i, colour in enumerate(PAIRS[: len(collected)]):
        block = _block(picture, (side, first_gem + i))
        if collected[i]:
            _draw_gem(block, colour, 13.0)
        else:
            _paint(block, np.abs(_diamond(12.0)) - 0.8, colour)


def _draw_text(picture: np.ndarray, text: str, corner: Cell) -> None:
    """Digits and slashes of 3 x 5 dots, from the upper left corner in pixels on."""
    dot, (top, left) = 3, corner
    for place, sign in enumerate(text):
        dots = np.array([c == "1" for c in _DIGITS[sign]]).reshape(5, 3)
        dots = dots.repeat(dot, axis=0).repeat(dot, axis=1)  # [5, 3] -> [5 * dot, 3 * dot]
        start = left + 4 * dot * place
        picture[top : top + 5 * dot, start : start + 3 * dot][dots] = WHITE
