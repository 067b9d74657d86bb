"""A small game that fails as it is told, in one step of one episode, and a game that takes time."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

import numpy as np

from hmasd.envs.env_slice import episode_seed
from hmasd.envs.single import SingleStep, SingleView
from tests.helpers.single_envs import Walk

SEED = 3  # of the batches in which `Faulty` fails, if nothing else is said


class Faulty(Walk):
    """`Walk` without random ends, which commits `fault` in step 4 of one episode of one env.

    The fault "reset" is committed at the episode's start. Which episode it is, the game knows by
    the seed that its reset gets in a batch of seed `seed`.
    """

    def __init__(
        self, fault: str = "none", env: int = 0, episode: int = 0, seed: int = SEED
    ) -> None:
        """fault: a name of `FAULTS`, "reset" or "none"."""
        super().__init__(end_chance=0.0)
        self.fault = fault
        self.when = episode_seed(seed, env, episode)

    def reset(self, seed: int) -> SingleView:
        self.seed = seed
        if self.fault == "reset" and seed == self.when:
            raise RuntimeError("the reset melted")
        return super().reset(seed)

    def step(self, action: np.ndarray) -> SingleStep:
        step = super().step(action)
        if self.seed == self.when and self.time == 4 and self.fault in FAULTS:
            return FAULTS[self.fault](step)
        return step


def _melt(step: SingleStep) -> SingleStep:
    raise RuntimeError("the reactor melted")


def _exit(step: SingleStep) -> SingleStep:
    print("last words", flush=True)
    os._exit(7)


def _spin(step: SingleStep) -> SingleStep:
    while True:  # inside C code most of the time, deaf to Python's signal handlers
        sum(range(10**12))


def _sleep(step: SingleStep) -> SingleStep:
    time.sleep(1000)
    return step


def _flood(step: SingleStep) -> SingleStep:
    for stream in (sys.stdout, sys.stderr):
        stream.write("flood " * 500_000)
        stream.flush()
    return step


def _crash(step: SingleStep) -> SingleStep:
    ctypes.string_at(0)
    return step


FAULTS: dict[str, Callable[[SingleStep], object]] = {
    "raise": _melt,
    "exit": _exit,
    "kill": lambda step: os.kill(os.getpid(), signal.SIGKILL),
    "crash": _crash,
    "sleep": _sleep,
    "spin": _spin,
    "flood": _flood,
    "nan": lambda step: step._replace(view=step.view._replace(obs=step.view.obs * np.nan)),
    "infinite reward": lambda step: step._replace(reward=float("inf")),
    "shape": lambda step: step._replace(view=step.view._replace(obs=step.view.obs[:1])),
    "type": lambda step: step._replace(view=step.view._replace(state=np.array(["a", "b"]))),
    "no step": lambda step: None,
    "mask": lambda step: step._replace(
        view=step.view._replace(action_mask=np.zeros((2, 3), dtype=bool))
    ),
    "no final observation": lambda step: step._replace(view=None, terminated=True),
    "agents": lambda step: step._replace(
        view=step.view._replace(alive=None, obs=np.zeros((3, 3), dtype=np.float32))
    ),
}


class Chatty(Walk):
    """`Walk` that prints in every step, and takes a millisecond for it."""

    def step(self, action: np.ndarray) -> SingleStep:
        print("chatter", file=sys.stdout, flush=True)
        print("chatter", file=sys.stderr, flush=True)
        time.sleep(0.001)
        return super().step(action)


class Slow(Walk):
    """`Walk` whose step takes a while of computing."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def step(self, action: np.ndarray) -> SingleStep:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return super().step(action)


def unmakeable() -> Walk:
    """A game that cannot be made."""
    raise OSError("no licence for this game")


def other_sizes() -> Walk:
    """A game whose sizes differ from process to process."""
    game = Walk()
    game.state_size = os.getpid()
    return game
