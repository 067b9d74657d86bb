"""Stop 8: metrics leave as a flat dict of floats for TensorBoard and for JSON lines."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

from hmasd.telemetry.jsonl import JsonLines

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
WALL_TIME = "time/wall"


class MetricsLog:
    """Writes a run's metrics; the x axis is env steps.

    A run that goes on from a checkpoint ends with the files of an uninterrupted run (but for
    wall times), whatever was logged after the checkpoint and however the run died. Call `sync`
    before saving a checkpoint, so that the log on the disk is never older than it.
    """

    def __init__(
        self,
        run_dir: Path,
        tensorboard_dir: Path,
        resume_at: int | None = None,
        evaluated_again: Collection[int] = (),
    ) -> None:
        """Opens the files for appending.

        Args:
            run_dir: Folder of the run; ``metrics.jsonl`` and ``evaluations.jsonl`` lie there.
            tensorboard_dir: Folder of the run's TensorBoard events.
            resume_at: Env steps of the last round whose metrics are written before the
                checkpoint that the run goes on from was saved; later ones are dropped. Not the
                checkpoint's own env steps where it was saved in the middle of a round, or before
                its update. None for a fresh run.
            evaluated_again: Env steps of evaluations that will be played once more; what a killed
                program had written of them is dropped.
        """
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)

        def is_stale(row: Mapping[str, Any]) -> bool:
            steps = row.get("env_steps", 0)
            is_of_a_round = "Sync/BatchSize" in row
            is_later = resume_at is not None and steps > resume_at
            return is_later or (steps in evaluated_again and not is_of_a_round)

        self._metrics = JsonLines(run_dir / METRICS_FILE, is_stale)
        self._evaluations = JsonLines(run_dir / EVALUATIONS_FILE, is_stale)
        _wait_for_a_later_name(Path(tensorboard_dir))
        self._board = EventFileWriter(str(tensorboard_dir), flush_secs=10)
        if resume_at is not None:  # TensorBoard drops earlier events at this step and after it
            start = SessionLog(status=SessionLog.START)
            self._board.add_event(
                Event(step=resume_at + 1, wall_time=time.time(), session_log=start)
            )

    def write(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """Writes the metrics of one round, or of an evaluation that came later than its round.

        A metric that does not exist this round is absent.

        Args:
            metrics: Tag to finite number (`docs/metrics.md`).
            env_steps: Env steps trained, summed over the envs, when what they describe was so.

        Raises:
            ValueError: A number is NaN or infinite; the message names the tag, nothing is written.
        """
        row = {tag: _finite(tag, value, env_steps) for tag, value in metrics.items()}
        now = time.time()
        self._metrics.append({"env_steps": int(env_steps), **row, WALL_TIME: now})
        # One event for all tags: SummaryWriter.add_scalar for each takes ten times as long.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.items()]
        self._board.add_event(
            Event(step=int(env_steps), wall_time=now, summary=Summary(value=values))
        )

    def write_evaluation(self, rows: Iterable[Mapping[str, Any]], env_steps: int) -> None:
        """Writes evaluation episodes, one line each.

        Args:
            rows: Per episode what is known of it, e.g. mode, episode, success, return and length;
                strings, bools and finite numbers (numpy's too).
            env_steps: Env steps trained when the evaluation began.

        Raises:
            ValueError: A number is NaN or infinite; nothing is written.
        """
        plain = [
            {"env_steps": int(env_steps), **{k: _plain(k, v, env_steps) for k, v in row.items()}}
            for row in rows
        ]
        for row in plain:
            self._evaluations.append(row)

    def sync(self) -> None:
        """Forces everything written so far to the disk."""
        self._metrics.sync()
        self._evaluations.sync()
        self._board.flush()

    def close(self) -> None:
        """Closes the files; may be called twice."""
        self._metrics.close()
        self._evaluations.close()
        self._board.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _wait_for_a_later_name(folder: Path) -> None:
    """Waits, a second at most, until a new event file's name sorts behind those in `folder`.

    The names begin with the second of their making and TensorBoard reads them in order: of two
    files of one second it may take the resumed one first, and drop nothing of the other.
    """
    this_second = f"events.out.tfevents.{int(time.time()):010d}"
    if any(folder.glob(f"{this_second}.*")):
        time.sleep(1.0 - time.time() % 1.0 + 0.01)


def _finite(tag: str, value: Any, env_steps: int) -> float:
    """Returns the value as a Python float if it is finite."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"metric {tag!r} is {number} at {env_steps} env steps; metrics must be finite "
            "(leave a metric out in a round in which it does not exist)"
        )
    return number


def _plain(key: str, value: Any, env_steps: int) -> Any:
    """Returns one cell as str, bool, int or finite float."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return _finite(key, value, env_steps)
    return value
