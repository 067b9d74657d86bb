"""The program of one env worker: it plays a share of the envs, in memory shared with its parent.

It is a program of its own, not a fork or a `multiprocessing` child: it imports neither torch nor
the script that started training. What parent and worker say to each other:

* parent: a `Job` as JSON; worker: the sizes of its game as JSON;
* parent: `map`; worker: `+`, and from here on it reads and writes its rows of the shared arrays;
* parent: `reset`, `step`, `replay` or `render ROW`; worker: `+` and a picture if there is one.

How a failure is told, and how the worker ends, is in `hmasd.envs.player_process`.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import mmap
import os
import sys
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from hmasd.envs.env_slice import BatchArrays, EnvSlice, GameSizes, array_shapes, rows, sizes_of
from hmasd.envs.messages import Messages
from hmasd.envs.player_process import DONE, serve
from hmasd.envs.single import SingleEnv

_ALIGNMENT = 64  # bytes, a cache line: two workers never write to the same one


class Job(NamedTuple):
    """What one worker plays."""

    maker: str  # "package.module:function", which makes one game
    options: dict[str, Any]  # what the function is called with
    first: int  # number of its first env
    stop: int  # number of the env after its last
    num_envs: int  # E, of the whole batch
    episode_length: int


def make_game(maker: str, options: dict[str, Any]) -> SingleEnv:
    """Call "package.module:function" with keyword arguments."""
    module, function = maker.split(":")
    return getattr(importlib.import_module(module), function)(**options)


def map_arrays(memory: int, game: GameSizes, num_envs: int, episode_length: int) -> BatchArrays:
    """The arrays of a batch over a shared file, which grows to the size that they need.

    Args:
        memory: descriptor of the file; new bytes of it are 0.
        game: sizes of one game.
        num_envs: E.
        episode_length: steps of the longest episode.
    """
    shapes = array_shapes(game, num_envs, episode_length)
    needed = [shapes[field] for field in BatchArrays._fields]
    sizes = [0 if x is None else math.prod(x[0]) * x[1].itemsize for x in needed]
    starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
    if os.fstat(memory).st_size < starts[-1]:
        os.ftruncate(memory, starts[-1])
    shared = mmap.mmap(memory, starts[-1])
    return BatchArrays._make(
        None if x is None else np.ndarray(x[0], x[1], shared, start)
        for x, start in zip(needed, starts[:-1], strict=True)
    )


def encode_sizes(game: GameSizes) -> bytes:
    """Sizes of a game as JSON."""
    space: dict[str, Any]
    if isinstance(game.action_space, Discrete):
        space = {"n": int(game.action_space.n)}
    else:
        assert isinstance(game.action_space, Box), "sizes_of takes no other"
        low, high = game.action_space.low.tolist(), game.action_space.high.tolist()
        space = {"low": low, "high": high, "dtype": str(game.action_space.dtype)}
    return json.dumps(game._asdict() | {"action_space": space}).encode()


def decode_sizes(text: bytes) -> GameSizes:
    """What `encode_sizes` made JSON of."""
    game = json.loads(text)
    space = game.pop("action_space")
    made: Space
    if "n" in space:
        made = Discrete(space["n"])
    else:
        dtype = np.dtype(space["dtype"])
        made = Box(np.array(space["low"], dtype), np.array(space["high"], dtype), dtype=dtype.type)
    return GameSizes(action_space=made, **game | {"notes": tuple(game["notes"])})


def _work(connection: Messages, words: list[str]) -> None:
    """Do what the parent says, one thing after the other; words: the shared file's descriptor."""
    job = Job(**json.loads(connection.receive()))
    games = [make_game(job.maker, job.options) for _ in range(job.first, job.stop)]
    game = sizes_of(games[0])
    connection.send(DONE + encode_sizes(game))
    connection.receive()
    arrays = map_arrays(int(words[0]), game, job.num_envs, job.episode_length)
    envs = EnvSlice(games, rows(arrays, job.first, job.stop))
    connection.send(DONE)
    try:
        while True:
            connection.send(DONE + _obey(envs, connection.receive().decode()))
    except (EOFError, ConnectionError):
        envs.close()


def _obey(envs: EnvSlice, command: str) -> bytes:
    """Do one thing; returns what belongs to the answer."""
    word, *row = command.split()
    if word != "render":
        {"reset": envs.reset, "step": envs.step, "replay": envs.replay}[word]()
        return b""
    picture = io.BytesIO()
    np.save(picture, envs.render(int(row[0])), allow_pickle=False)
    return picture.getvalue()


if __name__ == "__main__":
    serve(sys.argv[1:], _work)
