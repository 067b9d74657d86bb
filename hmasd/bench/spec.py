"""What is compared: a YAML file of tasks, algorithms and seeds becomes checked configurations.

A task is an env with settings, an algorithm a preset with settings over it; each pair becomes one
`Config`. What makes a comparison fair (steps, evaluations, seeds) belongs to the file alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from hmasd.batch_schedule import planned_rounds
from hmasd.config import Config
from hmasd.presets import PRESETS
from hmasd.settings import ConfigError, Entry, checked, nearest, read_yaml
from hmasd.validation import LARGEST_SEED, validate

Metric = Literal["success", "return"]
MIN_EPISODES = 32
MOST_SEEDS = 10_000
SHARED = {
    "seed": "seeds",
    "eval_interval": "eval_interval",
    "eval_episodes": "eval_episodes",
}
"""Settings that all runs of a file share, and the file's own name for each."""
ROUNDING = 0.01  # of the budget: what whole rounds may add to it
_OWN = frozenset(
    {"output_dir", "model_path", "eval_only", "checkpoint_interval", "threads", "keep_policies"}
    | {"eval_mode"}
)
_GAME = ("env", "env_args", "team_reward", "episode_length")  # what a task is
FAIR = frozenset({"total_steps", *SHARED, *_GAME})
"""Settings in which runs that are compared must agree."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclasses.dataclass(frozen=True)
class Spec:
    """One comparison."""

    tasks: dict[str, dict[str, Any]]
    """Name to settings (`env`, ...); `total_steps` of a task stands in for `env_steps`."""
    algorithms: dict[str, dict[str, Any]]
    """Name to settings; `preset` names what they stand on (one, or a list), else the defaults."""
    seeds: tuple[int, ...]
    """A list, or a number n for 1 to n."""
    env_steps: int = 1_000_000
    """Budget of every run."""
    eval_interval: int = 100_000
    """Env steps between two evaluations of a frozen policy; must divide the budget."""
    eval_episodes: int = 100
    """Episodes of each evaluation, for greedy and for stochastic play; at least 32."""
    absolute_factor: int = 10
    """The best policy is measured again on this many times `eval_episodes` new episodes."""
    metric: Metric = "success"
    """What the scores are: 'success' (0 to 1), or 'return' scaled to 0 to 1 within each task."""
    solved: float = 0.95
    """Success, in greedy and in stochastic play, with which a run counts as successful."""


class RunKey(NamedTuple):
    """One run of a comparison."""

    task: str
    algorithm: str
    seed: int

    @property
    def folder(self) -> str:
        """Where it lies below the comparison's `runs/`."""
        return f"{self.task}/{self.algorithm}/seed_{self.seed}"


def read_spec(path: Path) -> Spec:
    """Read and check a file.

    Raises:
        ConfigError: One line per problem: where, what, and what to do.
    """
    spec = _spec_of(read_yaml(path), path)
    checks = (
        lambda: _name_problems(spec),
        lambda: _number_problems(spec),
        lambda: [line for pair in _pairs(spec) for line in _pair_problems(spec, *pair)],
        lambda: [line for task in spec.tasks for line in _game_problems(spec, task)],
        lambda: [line for task in spec.tasks for line in _budget_problems(spec, task)],
    )
    for check in checks:  # each makes sense only after the one before
        problems = check()
        if problems:
            raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return spec


def run_keys(spec: Spec) -> list[RunKey]:
    """All runs; seeds vary slowest, so that a stopped comparison has every pair equally often."""
    return [RunKey(*pair, seed) for seed in spec.seeds for pair in _pairs(spec)]


def config_of(spec: Spec, key: RunKey, output_dir: Path) -> Config:
    """The settings of a run: defaults < preset < task < algorithm < the file's own."""
    return dataclasses.replace(
        _merged(spec, key.task, key.algorithm), seed=key.seed, output_dir=str(output_dir)
    )


def budget(spec: Spec, task: str) -> int:
    """Env steps of every run on the task."""
    return int(spec.tasks[task].get("total_steps", spec.env_steps))


