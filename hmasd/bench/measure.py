"""After training: the best policy on new episodes, and why the run learned or not.

    python -m hmasd.bench.measure RUN_FOLDER --episodes 1000

The best policy is that of the evaluation with the highest return, both ways of playing averaged;
of equal ones the latest. The episodes that chose it do not measure it: these have another seed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmasd import checkpoint
from hmasd.bench import files
from hmasd.bench.diagnosis import diagnose
from hmasd.bench.results import evaluated_episodes
from hmasd.bench.skill_maps import draw_skills
from hmasd.bench.skills import look_at_skills
from hmasd.config import Config
from hmasd.disk import EXIT_FULL, is_full
from hmasd.networks import HMASDNetworks
from hmasd.settings import stored_config
from hmasd.telemetry.writers import EVALUATIONS_FILE
from hmasd.training.evaluation import MODES, SEED_OFFSET, play_episodes, playing_agent
from hmasd.viz.curves import read_run

NEW_EPISODES = 500_000_000  # added to the seed: episodes that no evaluation has played


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one run folder; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hmasd.bench.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="--output-dir of a training with keep_policies")
    parser.add_argument("--episodes", type=int, default=1000, help="per way of playing")
    parser.add_argument(
        "--failed", action="store_true", help="only say why, as of a run that failed"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        if options.failed:
            diagnose_failed(options.folder)
        else:
            measure(options.folder, options.episodes)
    except (OSError, checkpoint.CheckpointError) as error:
        if not is_full(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FULL
    return 0


def measure(folder: Path, episodes: int) -> None:
    """Write diagnosis.json, skills.png and, last, absolute.json into the run's folder.

    Policies that are not needed any more and checkpoints on the way are deleted.

    Raises:
        FileNotFoundError: Training wrote no evaluation, or kept no policy of it.
        CheckpointError: A policy or the final checkpoint cannot be read.
    """
    training = files.training_folder(folder)
    if training is None or not (training / EVALUATIONS_FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no evaluations: train with eval_interval above 0")
    best = best_evaluation(evaluated_episodes(training / EVALUATIONS_FILE))
    checkpoint.load(checkpoint.checkpoint_path(folder / "models", None))  # it stays: is it whole?
    config, networks = load_policy(checkpoint.policy_path(folder / "models", best))
    num_skills = config.num_team_skills, networks.coordinator.num_agent_skills
    kept = _diagnose(folder, training, _evaluated(training), num_skills)
    rows = [
        {"mode": mode, "episode": number, "success": e.success}
        | {"return": e.episode_return, "length": e.length}
        for mode in MODES
        for number, e in enumerate(
            play_episodes(
                config, networks, mode, episodes, config.seed + SEED_OFFSET + NEW_EPISODES
            )
        )
    ]
    files.write_json(folder / files.ABSOLUTE, {"env_steps": best, "episodes": rows})
    _delete_the_rest(folder / "models", kept | {best})


def diagnose_failed(folder: Path) -> None:
    """Write diagnosis.json and skills.png of what there is of a run that failed; delete nothing.

    Raises:
        FileNotFoundError: Training logged nothing.
        CheckpointError: A policy that was kept is damaged.
    """
    training = files.training_folder(folder)
    if training is None:
        raise FileNotFoundError(f"{folder} holds no metrics: training never began")
    models = folder / "models"  # training may fail before an evaluation's policy is saved
    evaluated = [x for x in _evaluated(training) if checkpoint.policy_path(models, x).is_file()]
    num_skills = 0, 0  # nothing was kept: entropies have no scale
    if evaluated:
        config, networks = load_policy(checkpoint.policy_path(models, evaluated[-1]))
        num_skills = config.num_team_skills, networks.coordinator.num_agent_skills
    _diagnose(folder, training, evaluated, num_skills)


def best_evaluation(rows: Iterable[Mapping[str, Any]]) -> int:
    """Env steps of the evaluation whose ways of playing return most on average, the latest such.

    Args:
        rows: Lines of ``evaluations.jsonl``; every evaluation has as many of each way.
    """
    returns: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        returns[row["env_steps"]].append(row["return"])
    return max(returns, key=lambda steps: (np.mean(returns[steps]), steps))


def load_policy(path: Path) -> tuple[Config, HMASDNetworks]:
    """The settings and the networks that play of a policy file or a checkpoint.

    Raises:
        CheckpointError: The file is missing or damaged, or does not fit its own settings.
        ConfigError: It was saved with a setting that is unknown here.
    """
    content = checkpoint.load(path)
    config = stored_config(content["config"], path)
    return config, playing_agent(config, content).played


def _diagnose(
    folder: Path, training: Path, evaluated: Sequence[int], num_skills: tuple[int, int]
) -> set[int]:
    """Write the diagnosis; returns the env steps of the policies that it looked at.

    Those are, of the `evaluated` ones, the last before half of training's episodes succeed, and the
    last of all. `num_skills`: n_Z and n_z.
    """
    found = diagnose(read_run(training), num_skills)
    first = found["first"]["training_0.5"]
    before = [steps for steps in evaluated if first is None or steps < first]
    moments = {
        "before_success": before[-1] if before else None,
        "last": evaluated[-1] if evaluated else None,
    }
    looks: dict[str, Any] = {name: None for name in moments}
    for name, steps in moments.items():
        if steps is not None and (name == "last" or steps != evaluated[-1]):
            own, networks = load_policy(checkpoint.policy_path(folder / "models", steps))
            looks[name] = {"env_steps": steps} | look_at_skills(own, networks)
    if looks["last"] is not None and looks["last"]["pairs"][0]["visited"] is not None:
        draw_skills(looks).savefig(folder / "skills.png", dpi=110)
    files.write_json(folder / files.DIAGNOSIS, found | {"skills": looks})
    return {look["env_steps"] for look in looks.values() if look is not None}


def _evaluated(training: Path) -> list[int]:
    """Env steps of all evaluations; none where the first was not due yet."""
    path = training / EVALUATIONS_FILE
    return sorted({row["env_steps"] for row in evaluated_episodes(path)}) if path.is_file() else []


def _delete_the_rest(models: Path, kept: set[int]) -> None:
    """Leave the final checkpoint and the policies of the evaluations in `kept`."""
    names = {checkpoint.policy_path(models, steps).name for steps in kept}
    names.add(checkpoint.checkpoint_path(models, None).name)
    for path in models.glob("*.pth"):
        if path.name not in names:
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
