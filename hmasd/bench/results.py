"""What the runs' folders hold, as arrays of scores, per-episode rows and marl-eval's JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmasd.bench import files
from hmasd.bench.job import Job, State
from hmasd.bench.shapes import EVALUATED, fits
from hmasd.bench.spec import RunKey, Spec, budget
from hmasd.config import Config
from hmasd.telemetry.jsonl import read_lines
from hmasd.telemetry.run_folder import version_files
from hmasd.telemetry.writers import EVALUATIONS_FILE
from hmasd.training.evaluation import MODES

MEASURES = ("success", "return")
BEST = "absolute"  # phase of the rows that measure the best policy
UNKNOWN = "unknown"  # commit, where there is no git


class Record(NamedTuple):
    """One run as it is now."""

    key: RunKey
    state: State
    rows: list[dict[str, Any]]  # episodes of all evaluations, then those of the absolute metric
    diagnosis: dict[str, Any] | None
    failure: dict[str, Any] | None
    commits: tuple[str, ...]  # of the program, as it went on; none: unknown
    earlier_failures: int  # after which it was taken up again
    damaged: tuple[str, ...]  # names of files that cannot be read and count as missing


class Scores(NamedTuple):
    """Runs of one algorithm on one task that ended, failed ones as the worst; R runs, K points."""

    curves: dict[str, np.ndarray]  # mode -> [R, K] at every evaluation
    absolute: dict[str, np.ndarray]  # mode -> [R] of the best policy
    solved: np.ndarray  # [R] bool, the best policy in both ways of playing
    solved_at_end: np.ndarray  # [R] bool, the last policy
    limits: tuple[float, float]  # values of the metric that are scores of 0 and 1

    @property
    def overall(self) -> np.ndarray:
        """One number per run [R]: the best policy, mean over the ways of playing."""
        return np.mean([self.absolute[mode] for mode in MODES], axis=0)


def read_record(job: Job) -> Record:
    """Everything that a run's folder holds."""
    state = job.state  # first: what another process finishes meanwhile is not finished here
    training = files.training_folder(job.folder)
    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    if training is not None and (training / EVALUATIONS_FILE).is_file():
        rows = _whole_evaluations(training / EVALUATIONS_FILE, job.config)
    absolute = files.read_if_whole(job.folder / files.ABSOLUTE, damaged)
    if absolute is not None:
        steps = absolute["env_steps"]
        rows += [{"phase": BEST, "env_steps": steps} | row for row in absolute["episodes"]]
    return Record(
        job.key,
        state,
        rows,
        files.read_if_whole(job.folder / files.DIAGNOSIS, damaged),
        files.read_failure(job.folder),
        () if training is None else _commits(training, damaged),
        len(files.earlier_failures(job.folder)),
        tuple(damaged),
    )


def _commits(training: Path, damaged: list[str]) -> tuple[str, ...]:
    """E.g. ``76c982f``, ``6a1a67e with changes``: what began a run, then what went on with it."""
    found = [_commit(files.read_if_whole(x, damaged) or {}) for x in version_files(training)]
    known = tuple(word for word, _ in groupby(found))
    return () if known == (UNKNOWN,) else known


def _commit(versions: Mapping[str, Any]) -> str:
    """One of `_commits`; versions of the program before did not look for changes."""
    commit = versions.get("git_commit")
    if commit is None:
        return UNKNOWN
    return commit[:7] + (" with changes" if versions.get("git_has_changes") else "")


