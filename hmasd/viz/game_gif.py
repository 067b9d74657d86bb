"""A game as a GIF: every frame is a picture with the skills in force written above it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_WIDTH, MAX_WIDTH = 300, 480  # pixels; smaller pictures are enlarged, wider ones shrunk
END_SECONDS = 1.5  # how long the last frame of an episode stays
PALETTE_SAMPLES = 8  # frames that the colours are taken from
MAX_FPS = 50  # viewers slow down what is faster
FONT_SIZE, MARGIN, ROW = 15, 8, 26  # pixels
STRIP, WHITE = (31, 36, 46), (255, 255, 255)
SKILL_COLOURS = (  # of skill 0, 1, ...; after the last one they begin again
    (0, 114, 178),
    (213, 94, 0),
    (0, 138, 104),
    (178, 76, 140),
    (140, 100, 0),
    (60, 120, 160),
    (110, 80, 190),
    (176, 48, 56),
    (84, 110, 40),
    (100, 100, 108),
)


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Frame(NamedTuple):
    """One picture and what is written above it."""

    picture: np.ndarray  # [height, width, 3] uint8
    title: str
    team_skill: int
    agent_skills: tuple[int, ...]  # [N]
    is_last: bool  # of its episode


def save_gif(path: Path, frames: Sequence[Frame], fps: float) -> tuple[int, int]:
    """Write the frames as an endlessly repeated GIF; returns its width and height.

    Args:
        path: The file; its folder is made if it does not exist.
        frames: At least one, all pictures of one size.
        fps: Frames per second, at most `MAX_FPS`; the last frame of an episode stays longer.

    Raises:
        OSError: The file cannot be written.
    """
    images = draw_frames(frames)
    palette = _palette(images)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [1000 * END_SECONDS if frame.is_last else 1000 / fps for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
    return images[0].size


def draw_frames(frames: Sequence[Frame]) -> list[Image.Image]:
    """The pictures, enlarged or shrunk to a readable width, each below its strip of text.

    Raises:
        ValueError: The pictures have different sizes.
    """
    sizes = {frame.picture.shape for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"the pictures of a GIF must have one size, got {sorted(sizes)}")
    font = ImageFont.load_default(FONT_SIZE)
    width = max(font.getlength(text) for frame in frames for text in _labels(frame))
    return [_draw_frame(frame, font, int(width) + 2 * MARGIN) for frame in frames]


def _draw_frame(frame: Frame, font: _Font, chip_width: int) -> Image.Image:
    """One frame; the skills' chips fill as many rows as their width asks for."""
    picture = _scaled(Image.fromarray(frame.picture))
    labels, skills = _labels(frame), (frame.team_skill, *frame.agent_skills)
    per_row = max(1, (picture.width - MARGIN) // (chip_width + MARGIN))
    strip = MARGIN + ROW * (1 + -(-len(labels) // per_row))
    image = Image.new("RGB", (picture.width, strip + picture.height), STRIP)
    image.paste(picture, (0, strip))
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), frame.title, WHITE, font)
    for place, (label, skill) in enumerate(zip(labels, skills, strict=True)):
        row, column = divmod(place, per_row)
        left, top = MARGIN + column * (chip_width + MARGIN), MARGIN + ROW * (1 + row)
        box = (left, top, left + chip_width, top + ROW - 6)
        draw.rounded_rectangle(box, radius=5, fill=SKILL_COLOURS[skill % len(SKILL_COLOURS)])
        draw.text((left + MARGIN, top + 1), label, WHITE, font)
    return image


def _labels(frame: Frame) -> list[str]:
    agents = (f"agent {agent}: z={skill}" for agent, skill in enumerate(frame.agent_skills))
    return [f"team: Z={frame.team_skill}", *agents]


def _scaled(picture: Image.Image) -> Image.Image:
    """Enlarged by a whole number, so that pixels stay sharp, or shrunk."""
    width, height = picture.size
    if width < MIN_WIDTH:
        times = -(-MIN_WIDTH // width)
        return picture.resize((width * times, height * times), Image.Resampling.NEAREST)
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
        return picture.resize(size, Image.Resampling.LANCZOS)
    return picture


def _palette(images: Sequence[Image.Image]) -> Image.Image:
    """256 colours for all frames, from some of them; one palette keeps what rests unchanged."""
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, PALETTE_SAMPLES).astype(int)]
    joined = np.concatenate([np.asarray(image) for image in chosen])
    return Image.fromarray(joined).quantize(256, method=Image.Quantize.MEDIANCUT)
