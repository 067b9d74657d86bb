"""`hmasd play`: watch a trained team play, as a GIF that tells the skills in force."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from gymnasium.spaces import Discrete

from hmasd.checkpoint import CheckpointError
from hmasd.envs.base import BatchedEnv
from hmasd.envs.registry import make_env
from hmasd.envs.user_env import parse_env_args
from hmasd.rollout.episodes import Episode, EpisodeTracker
from hmasd.settings import ConfigError
from hmasd.trained_team import TrainedTeam
from hmasd.viz.game_gif import MAX_FPS, Frame, save_gif

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
_EXAMPLES = """\
examples:
  hmasd play --model-path models/hmasd_sync_enhanced_final.pth
  hmasd play --model-path models/hmasd_sync_enhanced_final.pth --episodes 3 --stochastic
  hmasd play --model-path models/hmasd_sync_enhanced_final.pth --force-skill Z=1,z=0,2

Printed for each episode: success, return, length, and the skills with the step from which on they
were in force, written as --force-skill takes them.

exit codes: 0 done; 1 playing failed; 2 bad input, nothing was written
"""


class PlayError(ValueError):
    """What was asked for cannot be played; the message says why and what to do."""


class Skills(NamedTuple):
    """Skills of the whole team; None where the coordinator chooses."""

    team_skill: int | None
    agent_skills: tuple[int, ...] | None

    def __str__(self) -> str:
        """As `--force-skill` takes them."""
        team = [] if self.team_skill is None else [f"Z={self.team_skill}"]
        agents = [] if self.agent_skills is None else ["z=" + ",".join(map(str, self.agent_skills))]
        return ",".join(team + agents)


class Played(NamedTuple):
    """One episode."""

    outcome: Episode
    frames: list[Frame]  # one more than steps: the last one shows the end
    skills: list[tuple[int, Skills]]  # from which step on


def main(argv: Sequence[str] | None = None) -> int:
    """Play, write the GIF and tell what happened; returns the exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, or a flag that the parser refused and explained
        return stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    torch.set_num_threads(1)  # one env's networks are too small for more
    try:
        _run(options)
    except (PlayError, CheckpointError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Exception as error:
        print(f"error: playing failed: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def parse_skills(text: str) -> Skills:
    """Read skills as `Z=1`, `z=0,2` (one for each agent), or both: `Z=1,z=0,2`.

    Raises:
        argparse.ArgumentTypeError: It is written otherwise.
    """
    found = re.fullmatch(r"(?:Z=(\d+))?(?:(?:^|,)z=(\d+(?:,\d+)*))?", text.replace(" ", ""))
    if not text or found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} names no skills: write Z=1 for the team's, z=0,2 for one of each agent, or "
            "both as Z=1,z=0,2"
        )
    team, agents = found.groups()
    return Skills(
        None if team is None else int(team),
        None if agents is None else tuple(map(int, agents.split(","))),
    )


def play_episode(env: BatchedEnv, team: TrainedTeam, number: int, seed: int) -> Played:
    """Play one episode in an env of one game; the team was reset for it.

    Args:
        env: of `num_envs` 1.
        team: acts.
        number: of the episode, for its frames' titles.
        seed: decides the start.

    Raises:
        PlayError: The env draws no pictures.
    """
    view, tracker = env.reset(seed), EpisodeTracker(1)
    frames: list[Frame] = []
    skills: list[tuple[int, Skills]] = []
    finished: list[Episode] = []
    reward = 0.0
    while True:
        if not finished:
            action = team.act(view.obs, view.state, view.action_mask)
        step_number = len(frames)
        team_skill, agent_skills = int(team.team_skill[0]), tuple(team.agent_skills[0].tolist())
        current = Skills(team_skill, agent_skills)
        if not skills or skills[-1][1] != current:
            skills.append((step_number, current))
        title = f"episode {number}   step {step_number}   reward {reward:.4g}"
        frame = Frame(_picture(env), title, team_skill, agent_skills, is_last=bool(finished))
        frames.append(frame)
        if finished:
            return Played(finished[0], frames, skills)
        step = env.step(action)
        view, reward = step.view, float(step.reward[0])
        finished = tracker.add(step)