def evaluated_episodes(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of `evaluations.jsonl` that are episodes."""
    return (row for row in read_lines(path) if fits(row, EVALUATED))


def _whole_evaluations(path: Path, config: Config) -> list[dict[str, Any]]:
    """Rows of the evaluations that have all their episodes of every way of playing.

    Those of a run that went on beyond the budget end with it.
    """
    due = config.total_steps // config.eval_interval
    rows = [
        {"phase": "evaluation"} | row
        for row in evaluated_episodes(path)
        if row["env_steps"] // config.eval_interval <= due
    ]
    counts = Counter((row["env_steps"], row["mode"]) for row in rows)
    return [
        row
        for row in rows
        if all(counts[row["env_steps"], mode] == config.eval_episodes for mode in MODES)
    ]


def episode_rows(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Every evaluation episode of every run, one flat row each."""
    for record in records:
        for row in record.rows:
            yield record.key._asdict() | row


def points(record: Record, mode: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Env steps and means of a run's evaluations, each [K]."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in record.rows:
        if row["phase"] != BEST and row["mode"] == mode:
            found[row["env_steps"]].append(row[measure])
    steps = sorted(found)
    return np.array(steps, dtype=np.int64), np.array([np.mean(found[step]) for step in steps])


def absolute_mean(record: Record, mode: str, measure: str) -> float:
    """Mean of a finished run's best policy over the new episodes."""
    return float(
        np.mean([x[measure] for x in record.rows if x["phase"] == BEST and x["mode"] == mode])
    )


def tells_success(spec: Spec, task: str, records: Sequence[Record]) -> bool:
    """Whether the task's successes are worth a word: they are compared, or some episode had one."""
    rows = (row for record in records if record.key.task == task for row in record.rows)
    return spec.metric == "success" or any(row["success"] for row in rows)


def scores(spec: Spec, records: Sequence[Record]) -> dict[str, dict[str, Scores]]:
    """Scores by task and algorithm, of the runs that ended; a pair without one is left out.

    A failed run is not left out: it counts as not solved, and with the worst score (0) from its
    failure on.
    """
    found: dict[str, dict[str, Scores]] = {}
    for task in spec.tasks:
        ended = [x for x in records if x.key.task == task and x.state != "unfinished"]
        low, high = _limits(spec, ended)
        found[task] = {
            algorithm: _scores(spec, [x for x in ended if x.key.algorithm == algorithm], low, high)
            for algorithm in spec.algorithms
            if any(x.key.algorithm == algorithm for x in ended)
        }
    return found


def marl_eval(name: str, spec: Spec, records: Sequence[Record]) -> dict[str, Any]:
    """The raw data layout of marl-eval (Gorsane et al., NeurIPS 2022), of the runs that ended.

    What a failed run did not come to, and what is missing of another, counts as lost episodes with
    the task's lowest return.
    """
    tasks: dict[str, Any] = {}
    for record in records:
        if record.state == "unfinished":
            continue
        rows = record.rows
        rows = rows + _lost_rows(spec, record, _lowest_return(records, record.key.task))
        runs = tasks.setdefault(record.key.task, {}).setdefault(record.key.algorithm, {})
        evaluations: dict[int, dict[str, Any]] = {}
        absolute: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            step = row["env_steps"]
            at = absolute
            if row["phase"] != BEST:
                at = evaluations.setdefault(step, defaultdict(list, step_count=step))
            for measure in MEASURES:
                at[f"{row['mode']}_{measure}"].append(float(row[measure]))
        steps = {f"step_{i}": evaluations[step] for i, step in enumerate(sorted(evaluations), 1)}
        runs[f"seed_{record.key.seed}"] = steps | {"absolute_metrics": absolute}
    return {name: tasks}


def _lost_rows(spec: Spec, record: Record, worst: float) -> list[dict[str, Any]]:
    """One lost episode of each way of playing for whatever is not there of a run that ended."""
    steps = evaluation_steps(spec, record.key.task)
    found = _due(spec, points(record, MODES[0], "success")[0])
    missing: list[dict[str, Any]] = [
        {"phase": "evaluation", "env_steps": int(step)} for step in np.delete(steps, found)
    ]
    if record.state == "failed":
        missing.append({"phase": BEST, "env_steps": int(steps[-1])})
    lost = {"success": False, "return": worst}
    return [row | {"mode": mode} | lost for row in missing for mode in MODES]


def _lowest_return(records: Sequence[Record], task: str) -> float:
    """Of all episodes on a task; 0 if there is none."""
    returns = (row["return"] for x in records if x.key.task == task for row in x.rows)
    return float(min(returns, default=0.0))


def evaluation_steps(spec: Spec, task: str) -> np.ndarray:
    """The env steps at which evaluations are due [K]; rounds end a little later."""
    return np.arange(spec.eval_interval, budget(spec, task) + 1, spec.eval_interval)


def _due(spec: Spec, steps: np.ndarray) -> np.ndarray:
    """Which evaluation was due at each of some env steps: 0 for the first."""
    return steps // spec.eval_interval - 1


def _limits(spec: Spec, records: Sequence[Record]) -> tuple[float, float]:
    """Which values of the metric are 0 and 1: success is as it is, returns go by the task's.

    Where all returns are the same they are all 1, above those of runs that failed.
    """
    if spec.metric == "success":
        return 0.0, 1.0
    values = [
        value
        for record in records
        for mode in MODES
        for value in (
            *points(record, mode, "return")[1],
            *([absolute_mean(record, mode, "return")] if record.state == "finished" else []),
        )
    ]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if low < high else (high - 1.0, high)


def _scores(spec: Spec, runs: Sequence[Record], low: float, high: float) -> Scores:
    """Scores of one pair's runs, scaled so that `low` is 0 and `high` is 1."""
    span = high - low
    number = len(evaluation_steps(spec, runs[0].key.task))
    curves, absolute = {}, {}
    for mode in MODES:
        rows = np.zeros((len(runs), number))
        for row, run in zip(rows, runs, strict=True):
            steps, values = points(run, mode, spec.metric)
            row[_due(spec, steps)] = (values - low) / span
        curves[mode] = rows
        absolute[mode] = np.array(
            [
                (absolute_mean(run, mode, spec.metric) - low) / span
                if run.state == "finished"
                else 0.0
                for run in runs
            ]
        )
    return Scores(
        curves,
        absolute,
        np.array([_is_solved(run, spec.solved, absolute_mean) for run in runs]),
        np.array([_is_solved(run, spec.solved, partial(last_mean, spec)) for run in runs]),
        (low, high),
    )


def missing_pieces(spec: Spec, record: Record) -> list[str]:
    """What a run's folder should hold and does not, or not whole, and how to get it back."""
    words = [f"{name} cannot be read and counts as missing" for name in record.damaged]
    if record.state != "finished":
        return words
    due = len(evaluation_steps(spec, record.key.task))
    found = len(points(record, MODES[0], "success")[0])
    if found != due:
        words.append(
            f"{found} of {due} evaluations, of which others count as lost; without its folder it "
            "is run again"
        )
    if record.diagnosis is None:
        words.append(
            "no diagnosis, so it is not in what is said of why runs learn or not; "
            "`python -m hmasd.bench.measure ITS_FOLDER --failed` makes it again"
        )
    return words


def last_mean(spec: Spec, record: Record, mode: str, measure: str) -> float:
    """Mean of the evaluation at the end; NaN, which reaches no bar, where it is missing."""
    steps, means = points(record, mode, measure)
    last = len(evaluation_steps(spec, record.key.task)) - 1
    return float(means[-1]) if len(means) and _due(spec, steps)[-1] == last else np.nan


def _is_solved(record: Record, bar: float, mean: Any) -> bool:
    """Whether both ways of playing reach the bar."""
    return record.state == "finished" and all(mean(record, m, "success") >= bar for m in MODES)


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
