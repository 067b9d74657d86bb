"""Pictures of SMAX's battles for videos and eyes.

Allies are blue discs with their agent's number, enemies red ones; the arc around a disc is the
health that is left. A line leads from who shoots to who is shot at; a cross marks the dead. The
frame stands for the deadly walls, the line below tells the time of the episode.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 480  # pixels of the map's picture
BAR = 40  # height of the bar below it
SMOOTHING = 2  # drawn so much larger and then shrunk, for soft edges
LARGER = 1.8  # discs than true, so that numbers can be read

FLOOR, WALL, WALL_EDGE, WHITE = (240, 237, 230), (58, 66, 82), (76, 86, 105), (255, 255, 255)
DEAD, WOUND = (190, 184, 172), (214, 208, 196)
ALLY, ENEMY = (46, 110, 200), (214, 84, 62)


class Battle(NamedTuple):
    """What is drawn; U units, allies first."""

    position: np.ndarray  # [U, 2], x and y upwards, within the map
    health: np.ndarray  # [U], the share that is left
    alive: np.ndarray  # [U] bool
    radius: np.ndarray  # [U], in the map's measure
    target: np.ndarray  # [U], number of the unit that it shoots at, -1: none
    num_allies: int
    map_size: float  # its width and height
    played: int  # steps of this episode
    episode_length: int


def targets(attack: np.ndarray, num_allies: int, first_attack: int) -> np.ndarray:
    """Whom SMAX's attack actions [U] mean, -1: nobody; enemies count their targets backwards."""
    chosen = np.asarray(attack, dtype=np.int64) - first_attack
    is_ally = np.arange(len(chosen)) < num_allies
    unit = np.where(is_ally, num_allies + chosen, num_allies - 1 - chosen)
    return np.where(chosen >= 0, unit, -1)


def draw_picture(battle: Battle) -> np.ndarray:
    """Draw one battle: [SIDE + BAR, SIDE, 3] uint8."""
    size = (SIDE * SMOOTHING, (SIDE + BAR) * SMOOTHING)
    image = Image.new("RGB", size, WALL)
    draw = ImageDraw.Draw(image)
    edge = 2 * SMOOTHING
    draw.rectangle((edge, edge, size[0] - edge, size[0] - edge), FLOOR)
    scale = size[0] / battle.map_size
    places = [(x * scale, size[0] - y * scale) for x, y in battle.position.tolist()]
    for unit, target in enumerate(battle.target.tolist()):
        if target >= 0:
            draw.line((*places[unit], *places[target]), _colour(battle, unit), edge)
    for unit in np.argsort(battle.alive, kind="stable").tolist():  # the dead lie below
        _draw_unit(draw, battle, unit, places[unit], float(battle.radius[unit]) * scale * LARGER)
    _draw_time(draw, battle, size)
    return np.asarray(image.reduce(SMOOTHING))


def _colour(battle: Battle, unit: int) -> tuple[int, int, int]:
    return ALLY if unit < battle.num_allies else ENEMY


def _draw_unit(
    draw: ImageDraw.ImageDraw, battle: Battle, unit: int, place: tuple[float, float], radius: float
) -> None:
    """A disc in its arc of health, or a cross."""
    x, y = place
    box = (x - radius, y - radius, x + radius, y + radius)
    if not battle.alive[unit]:
        draw.line(box, DEAD, 3 * SMOOTHING)
        draw.line((box[0], box[3], box[2], box[1]), DEAD, 3 * SMOOTHING)
        return
    draw.ellipse(box, WOUND)
    draw.pieslice(box, -90, -90 + 360 * float(battle.health[unit]), _colour(battle, unit))
    inner = radius * 0.72
    draw.ellipse((x - inner, y - inner, x + inner, y + inner), _colour(battle, unit), WHITE, 2)
    if unit < battle.num_allies:
        font = ImageFont.load_default(radius * 1.1)
        draw.text((x, y), str(unit), WHITE, font, anchor="mm")


def _draw_time(draw: ImageDraw.ImageDraw, battle: Battle, size: tuple[int, int]) -> None:
    """The share of the episode that is over."""
    start, stop = BAR * SMOOTHING, size[0] - BAR * SMOOTHING
    top, bottom = (SIDE + 18) * SMOOTHING, (SIDE + 22) * SMOOTHING
    draw.rectangle((start, top, stop, bottom), WALL_EDGE)
    share = min(battle.played / battle.episode_length, 1.0)
    draw.rectangle((start, top, start + share * (stop - start), bottom), WHITE)
