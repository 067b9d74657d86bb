"""Checks a configuration before anything runs."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hmasd.config import Config
from hmasd.settings import ConfigError, field_types

AT_LEAST_ZERO = frozenset(
    {
        "seed",
        "eval_interval",
        "checkpoint_interval",
        "env_workers",
        "env_restarts",
        "samples_at_once",
        "compare_interval",
        "exploration_start",
        "survey_interval",
    }
)
"""Whole numbers that may be 0; all others must be at least 1."""
POSITIVE = frozenset(
    {
        *("learning_rate", "adam_eps", "max_grad_norm", "clip", "huber_delta"),
        *("env_timeout", "reduce_timeout", "rank_timeout", "eval_timeout"),
        "winning_sharpness",
    }
)
"""Numbers that must be more than 0; all others must be at least 0."""
FRACTIONS = frozenset(
    {
        *("gamma", "gae_lambda", "winning_step", "winning_intrinsic", "losing_entropy"),
        "skill_persistence",
    }
)
"""Numbers that must be at most 1 as well."""
LARGEST_SEED = 2**31 - 1  # others are made of it, and many generators take no more than 32 bits
OUTPUT_FOLDERS = ("models", "logs", "tf-logs", "runs")


def validate(config: Config, world_size: int = 1) -> None:
    """Check every setting, for a run of so many processes.

    Raises:
        ConfigError: One line for each problem: the value, the limit and what to do.
    """
    problems = [
        *_range_problems(config),
        *_round_problems(config),
        *_slice_problems(config),
        *_schedule_problems(config),
        *_rank_problems(config, world_size),
        *_network_problems(config),
        *_level_problems(config),
        *_skill_problems(config),
        *_env_problems(config),
        *device_problems(config),
        *_file_problems(config),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _range_problems(config: Config) -> Iterator[str]:
    """Numbers out of range; which is whose follows from the field's type and the sets above."""
    for name, kind in field_types().items():
        value = getattr(config, name)
        if kind is int:
            least = 0 if name in AT_LEAST_ZERO else 1
            if value < least:
                yield f"{name} = {value} must be at least {least}"
            elif name == "seed" and value > LARGEST_SEED:
                yield f"{name} = {value} must be at most {LARGEST_SEED}"
        elif kind is float:
            if not math.isfinite(value):
                yield f"{name} = {value} must be a finite number"
            elif value <= 0 and name in POSITIVE:
                yield f"{name} = {value} must be more than 0"
            elif value < 0:
                yield f"{name} = {value} must be at least 0"
            elif value > 1 and name in FRACTIONS:
                yield f"{name} = {value} must be at most 1"


def _round_problems(config: Config) -> Iterator[str]:
    """A round must be whole steps of all envs, and whole chunks."""
    envs, batch, chunk = config.num_envs, config.batch_size, config.chunk_length
    if envs < 1 or batch < 1:
        return
    whole, rest = divmod(batch, envs)
    if rest:
        valid = [str(n * envs) for n in (whole, whole + 1) if n > 0]
        yield (
            f"batch_size = {batch} is not a multiple of num_envs = {envs}: {batch} = {whole} x "
            f"{envs} + {rest}, and all envs step together; the nearest that are: "
            f"{', '.join(valid)}"
        )
    elif not config.sync_mode:
        yield from _fragment_problems(config)
    elif chunk >= 1 and whole % chunk:
        divisors = [n for n in range(1, whole + 1) if whole % n == 0]
        yield (
            f"chunk_length = {chunk} does not divide the round's steps per env, batch_size / "
            f"num_envs = {batch} / {envs} = {whole}: choose one of "
            f"{', '.join(map(str, divisors))}"
        )


