"""Pictures of battles: what is where, by hand-made battles. No JAX is needed."""

from __future__ import annotations

import numpy as np
import pytest

from hmasd.envs.smax_picture import (
    ALLY,
    BAR,
    DEAD,
    ENEMY,
    FLOOR,
    SIDE,
    Battle,
    draw_picture,
    targets,
)

UNITS = np.array([[8, 8], [8, 24], [24, 8], [24, 24]], dtype=np.float32)
BATTLE = Battle(
    position=UNITS,
    health=np.ones(4),
    alive=np.ones(4, bool),
    radius=np.full(4, 0.375),
    target=np.full(4, -1),
    num_allies=2,
    map_size=32.0,
    played=25,
    episode_length=100,
)


def pixel(battle: Battle, x: float, y: float) -> tuple[int, ...]:
    """Colour at a place of the map."""
    picture = draw_picture(battle)
    assert picture.shape == (SIDE + BAR, SIDE, 3) and picture.dtype == np.uint8
    column, row = round(x / 32 * SIDE), round(SIDE - y / 32 * SIDE)
    return tuple(picture[row, column].tolist())


def test_enemies_count_their_targets_backwards() -> None:
    """5 is the first attack; allies 0 and 1, enemies 2, 3 and 4."""
    assert targets(np.array([5, 7, 5, 6, 0]), 2, 5).tolist() == [2, 4, 1, 0, -1]


@pytest.mark.parametrize(("unit", "colour"), [(1, ALLY), (3, ENEMY)])
def test_teams_have_their_colours_where_they_stand(unit: int, colour: tuple[int, ...]) -> None:
    x, y = UNITS[unit]
    assert pixel(BATTLE, x + 0.41, y + 0.41) == colour
    assert pixel(BATTLE, 16, 16) == FLOOR


def test_the_dead_are_crosses() -> None:
    fallen = BATTLE._replace(alive=np.array([True, False, True, True]))
    assert pixel(fallen, 8, 24) == DEAD
    assert pixel(fallen, 8.6, 24) == FLOOR != pixel(BATTLE, 8.6, 24)


def test_a_shot_is_a_line_in_the_shooters_colour() -> None:
    shooting = BATTLE._replace(target=np.array([2, -1, -1, 1]))
    assert pixel(shooting, 16, 8) == ALLY and pixel(shooting, 16, 24) == ENEMY
    assert pixel(BATTLE, 16, 8) == FLOOR


def test_health_is_an_arc_that_shrinks() -> None:
    """A quarter is left: the ring is full to the upper right, empty to the upper left."""
    hurt = BATTLE._replace(health=np.full(4, 0.25))
    ring = 0.58 * np.sqrt(0.5)
    assert pixel(hurt, 24 + ring, 24 + ring) == ENEMY != pixel(hurt, 24 - ring, 24 + ring)
    assert pixel(BATTLE, 24 - ring, 24 + ring) == ENEMY


def test_the_bar_tells_the_time() -> None:
    row = draw_picture(BATTLE)[SIDE + 20, BAR:-BAR]
    assert (row == 255).all(axis=1).mean() == pytest.approx(0.25, abs=0.01)
