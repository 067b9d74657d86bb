"""Runs of several real processes, as a launcher would start them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed import TCPStore

from hmasd import checkpoint
from hmasd.config import Config

ROOT = Path(__file__).parents[2]
DEADLINE = 100.0  # seconds for a whole run, on a busy machine


class Host(NamedTuple):
    """Where a rank runs."""

    address: str
    enter: tuple[str, ...]  # the command that runs another one there


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def started(
    config: Config,
    world_size: int,
    *,
    dtype: str = "float64",
    fault: str = "",
    store: TCPStore | None = None,
    pause: float = 0.0,
    hosts: Sequence[Host] = (),
) -> Iterator[list[subprocess.Popen]]:
    """The processes of a run, none of which outlives the block.

    Args:
        config: of the run.
        world_size: how many.
        dtype: of the parameters.
        fault: what goes wrong; see `rank_program`.
        store: the launcher's, which outlives the processes; None: rank 0 opens one.
        pause: seconds after which rank 0 follows the others.
        hosts: on which each rank runs; none: all on this one.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "settings.json"
    text = {"config": dataclasses.asdict(config), "dtype": dtype, "fault": fault}
    settings.write_text(json.dumps(text))
    shared = {
        "MASTER_ADDR": hosts[0].address if hosts else "127.0.0.1",
        "MASTER_PORT": str(store.port if store else free_port()),
        "TORCHELASTIC_USE_AGENT_STORE": str(store is not None),
        "WORLD_SIZE": str(world_size),
        "PYTHONPATH": str(ROOT),
    }

    def start(rank: int) -> subprocess.Popen:
        return subprocess.Popen(
            [
                *(hosts[rank].enter if hosts else ()),
                *(sys.executable, "-m", "tests.helpers.rank_program", str(settings)),
            ],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    processes = [start(rank) for rank in range(1, world_size)]
    time.sleep(pause)
    processes.insert(0, start(0))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


def run_ranks(config: Config, world_size: int, **how: Any) -> dict[str, Any]:
    """Train to the end; what the last checkpoint holds."""
    with started(config, world_size, **how) as processes:
        for process in processes:
            _, told = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, told
    return checkpoint.load(Path(config.output_dir) / "models" / "hmasd_sync_enhanced_final.pth")


def failures(config: Config, world_size: int, **how: Any) -> list[str]:
    """Train until it fails; what each process said."""
    with started(config, world_size, **how) as processes:
        told = [process.communicate(timeout=DEADLINE)[1] for process in processes]
        assert all(process.returncode for process in processes), told
    return told