def _parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(
        prog="hmasd play",
        description="Let a trained team play, and write a GIF with the team skill Z and each "
        "agent's skill z on every frame.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model-path", type=Path, required=True, metavar="FILE", help="checkpoint of the team")
    add("--env", help="env of the same sizes to play in; default: the one it was trained in")
    add(
        "--env-args",
        metavar="YAML",
        help="keyword arguments of the env's factory; default: those of the training, unless --env "
        "is given. Envs of gym: and pettingzoo: get render_mode: rgb_array beside them, to draw",
    )
    add("--out", type=Path, default=Path("game.gif"), metavar="FILE", help="default: game.gif")
    add("--episodes", type=_at_least(1), default=1, metavar="N", help="default: 1")
    add(
        "--seed",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="decides the first episode, the next is that of N + 1, and so on; default: 0",
    )
    add("--stochastic", action="store_true", help="draw choices; default: the most likely ones")
    add(
        "--force-skill",
        type=parse_skills,
        default=Skills(None, None),
        metavar="SKILLS",
        help="play these instead of the coordinator's choices: Z=1, or z=0,2 (one for each agent), "
        "or Z=1,z=0,2",
    )
    add("--fps", type=_frame_rate, default=8.0, metavar="X", help="frames per second; default: 8")
    add(
        "--max-steps",
        type=_at_least(1),
        metavar="N",
        help="steps after which an episode is cut; default: the episode_length of the training",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    """Load, play, write, tell."""
    if options.out.suffix.lower() != ".gif":
        raise PlayError(f"--out {options.out}: only GIFs are written, so the name must end in .gif")
    team = TrainedTeam.load(options.model_path)
    try:
        team.force(*options.force_skill)
    except ValueError as error:
        raise PlayError(f"--force-skill {options.force_skill}: {error}") from error
    frames: list[Frame] = []
    with contextlib.closing(_make_env(team, options)) as env:
        _check_sizes(env, team, options)
        for number in range(options.episodes):
            seed = options.seed + number
            team.reset(seed=seed if options.stochastic else None)
            played = play_episode(env, team, number, seed)
            _tell(played, number, seed)
            frames += played.frames
    width, height = save_gif(options.out, frames, options.fps)
    size = options.out.stat().st_size / 1000
    print(f"{options.out}: {len(frames)} frames of {width} x {height}, {size:.0f} kB")


def _make_env(team: TrainedTeam, options: argparse.Namespace) -> BatchedEnv:
    """One game.

    Raises:
        PlayError: There is no such env.
    """
    config = dataclasses.replace(team.config, env_workers=0)  # one game needs no worker
    name = options.env or config.env
    if options.env is not None or options.env_args is not None:
        config = dataclasses.replace(config, env_args=options.env_args or "")
    try:
        config = dataclasses.replace(config, env_args=_with_pictures(name, config.env_args))
        return make_env(name, 1, options.max_steps or config.episode_length, config.env_options)
    except ValueError as error:
        raise PlayError(f"--env {name}: {error}") from error


def _check_sizes(env: BatchedEnv, team: TrainedTeam, options: argparse.Namespace) -> None:
    """Refuse a game that does not fit the team.

    Raises:
        PlayError: It has other sizes; the message names them all.
    """
    problems = [
        f"{what}: {there} there, {here} in the team's training"
        for what, there, here in (
            ("agents", env.num_agents, team.num_agents),
            ("numbers in an observation", env.obs_size, team.obs_size),
            ("numbers in the state", env.state_size, team.state_size),
            ("actions", *(_actions(x.action_space) for x in (env, team))),
        )
        if there != here
    ]
    if problems:
        raise PlayError(
            f"--env {options.env or team.config.env} does not fit {options.model_path}, trained in "
            f"{team.config.env} ({'; '.join(problems)}): choose an env of the same sizes, or leave "
            "--env out"
        )


def _with_pictures(name: str, env_args: str) -> str:
    """The factory's arguments, with the one that makes packages' envs draw unless it is given."""
    if not name.startswith(("gym:", "pettingzoo:")):
        return env_args
    return yaml.safe_dump({"render_mode": "rgb_array"} | parse_env_args(env_args))


def _actions(space: object) -> str:
    """What kind of actions there are, in words."""
    if isinstance(space, Discrete):
        return f"one of {space.n}"
    return f"{getattr(space, 'shape', space)} continuous"


def _picture(env: BatchedEnv) -> np.ndarray:
    """What the env looks like now: [height, width, 3] uint8.

    Raises:
        PlayError: It draws no such pictures.
    """
    try:
        picture = env.render(0)
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise PlayError(f"this env draws no pictures ({error}), so there is no GIF") from error
    shape, dtype = np.shape(picture), getattr(picture, "dtype", type(picture).__name__)
    if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise PlayError(
            f"this env's render() gave {dtype} of shape {shape} instead of a picture, "
            "[height, width, 3] uint8, so there is no GIF"
        )
    return np.array(picture)


def _tell(played: Played, number: int, seed: int) -> None:
    """Print what happened in an episode."""
    outcome = played.outcome
    success = "success" if outcome.success else "no success"
    print(
        f"episode {number} (seed {seed}): {success}, return {outcome.episode_return:.4g}, "
        f"{outcome.length} steps"
    )
    for step, skills in played.skills:
        print(f"  step {step:3}: {skills}")


def _at_least(limit: int) -> Callable[[str], int]:
    """A reader of whole numbers from `limit` on."""

    def whole_number(text: str) -> int:
        number = int(text)
        if number < limit:
            raise argparse.ArgumentTypeError(f"{number} is less than {limit}")
        return number

    return whole_number


def _frame_rate(text: str) -> float:
    """Frames per second."""
    rate = float(text)
    if not 0 < rate <= MAX_FPS:
        raise argparse.ArgumentTypeError(f"{text} is not in the range 0..{MAX_FPS}")
    return rate
