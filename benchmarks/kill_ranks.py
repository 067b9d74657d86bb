"""Kills ranks at random instants under torchrun with restarts, and looks at what is left.

    python benchmarks/kill_ranks.py
    python benchmarks/kill_ranks.py --trials 4 --ranks 3

Each trial trains with all ranks and kills one, in turn, with SIGKILL at an instant drawn from the
whole of a run's duration, start and end included. It passes if the run ends by itself with exit
code 0 and all its steps, every round is in the log once, every checkpoint can be loaded, and no
process is left. A trial whose run is over before its instant is shown and not counted. Linux only:
processes are found in /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hmasd import checkpoint

MARK = "HMASD_KILL_TRIAL"
SETTINGS = {
    "num-envs": 12,
    "batch-size": 192,
    "hidden-size": 32,
    "high-level-batch-size": 64,
    "checkpoint-interval": 5000,
    "eval-interval": 20000,
    "eval-episodes": 4,
    "total-steps": 48000,
    "rank-timeout": 20,
}
DEADLINE = 400.0  # seconds for a run to end by itself


def start(folder: Path, ranks: int, mark: str) -> subprocess.Popen:
    """Training under torchrun; a failure starts all ranks again, from the last checkpoint."""
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={ranks}", "--max-restarts=3", "train_sync_enhanced.py"),
            *("--auto-resume", f"--output-dir={folder}", *flags),
        ],
        cwd=ROOT,
        env=os.environ | {MARK: mark, "PYTHONPATH": str(ROOT)},
        stdout=(folder / "out.txt").open("w"),
        stderr=subprocess.STDOUT,
    )


def marked(mark: str) -> dict[int, str]:
    """The processes of a trial and each one's rank, "" for those that have none."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            words = (process / "environ").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if f"{MARK}={mark}".encode() in words and state != "Z":
            ranks = [word[5:].decode() for word in words if word.startswith(b"RANK=")]
            found[int(process.name)] = ranks[0] if ranks else ""
    return found


def kill_rank(rank: int, mark: str, run: subprocess.Popen) -> bool:
    """Kill the process of a rank, as soon as there is one; False where the run ends before."""
    while run.poll() is None:
        found = [pid for pid, its_rank in marked(mark).items() if its_rank == str(rank)]
        if found:  # the first of them: its own children have its environment
            os.kill(min(found), signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False


def problems(folder: Path, code: int | None, mark: str) -> list[str]:
    """What is wrong with the end of a run."""
    found = [] if code == 0 else [f"exit code {code}: {(folder / 'out.txt').read_text()[-600:]}"]
    time.sleep(1.0)  # the dying may take a moment
    found += [f"process {pid} (rank {rank!r}) is left" for pid, rank in marked(mark).items()]
    steps, batch = SETTINGS["total-steps"], SETTINGS["batch-size"]
    for path in sorted((folder / "models").glob("*.pth")):
        try:
            content = checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            found.append(str(error))
            continue
        if path.stem.endswith("final") and content["agent"]["env_steps"] != steps:
            found.append(f"{path} holds {content['agent']['env_steps']} steps, not {steps}")
    if not list((folder / "models").glob("*final.pth")):
        found.append("there is no final checkpoint")
    logs = sorted((folder / "runs").glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    lines = logs[-1].read_text().splitlines() if logs else []
    rows = [json.loads(line)["env_steps"] for line in lines]
    if rows != list(range(batch, steps + 1, batch)):
        found.append(f"the log has {len(rows)} rounds, or not each once")
    return found


def trial(ranks: int, victim: int | None, instant: float) -> tuple[float, bool, list[str]]:
    """Seconds of a run whose victim is killed at an instant, whether it was, what is wrong."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.monotonic()
        run = start(folder, ranks, mark)
        try:
            killed = False
            if victim is not None:
                time.sleep(instant)
                killed = kill_rank(victim, mark, run)
            code: int | None = run.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.monotonic() - began
        found = problems(folder, code, mark)
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        run.wait()
    return seconds, killed, found


def main() -> int:
    """Print a line per trial; the exit code is the number of runs that went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, help="ranks that are killed")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    whole, _, found = trial(options.ranks, None, 0.0)
    print(f"undisturbed: {whole:.1f} s {found or 'fine'}", flush=True)
    wrong = len(found) > 0
    kills = 0
    while kills < options.trials:
        victim, instant = kills % options.ranks, draw.uniform(0.0, whole)
        seconds, killed, found = trial(options.ranks, victim, instant)
        wrong += len(found) > 0
        kills += killed
        what = "killed" if killed else "not there"
        told = "; ".join(found) or "fine"
        print(f"rank {victim} {what} at {instant:.1f} s, {seconds:.1f} s, {told}", flush=True)
    print(f"{kills} kills, {wrong} runs went wrong")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
