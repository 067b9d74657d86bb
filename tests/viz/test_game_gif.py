"""GIFs: the frames that were given, in order, with what is written above them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmasd.viz.game_gif import MAX_WIDTH, MIN_WIDTH, Frame, draw_frames, save_gif


def frame(shade: int = 90, size=(40, 50), **changes) -> Frame:
    picture = np.full((*size, 3), shade, dtype=np.uint8)
    return Frame(picture, "step 3   reward 1", 1, (0, 2), is_last=False)._replace(**changes)


def strip(image: Image.Image, picture_height: int) -> np.ndarray:
    """What is above the picture."""
    return np.asarray(image)[:-picture_height]


def test_the_file_has_the_frames_in_order_and_stays_at_ends(tmp_path: Path) -> None:
    frames = [frame(20 * i, is_last=i in (2, 4), title=f"step {i}") for i in range(5)]
    path = tmp_path / "new" / "game.gif"
    size = save_gif(path, frames, fps=10)
    with Image.open(path) as gif:
        assert gif.n_frames == 5 and gif.size == size and gif.info["loop"] == 0
        durations, shades = [], []
        for i in range(5):
            gif.seek(i)
            durations.append(gif.info["duration"])
            shades.append(int(np.asarray(gif.convert("RGB"))[-1, -1, 0]))
    assert durations == [100, 100, 1500, 100, 1500]
    assert np.abs(np.array(shades) - 20 * np.arange(5)).max() <= 8, "256 colours are few"


@pytest.mark.parametrize(
    "changes",
    [{"team_skill": 0}, {"agent_skills": (1, 2)}, {"agent_skills": (0, 1)}, {"title": "step 4"}],
    ids=str,
)
def test_what_changes_is_seen_above_the_picture(changes) -> None:
    before, after, same = draw_frames([frame(), frame(**changes), frame()])
    height = 40 * -(-MIN_WIDTH // 50)
    assert (strip(before, height) != strip(after, height)).any()
    assert (np.asarray(before)[-height:] == np.asarray(after)[-height:]).all()
    assert (strip(before, height) == strip(same, height)).all()


def test_skills_ten_apart_share_a_colour_but_not_their_number() -> None:
    first, second = draw_frames([frame(team_skill=2), frame(team_skill=12)])
    assert (np.asarray(first) != np.asarray(second)).any()


@pytest.mark.parametrize(("width", "shown"), [(50, 300), (400, 400), (1000, MAX_WIDTH)])
def test_pictures_get_a_readable_width(width: int, shown: int) -> None:
    (image,) = draw_frames([frame(size=(width, width))])
    assert image.width == shown and image.height > shown


def test_many_agents_take_more_rows_and_all_are_seen() -> None:
    few, many = frame(agent_skills=(1,)), frame(agent_skills=(1,) * 32)
    (small,), (large,) = draw_frames([few]), draw_frames([many])
    assert large.width == small.width and large.height > small.height + 200
    other = many._replace(agent_skills=(1,) * 31 + (4,))
    one, two = draw_frames([many, other])
    rows = np.flatnonzero((np.asarray(one) != np.asarray(two)).any(axis=(1, 2)))
    assert 0 < len(rows) < 26, "the last agent's chip, and no other row"


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        draw_frames([frame(), frame(size=(41, 50))])
