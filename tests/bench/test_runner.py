"""The runs of a comparison, side by side: all are worked through, and what stops them all."""

import contextlib
import errno
import shutil
import sys
from pathlib import Path

import pytest

from hmasd.bench import files, job, runner
from hmasd.bench.job import Job
from hmasd.bench.progress import BenchProgress
from tests.bench.made_up import finish, make_comparison, play, write_training

WORK = """
import json, sys
from pathlib import Path
ways = ("greedy", "stochastic")
episodes = [{"mode": way, "success": True, "return": 1.0} for way in ways]
MEASURED = json.dumps({"env_steps": 1, "episodes": episodes})
folder = Path(sys.argv[1])
(folder / "models").mkdir(exist_ok=True)
if (folder / "models" / "hmasd_sync_enhanced_final.pth").exists():
    (folder / "absolute.json").write_text(MEASURED)
elif (folder / "failed.json").exists():
    (folder / "diagnosis.json").write_text("{}")
    sys.exit()
elif "bad_one/seed_2" in str(folder):
    (folder / "runs/x").mkdir(parents=True)
    (folder / "runs/x/metrics.jsonl").write_text("")
    sys.exit("error: bad luck")
(folder / "models" / "hmasd_sync_enhanced_final.pth").write_text("")
with (folder.parents[3] / "order.txt").open("a") as file:
    file.write("x")
"""


@pytest.fixture
def worked(tmp_path, monkeypatch):
    """All six runs of a comparison, in which one fails."""
    monkeypatch.setattr(
        Job, "_next_command", lambda self: (sys.executable, "-c", WORK, str(self.folder))
    )
    monkeypatch.setattr(runner, "POLL", 0.01)
    jobs = make_comparison(tmp_path)[1]
    assert runner.run_jobs(jobs, 2) == 0
    return jobs, tmp_path / "out" / "order.txt"


def test_all_runs_are_worked_through_and_failures_stay(worked):
    jobs, order = worked
    states = {job.key[1:]: job.state for job in jobs}
    assert states.pop(("bad_one", 2)) == "failed"
    assert (jobs[3].folder / files.DIAGNOSIS).is_file()  # it was looked at, too
    assert set(states.values()) == {"finished"} and len(states) == 5
    assert len(order.read_text()) == 10  # training and measuring of five runs
    assert runner.run_jobs(jobs, 2) == 0  # again: nothing is left to do
    assert len(order.read_text()) == 10
    assert jobs[3].state == "failed"


def test_a_run_that_cannot_be_started_does_not_keep_the_others(tmp_path, monkeypatch, capsys):
    """Another process works in its folder, or its checkpoints are of another version."""
    monkeypatch.setattr(
        Job, "_next_command", lambda self: (sys.executable, "-c", WORK, str(self.folder))
    )
    monkeypatch.setattr(job, "LOCK_PATIENCE", 0.1)
    jobs = make_comparison(tmp_path)[1]
    jobs[0].folder.mkdir(parents=True)
    with jobs[0]._lock():
        assert runner.run_jobs(jobs, 2) == 0
    states = [one.state for one in jobs]
    assert states == ["unfinished", "finished", "finished", "failed", "finished", "finished"]
    error = capsys.readouterr().err
    assert (
        error == f"error: another process works in {jobs[0].folder}: wait for it or stop it first\n"
    )


def test_a_file_in_place_of_a_folder_does_not_keep_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        Job, "_next_command", lambda self: (sys.executable, "-c", WORK, str(self.folder))
    )
    jobs = make_comparison(tmp_path)[1]
    jobs[0].folder.parent.mkdir(parents=True)
    jobs[0].folder.touch()
    assert runner.run_jobs(jobs, 2) == 0
    states = [one.state for one in jobs]
    assert states == ["unfinished", "finished", "finished", "failed", "finished", "finished"]
    error = capsys.readouterr().err
    assert error.startswith(f"error: {jobs[0].folder} cannot be used: [Errno 17] File exists")
    assert error.endswith("; mend that, and the same command goes on\n")


def test_a_failure_that_cannot_be_forgotten_does_not_keep_the_others(worked, monkeypatch, capsys):
    jobs, _ = worked

    def refuse(self, target):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    assert runner.run_jobs(jobs, 2, retry=True) == 0
    assert "failed.json'; mend that, and the same command goes on\n" in capsys.readouterr().err
    assert jobs[3].state == "failed"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_all(tmp_path, monkeypatch, number):
    """No other run could save anything; the one that works is stopped and saves what it can."""
    jobs = make_comparison(tmp_path)[1]

    def next_command(self):
        if self is jobs[1]:
            raise OSError(number, "no room")
        return (sys.executable, "-c", "import time; time.sleep(60)")

    monkeypatch.setattr(Job, "_next_command", next_command)
    with pytest.raises(OSError, match="no room"):
        runner.run_jobs(jobs, 2)
    assert jobs[0].was_stopped and jobs[0].process.poll() is not None
    assert jobs[2].process is None


@pytest.mark.parametrize(("code", "stops"), [(4, True), (1, False)])
def test_a_run_that_found_no_room_has_not_failed(tmp_path, monkeypatch, code, stops):
    """It stays as it is, and no other begins. Control: any other failure counts, others go on."""
    play(monkeypatch, f"raise SystemExit({code})")
    jobs = make_comparison(tmp_path)[1][:2]
    with pytest.raises(OSError, match="No space") if stops else contextlib.nullcontext():
        runner.run_jobs(jobs, 1)
    assert jobs[0].state == ("unfinished" if stops else "failed")
    assert (jobs[1].process is None) is stops


def test_retry_takes_up_failed_runs_only(worked, monkeypatch):
    jobs, order = worked
    program = WORK.replace("bad_one/seed_2", "nothing")
    monkeypatch.setattr(
        Job, "_next_command", lambda self: (sys.executable, "-c", program, str(self.folder))
    )
    runner.run_jobs(jobs, 2, retry=True)
    assert all(job.state == "finished" for job in jobs) and len(order.read_text()) == 12


def test_the_line_counts_runs_and_tells_the_time_left(tmp_path):
    _, jobs = make_comparison(tmp_path)
    finish(jobs[0], [0.5, 1.0], best=1.0)
    now = [0.0]
    progress = BenchProgress(jobs, clock=lambda: now[0])
    progress.update(jobs[1:2])
    assert progress.line().plain == (
        "1/6 runs | 0 failed | 4k/24k steps | ETA - | exact/bad_one/1 0%"
    )
    write_training(jobs[1], [0.5])
    now[0] = 10.0
    progress.update(jobs[1:2])  # 2048 steps in 10 s; 24000 - 6048 are left
    assert "ETA 0:01:28 | exact/bad_one/1 51%" in progress.line().plain
    assert len(progress.line(40).plain) == 40
    shutil.rmtree(jobs[1].folder)
