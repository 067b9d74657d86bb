"""A rank that is killed, frozen or asked to stop ends the run on all ranks: real processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from hmasd import checkpoint
from hmasd.config import Config
from tests.helpers.ranks import run_ranks, started
from tests.training.test_ranks import SMALL

ENDLESS = dataclasses.replace(SMALL, total_steps=100_000_000, rank_timeout=6.0)
DEADLINE = 60.0  # seconds: rank_timeout, and a busy machine


def wait_for_training(config: Config, processes: list[subprocess.Popen]) -> None:
    """Until some rounds are in the log."""
    deadline = time.monotonic() + DEADLINE
    while not any(
        path.stat().st_size > 3000 for path in Path(config.output_dir).glob("runs/*/metrics.jsonl")
    ):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(3.0)  # for a sign of life from the middle of training


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (signal.SIGKILL, "gives no sign of life"),
        (signal.SIGSTOP, "has given no sign of life"),
    ],
)
def test_the_others_end_and_name_the_lost_rank(
    tmp_path: Path, fault: signal.Signals, words: str, victim: int
) -> None:
    """The launcher keeps the store, as torchrun does: it stays when rank 0 goes."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    config = dataclasses.replace(ENDLESS, output_dir=str(tmp_path))
    with started(config, 2, store=store) as processes:
        wait_for_training(config, processes)
        os.kill(processes[victim].pid, fault)
        survivor = processes[1 - victim]
        _, told = survivor.communicate(timeout=DEADLINE)
        assert survivor.returncode == 1
        assert f"rank {victim} {words}" in told
        assert "at env step" in told or "from env step" in told


def test_all_ranks_stop_where_one_is_asked_to(tmp_path: Path) -> None:
    """After the same round, with everything saved."""
    config = dataclasses.replace(ENDLESS, output_dir=str(tmp_path))
    with started(config, 2) as processes:
        wait_for_training(config, processes)
        for _ in range(2):  # the second one must not cut the saving short
            processes[1].send_signal(signal.SIGINT)
        for process in processes:
            _, told = process.communicate(timeout=DEADLINE)
            assert process.returncode == 128 + signal.SIGINT, told
    (path,) = (tmp_path / "models").iterdir()
    content = checkpoint.load(path)
    assert content["agent"]["low_storage"]["steps"] == SMALL.rollout_length


def test_a_start_passes_over_what_an_earlier_one_left_in_the_launchers_store(
    tmp_path: Path,
) -> None:
    """As torchrun starts all ranks again; rank 1 comes first, and finds a dead rank 0's address.

    Without a name of its own one start in three would fail: it depends on the order of the ports
    that the system hands out.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, pause in (("first", 0.0), ("again", 5.0)):
        config = dataclasses.replace(SMALL, output_dir=str(tmp_path / name))
        run_ranks(config, 2, store=store, pause=pause)
