"""Runs of several real processes, as a launcher would start them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hmasd import checkpoint
from hmasd.config import Config

ROOT = Path(__file__).parents[2]
DEADLINE = 100.0  # seconds for a whole run, on a busy machine


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def started(
    config: Config, world_size: int, *, dtype: str = "float64", fault: str = ""
) -> Iterator[list[subprocess.Popen]]:
    """The processes of a run, none of which outlives the block."""
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "settings.json"
    text = {"config": dataclasses.asdict(config), "dtype": dtype, "fault": fault}
    settings.write_text(json.dumps(text))
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        "PYTHONPATH": str(ROOT),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.rank_program", str(settings)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
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
