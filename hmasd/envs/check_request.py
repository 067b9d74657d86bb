"""What `hmasd check-env` asks for and gets from the process in which the env plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """What is to be checked."""

    env: str
    env_args: str = ""
    team_reward: str = "sum"
    num_envs: int = 3
    steps: int = 300  # of each copy
    episode_length: int = 100
    seed: int = 1


class Report(NamedTuple):
    """What came of a check."""

    problem: str | None = None  # with the request itself: nothing was checked
    told: Sequence[str] = ()  # about the env
    faults: Sequence[str] = ()
    seen: Sequence[str] = ()  # about the play; only without faults