def _spec_of(entries: Mapping[str, Entry], path: Path) -> Spec:
    fields = {field.name: field for field in dataclasses.fields(Spec)}
    problems = [
        f"{entry.place}: there is no key {name!r}{nearest(name, fields)}; the keys are "
        f"{', '.join(fields)}"
        for name, entry in entries.items()
        if name not in fields
    ]
    problems += [
        f"{path}: {name} is missing: a comparison needs it"
        for name in ("tasks", "algorithms", "seeds")
        if name not in entries
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    values = {name: _value(name, entry) for name, entry in entries.items()}
    return Spec(**values)


def _value(name: str, entry: Entry) -> Any:
    """One key's value, of the right type."""
    value, place = entry
    if name in ("tasks", "algorithms"):
        return _mapping(name, value, place)
    if name == "seeds":
        return _seeds(value, place)
    if name == "metric":
        if value not in get_args(Metric):
            raise ConfigError(f"{place}: metric = {value!r}: expected 'success' or 'return'")
        return value
    kinds = (int, float) if name == "solved" else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = "a number" if name == "solved" else "a whole number, written in digits"
        raise ConfigError(f"{place}: {name} = {value!r}: expected {wanted}")
    return value


def _mapping(name: str, value: Any, place: str) -> dict[str, dict[str, Any]]:
    one = name.removesuffix("s")
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{place}: {name} must hold lines '{one}: {{setting: value}}'")
    for key, settings in value.items():
        if not isinstance(settings, dict | None):
            raise ConfigError(f"{place}: {one} {key!r} must hold settings, not {settings!r}")
        for word in (key, *(settings or {})):
            if not isinstance(word, str):
                raise ConfigError(
                    f"{place}: {one} {key!r}: YAML reads the name {word!r} as no text: put it in "
                    "quotes as it is written"
                )
    return {key: dict(settings or {}) for key, settings in value.items()}


def _seeds(value: Any, place: str) -> tuple[int, ...]:
    if type(value) is int and value > MOST_SEEDS:
        raise ConfigError(
            f"{place}: seeds = {value}: that would be as many runs of each algorithm, the limit is "
            f"{MOST_SEEDS}; the one seed of this number is [{value}]"
        )
    seeds = list(range(1, value + 1)) if type(value) is int else value
    if not isinstance(seeds, list) or not seeds or any(type(x) is not int for x in seeds):
        raise ConfigError(
            f"{place}: seeds = {value!r}: expected a number of at least 1 or a list of numbers"
        )
    if min(seeds) < 0 or max(seeds) > LARGEST_SEED:
        raise ConfigError(
            f"{place}: seeds = {value!r}: a seed must be at least 0 and at most {LARGEST_SEED}"
        )
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{place}: seeds = {value!r}: a seed twice is one run, not two")
    return tuple(seeds)


def _pairs(spec: Spec) -> list[tuple[str, str]]:
    return [(task, algorithm) for task in spec.tasks for algorithm in spec.algorithms]


def _number_problems(spec: Spec) -> list[str]:
    problems = []
    if spec.eval_episodes < MIN_EPISODES:
        problems.append(
            f"eval_episodes = {spec.eval_episodes} is below {MIN_EPISODES}: a share of so few "
            "episodes is mostly chance"
        )
    if spec.absolute_factor < 1:
        problems.append(f"absolute_factor = {spec.absolute_factor} must be at least 1")
    if not 0 < spec.solved <= 1:
        problems.append(f"solved = {spec.solved} must be above 0 and at most 1")
    if spec.eval_interval < 1:
        problems.append(f"eval_interval = {spec.eval_interval} must be at least 1")
        return problems
    for task in spec.tasks:
        steps = budget(spec, task)
        if steps < 1:
            problems.append(f"task {task}: {steps} env steps must be at least 1")
        elif steps % spec.eval_interval:
            problems.append(
                f"task {task}: {steps} env steps are no multiple of eval_interval "
                f"{spec.eval_interval}: the last evaluation must be the end of training; choose an "
                "interval that divides them"
            )
    return problems


def _name_problems(spec: Spec) -> list[str]:
    """Names become folders; settings must be known and must not be the file's own."""
    problems = []
    for kind, group in (("task", spec.tasks), ("algorithm", spec.algorithms)):
        for name, settings in group.items():
            if not _NAME.fullmatch(name):
                problems.append(
                    f"{kind} {name!r}: a name is at most 100 letters, digits, '.', '-' and '_': it "
                    "is a folder"
                )
            allowed = {"preset"} if kind == "algorithm" else {"total_steps"}
            problems += _setting_problems(f"{kind} {name}", settings, allowed)
    for name, settings in spec.algorithms.items():
        problems += [
            f"algorithm {name}: there is no preset {preset!r}{nearest(preset, PRESETS)}; the "
            f"presets are {', '.join(PRESETS)}"
            for preset in _presets(settings)
            if preset not in PRESETS
        ]
    return problems


def _setting_problems(where: str, settings: Mapping[str, Any], allowed: set[str]) -> list[str]:
    problems = []
    for name in settings:
        if name in allowed:
            continue
        if name == "total_steps":
            problems.append(
                f"{where} sets total_steps = {settings[name]}: more steps for one algorithm is "
                "an unequal budget, and no comparison; set env_steps for all, or total_steps of "
                "a task"
            )
        elif name == "preset":
            problems.append(f"{where} sets preset: that makes an algorithm; set it in one")
        elif name in SHARED:
            problems.append(f"{where} sets {name}: all runs share it; set {SHARED[name]} on top")
        elif name in _OWN:
            problems.append(f"{where} sets {name}: the comparison decides it; leave it out")
    entries = {k: Entry(v, where) for k, v in settings.items() if k not in {"preset", *_OWN}}
    try:
        checked(entries)
    except ConfigError as error:
        problems += str(error).splitlines()
    return problems


def _pair_problems(spec: Spec, task: str, algorithm: str) -> list[str]:
    """What is wrong with one pair as a run."""
    where = f"task {task}, algorithm {algorithm}"
    given = spec.tasks[task].keys() & spec.algorithms[algorithm].keys()
    problems = [f"{where}: both set {name}; leave one out" for name in sorted(given)]
    config = _merged(spec, task, algorithm)
    try:
        validate(dataclasses.replace(config, device="cpu"))  # theirs may be another machine's
    except ConfigError as error:
        problems += [f"{where}: {line}" for line in str(error).splitlines()]
    if config.largest_batch_size > spec.eval_interval:
        problems.append(
            f"{where}: a round is {config.largest_batch_size} env steps, more than eval_interval "
            f"{spec.eval_interval}: evaluations fall together; raise eval_interval"
        )
    return problems


def _game_problems(spec: Spec, task: str) -> list[str]:
    """All algorithms must play the same game, also where only a preset names it."""
    configs = {algorithm: _merged(spec, task, algorithm) for algorithm in spec.algorithms}
    problems = []
    for name in _GAME:
        values = {algorithm: getattr(config, name) for algorithm, config in configs.items()}
        if len(set(values.values())) > 1:
            found = ", ".join(f"{value!r} for {algorithm}" for algorithm, value in values.items())
            problems.append(
                f"task {task}: {name} is {found}: different games are no comparison; set {name} "
                "in the task"
            )
    return problems


def _budget_problems(spec: Spec, task: str) -> list[str]:
    """Training ends with a whole round, so budgets may differ by a little, not by much."""
    lowest, highest = {}, {}
    for algorithm in spec.algorithms:
        config = _merged(spec, task, algorithm)
        steps = sum(size * number for size, number in planned_rounds(config))
        lowest[algorithm] = highest[algorithm] = steps
        if config.batch_schedule == "noise" and config.max_batch_factor > 1:  # it may have grown
            lowest[algorithm] = budget(spec, task)
            highest[algorithm] = budget(spec, task) + config.largest_batch_size - 1
    least, most = min(lowest, key=lambda x: lowest[x]), max(highest, key=lambda x: highest[x])
    if highest[most] <= lowest[least] * (1 + ROUNDING):
        return []
    return [
        f"task {task}: in whole rounds {most} takes up to {highest[most]} env steps and {least} "
        f"{lowest[least]}, which differ by more than {ROUNDING:.0%}: an unequal budget; choose "
        "env_steps as a multiple of all batch sizes, or a hundred times the largest"
    ]


def _presets(settings: Mapping[str, Any]) -> list[str]:
    """Names of an algorithm's presets, each of which counts more than those before it."""
    given = settings.get("preset", [])
    names = given if isinstance(given, list) else str(given).split(",")
    return [str(name).strip() for name in names]


def _merged(spec: Spec, task: str, algorithm: str) -> Config:
    """The settings of a pair, but for seed and folder."""
    settings = dict(spec.algorithms[algorithm])
    merged: dict[str, Any] = {}
    for preset in _presets(settings):
        merged |= PRESETS[preset]
    settings.pop("preset", None)
    merged |= spec.tasks[task] | settings
    values = checked({name: Entry(x, f"{task}, {algorithm}") for name, x in merged.items()})
    steps = budget(spec, task)
    return Config(
        **values
        | {
            "total_steps": steps,
            "eval_interval": spec.eval_interval,
            "eval_episodes": spec.eval_episodes,
            "checkpoint_interval": max(spec.eval_interval, steps // 10),
            "keep_policies": True,
            "threads": 1,
        }
    )
