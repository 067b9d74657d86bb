"""One run of a comparison as processes: training in a folder of its own, then measuring.

Everything that decides what is to be done lies in the folder, so a run goes on after whatever
ended it. A lock that the processes inherit keeps a second one out as long as one of them lives.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

from hmasd import checkpoint
from hmasd.bench import files
from hmasd.bench.shapes import METRICS, fits
from hmasd.bench.spec import RunKey
from hmasd.config import Config
from hmasd.disk import EXIT_FULL
from hmasd.processes import die_with
from hmasd.settings import ConfigError
from hmasd.telemetry.jsonl import last_line
from hmasd.telemetry.run_folder import CONFIG_FILE
from hmasd.telemetry.writers import METRICS_FILE
from hmasd.training.evaluation import MODES
from hmasd.training.signals import EXIT_OFFSET, StopRequest

State = Literal["finished", "failed", "unfinished"]
LOCK_PATIENCE = 5.0  # seconds that processes of a killed comparison may take to be gone
STOPPED = {-number: number for number in (signal.SIGINT, signal.SIGTERM)} | {
    EXIT_OFFSET + number: number for number in StopRequest.SIGNALS
}
"""Exit codes of a training that somebody stopped, and by what: it did not fail."""
MISSING = "(not a setting)"


class Job:
    """A run: what it is, how far it is, and the process that works on it now."""

    def __init__(self, key: RunKey, config: Config, episodes: int) -> None:
        """`config.output_dir` is the folder; `episodes` those of the absolute metric."""
        self.key = key
        self.config = config
        self.folder = Path(config.output_dir)
        self.episodes = episodes
        self.process: subprocess.Popen | None = None
        self._files: list[TextIO] = []
        self._is_stopping = False
        self._is_looked_at = False  # a failure, by this object
        self._is_measuring = False  # what ends well and is not measured then has failed
        self._said_before = 0  # length of the log when the process was started
        self._was_whole = False  # the measurement: it is read once, asked for at every turn

    @property
    def state(self) -> State:
        """What the folder says; a measurement that is damaged is made again."""
        if self._is_measured():
            return "finished"
        return "failed" if (self.folder / files.FAILED).is_file() else "unfinished"

    @property
    def env_steps(self) -> int:
        """Env steps that training has logged."""
        training = files.training_folder(self.folder)
        row = None if training is None else last_line(training / METRICS_FILE)
        if row is None or not fits(row, METRICS):
            return 0
        return min(row["env_steps"], self.config.total_steps)

    def check_settings(self) -> None:
        """Refuse a folder that holds a run of other settings, or measured otherwise.

        Raises:
            ConfigError: It does; the message names what differs.
        """
        self.check_measured()
        differ = self.changed_settings()
        if differ:
            out = self.folder.parents[3]  # of OUT/runs/TASK/ALGORITHM/seed_N
            changes = "; ".join(
                f"{name}: {old!r} -> {new!r}" for name, (old, new) in differ.items()
            )
            raise ConfigError(
                f"{self.folder} holds a run of other settings ({changes}): results of both cannot "
                "be one comparison; choose another --out, or give the algorithm another name. To "
                "report it all the same, with what differs: python benchmarks/joined_report.py "
                f"FILE.yaml --out ANOTHER --runs {out}"
            )

    def check_measured(self) -> None:
        """Refuse a run whose best policy was measured on more or fewer episodes.

        Raises:
            ConfigError: It was.
        """
        absolute = files.read_if_whole(self.folder / files.ABSOLUTE)
        measured = None if absolute is None else len(absolute["episodes"]) // len(MODES)
        if measured not in (None, self.episodes):
            raise ConfigError(
                f"{self.folder} was measured on {measured} episodes, not on {self.episodes}: give "
                "the old eval_episodes and absolute_factor, or choose another --out"
            )

    def changed_settings(self) -> dict[str, tuple[Any, Any]]:
        """Names of the settings that differ, to those of the folder and those asked for now.

        `MISSING`: one of them does not know the setting.
        """
        old, new = self._begun_with(), self._settings()
        if old is None:
            return {}
        both = {
            name: (old.get(name, MISSING), new.get(name, MISSING))
            for name in sorted(old.keys() | new.keys())
        }
        return {name: values for name, values in both.items() if values[0] != values[1]}

    @property
    def has_more(self) -> bool:
        """Whether there is a next step; for a run that failed that is to find out why, once."""
        if self.state == "failed":
            is_diagnosed = (self.folder / files.DIAGNOSIS).is_file()
            has_log = files.training_folder(self.folder) is not None
            return has_log and not is_diagnosed and not self._is_looked_at
        return self.state == "unfinished"

    def forget_failure(self) -> None:
        """Let a run that failed go on, from its last checkpoint; that it failed stays on record."""
        if self.state != "failed":
            return
        with self._lock():
            self._forget_failure()

    def _forget_failure(self) -> None:
        if self.state != "failed":  # another process was first
            return
        (self.folder / files.DIAGNOSIS).unlink(missing_ok=True)
        final = checkpoint.checkpoint_path(self.folder / "models", None)
        if final.is_file() and checkpoint.newest_good(final.parent) != final:
            final.unlink()  # damaged: training goes on from the one before it
        number = 1 + max(files.earlier_failures(self.folder), default=0)
        (self.folder / files.FAILED).rename(self.folder / files.EARLIER_FAILURE.format(number))

    def start(self) -> None:
        """Start what is to be done next, unless another process has done all since it was asked.

        Raises:
            ConfigError: Another process works in the folder, it now holds a run of other settings,
                or its checkpoints cannot be read.
            OSError: The folder cannot be used, or no process be started.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files, self.process = [self._lock()], None
        try:
            self.check_settings()
            if not self.has_more:
                self._close()
                return
            self._files.append((self.folder / files.LOG).open("a", encoding="utf-8"))
            self._said_before = self._files[1].tell()
            self._is_looked_at = self.state == "failed"
            self._is_measuring = self._is_trained()
            self.process = self._run(self._next_command())
        except BaseException:  # the folder is free for others, whatever it was
            self._close()
            raise

    def poll(self) -> bool:
        """Whether the process that was started is over; a failure is written down."""
        if self.process is None:
            return True
        code = self.process.poll()
        if code is None:
            return False
        try:  # the folder is another's only when all is written down
            if self.state == "unfinished" and not self._ended_well(code):
                self._write_failure(code)
        finally:
            self._close()
        return True

    def _ended_well(self, code: int) -> bool:
        """Whether what is over, and left the run unfinished, is no failure of it."""
        is_trained = code == 0 and self._is_trained() and not self._is_measuring
        return is_trained or self.was_stopped or self.found_no_room

    @property
    def found_no_room(self) -> bool:
        """Whether the last process ended because the disk is full, which is no fault of the run."""
        return self.process is not None and self.process.returncode == EXIT_FULL

    @property
    def was_stopped(self) -> bool:
        """Whether the last process ended because somebody stopped it."""
        return self._is_stopping or self.stopped_by is not None

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal with which somebody else than `stop` ended the last process."""
        code = None if self.process is None else self.process.returncode
        if self._is_stopping or code not in STOPPED:
            return None
        return STOPPED[code]

    def stop(self, at_once: bool = False) -> None:
        """Ask the process to save and end, or end it."""
        self._is_stopping = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if at_once else signal.SIGINT)

    def _run(self, words: Sequence[str]) -> subprocess.Popen:
        """The process of a command; it writes to the log and holds the lock."""
        lock, log = self._files
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"},
            pass_fds=[lock.fileno()],
            start_new_session=True,  # a terminal's Ctrl-C reaches it once, through `stop`
            preexec_fn=partial(die_with, os.getpid()),
        )

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def _settings(self) -> dict[str, Any]:
        """All settings but the folder, which may move."""
        settings = dataclasses.asdict(self.config)
        del settings["output_dir"]
        return settings

    def _begun_with(self) -> dict[str, Any] | None:
        """Settings of the run in the folder, by training's own record where ours cannot be read."""
        training = files.training_folder(self.folder)
        read = files.read_json if training is None else files.read_if_whole
        old = read(self.folder / files.SETTINGS)
        if old is not None or training is None:
            return old
        record: dict[str, Any] = files.read_json(training / CONFIG_FILE) or {}
        record = {name: value for name, value in record.items() if name != "output_dir"}
        return record | {"model_path": None} if record else None

    def _lock(self) -> TextIO:
        """The open lock file; its lock lasts until every process that inherits it is gone."""
        file = (self.folder / files.LOCK).open("w")
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _try_lock(file):
            if time.monotonic() > deadline:
                file.close()
                raise ConfigError(
                    f"another process works in {self.folder}: wait for it or stop it first"
                )
            time.sleep(0.1)
        return file

    def _is_measured(self) -> bool:
        path = self.folder / files.ABSOLUTE
        if path.is_file() and not self._was_whole:
            self._was_whole = files.read_if_whole(path) is not None
        return path.is_file() and self._was_whole

    def _is_trained(self) -> bool:
        return checkpoint.checkpoint_path(self.folder / "models", None).is_file()

    def _next_command(self) -> Sequence[str]:
        """Training from the start or from the last good checkpoint, measuring, or diagnosing."""
        python = (sys.executable, "-m")
        measure = (*python, "hmasd.bench.measure", str(self.folder))
        if self.state == "failed":
            return (*measure, "--failed")
        if self._is_trained():
            return (*measure, "--episodes", str(self.episodes))
        newest = checkpoint.newest_good(self.folder / "models")
        if newest is None:
            self._refuse_unreadable()
            for name in ("models", "runs", "logs", "tf-logs"):  # of a start that came to nothing
                if (self.folder / name).exists():
                    shutil.rmtree(self.folder / name)
            files.write_json(self.folder / files.SETTINGS, self._settings())
            source = ("--config", str(self.folder / files.SETTINGS))  # JSON is YAML
        else:
            source = ("--model-path", str(newest))
        return (*python, "hmasd", "train", *source, "--output-dir", str(self.folder))

    def _refuse_unreadable(self) -> None:
        """A run is begun anew only where there is nothing of it, not where it cannot be read."""
        paths = sorted((self.folder / "models").glob(f"{checkpoint.STEM}_*.pth"))
        if not paths:
            return
        try:
            checkpoint.load(paths[-1])
        except checkpoint.CheckpointError as error:
            raise ConfigError(
                f"{self.folder} was begun, but its checkpoints cannot be read: {error.__cause__}; "
                "go on with the version that wrote them if it was another, or delete the folder to "
                "begin anew"
            ) from error

    def _write_failure(self, code: int) -> None:
        said = (self.folder / files.LOG).read_bytes()[self._said_before :]
        text = said.decode("utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else "nothing was printed"
        if code < 0:
            name = signal.strsignal(-code) or f"signal {-code}"
            doubt = ", out of memory?" if -code == signal.SIGKILL else ""
            last = f"ended by a signal ({name}{doubt}); before: {last}"
        files.write_json(self.folder / files.FAILED, {"exit_code": code, "last_words": last})


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