def _rank_problems(config: Config, world_size: int) -> Iterator[str]:
    """Every process plays as many envs, and what they do together is training."""
    envs = config.num_envs
    if world_size == 1:
        return
    if config.eval_only:
        yield f"eval_only evaluates in one process, not in {world_size}: start it without torchrun"
    if not config.sync_mode:
        yield f"sync_mode = False trains in one process, not in {world_size}: leave it out"
    if config.device.startswith("cuda:"):
        yield (
            f"device = {config.device!r} is one GPU for all {world_size} processes: --device cuda "
            "gives each its own"
        )
    if envs % world_size:
        near = [n for n in (envs // world_size * world_size, -(-envs // world_size) * world_size)]
        yield (
            f"num_envs = {envs} cannot be divided among {world_size} processes: choose "
            f"{' or '.join(str(n) for n in near if n > 0)}, or another --nproc-per-node"
        )


def _slice_problems(config: Config) -> Iterator[str]:
    """A slice of a round must hold a chunk."""
    if 0 < config.samples_at_once < config.chunk_length:
        yield (
            f"samples_at_once = {config.samples_at_once} is less than chunk_length = "
            f"{config.chunk_length}, and a recurrent chunk goes through the networks whole: choose "
            f"{config.chunk_length} or more, or 0 for the whole round"
        )


def _fragment_problems(config: Config) -> Iterator[str]:
    """Asynchronous: whole fragments, at most one per env in a batch, finished at an even pace."""
    envs, batch, chunk = config.num_envs, config.batch_size, config.chunk_length
    if config.env_restarts > 0:
        yield (
            f"env_restarts = {config.env_restarts} with sync_mode = False: updates may have "
            "learned from a failed env's steps already, so they cannot be left out: set "
            "env_restarts = 0 or sync_mode = True"
        )
    if chunk < 1:
        return
    if batch % chunk or batch > envs * chunk:
        yield (
            f"batch_size = {batch} with sync_mode = False must be a number of whole fragments of "
            f"chunk_length = {chunk} steps, at most one of each of the {envs} envs: a multiple of "
            f"{chunk} up to {envs * chunk}"
        )
    if envs % chunk and chunk % envs:
        yield (
            f"chunk_length = {chunk} with sync_mode = False must divide num_envs = {envs} or be a "
            "multiple of it, so that the envs finish their fragments at an even pace"
        )


def _schedule_problems(config: Config) -> Iterator[str]:
    """What grows must be a synchronous round, and what is measured must be there."""
    schedule = config.batch_schedule
    if schedule != "constant" and not config.sync_mode:
        yield (
            f"batch_schedule = {schedule!r} lets the synchronous round grow, and sync_mode = False "
            "has none: set batch_schedule = 'constant' or sync_mode = True"
        )
    if schedule == "noise" and config.num_envs == 1:
        yield (
            "batch_schedule = 'noise' compares gradients of different envs, and num_envs = 1: set "
            "num_envs to 2 or more, or batch_schedule = 'linear'"
        )
    if schedule == "noise" and config.low_level == "action":
        yield (
            "batch_schedule = 'noise' measures the discoverer's gradient, and low_level = 'action' "
            "has no discoverer: set batch_schedule = 'linear'"
        )


def _network_problems(config: Config) -> Iterator[str]:
    size, heads = config.hidden_size, config.coordinator_heads
    if size >= 1 and heads >= 1 and size % heads:
        sizes = " or ".join(str(n * heads) for n in (size // heads, size // heads + 1) if n > 0)
        counts = " or ".join(map(str, _nearest_divisors(size, heads)))
        yield (
            f"hidden_size = {size} is not a multiple of coordinator_heads = {heads}: each head has "
            f"hidden_size / coordinator_heads features; choose hidden_size {sizes}, or "
            f"coordinator_heads {counts}"
        )


def _level_problems(config: Config) -> Iterator[str]:
    if config.high_level == "random" and config.low_level == "action":
        yield (
            "high_level = 'random' with low_level = 'action' plays at random and learns nothing: "
            "set high_level = 'coordinator' or low_level = 'discoverer'"
        )


def _skill_problems(config: Config) -> Iterator[str]:
    """Skills are compared with one another, paid for something, and surveyed in two batches."""
    if (
        config.individual_reward == "log_odds"
        and config.low_level == "discoverer"
        and config.num_agent_skills == 1
        and config.individual_coef > 0
    ):
        yield (
            "individual_reward = 'log_odds' compares skills, and num_agent_skills = 1 leaves "
            "nothing to compare: set individual_coef = 0, or num_agent_skills to 2 or more"
        )
    paid_for_winning = config.extrinsic_coef + config.winning_extrinsic_coef
    if config.low_level == "discoverer" and config.winning_intrinsic + paid_for_winning == 0:
        yield (
            "winning_intrinsic = 0 takes the skills' reward from a team that wins, and "
            "extrinsic_coef = winning_extrinsic_coef = 0 gives it no other: set winning_intrinsic "
            "= 1, or winning_extrinsic_coef above 0"
        )
    if config.survey_interval == 1:
        yield (
            "survey_interval = 1 is too short, a survey takes the segments of two updates: set it "
            "to 2 or more, or to 0 for the first survey only"
        )


def _nearest_divisors(number: int, near: int) -> list[int]:
    """The divisors of a number next below and next above one that is none."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return [*[n for n in divisors if n < near][-1:], *[n for n in divisors if n > near][:1]]


def _env_problems(config: Config) -> Iterator[str]:
    from hmasd.envs.registry import env_problem

    problem = env_problem(config.env, config.env_options)
    if problem is not None:
        yield problem


def device_problems(config: Config) -> Iterator[str]:
    """Whether a number can be put on the device and read back."""
    import torch

    try:
        torch.zeros(1, device=config.device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        yield (f"device = {config.device!r} cannot be used here: {reason}; --device cpu always can")


def _file_problems(config: Config) -> Iterator[str]:
    if config.eval_only and config.model_path is None:
        yield "eval_only needs a checkpoint to evaluate: give --model-path FILE"
    if config.model_path is not None and not Path(config.model_path).is_file():
        yield f"model_path = {config.model_path!r}: there is no such file"
    output = Path(config.output_dir)
    folders = {_existing(output / name) for name in OUTPUT_FOLDERS}
    for folder in sorted(folders):
        reason = _cannot_write(folder)
        if reason:
            yield (
                f"output_dir = {config.output_dir!r}: cannot write in {folder}: {reason}; make it "
                "writable or choose another --output-dir"
            )


def _existing(path: Path) -> Path:
    """The path, or the nearest of the folders above it that exists."""
    while not os.path.lexists(path) and path.parent != path:
        path = path.parent
    return path


def _cannot_write(folder: Path) -> str | None:
    """Why no file can be made in a folder, found by making one; None if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        return error.strerror or str(error)
    return None


def differing(old: Config, new: Config, names: tuple[str, ...]) -> list[str]:
    """The settings among `names` whose values differ, each as 'name: old -> new'."""
    before, after = dataclasses.asdict(old), dataclasses.asdict(new)
    return [
        f"{name}: {before[name]!r} -> {after[name]!r}"
        for name in names
        if before[name] != after[name]
    ]
