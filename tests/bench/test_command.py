"""`hmasd bench` as a user runs it: killed in the middle, resumed, and its errors."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hmasd.bench import command, files
from hmasd.bench.job import Job
from hmasd.telemetry.jsonl import read_lines
from hmasd.training.signals import EXIT_OFFSET, StopRequest
from tests.bench.made_up import TEXT, fail, finish, make_comparison

ROOT = Path(__file__).parents[2]
TOY = ROOT / "benchmarks" / "toy.yaml"
ALGORITHMS = ("small", "one_skill")


def start(spec, out, log):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = (sys.executable, "-m", "hmasd", "bench", str(spec), "--out", str(out), "--jobs", "2")
    return subprocess.Popen(
        words, stdout=log, stderr=log, env=environment, cwd=out.parent, start_new_session=True
    )


def checkpoints(out):
    return sorted(out.glob("runs/*/*/seed_1/models/hmasd_sync_enhanced_[0-9]*.pth"))


def wait_until(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(900)
def test_a_comparison_that_is_killed_goes_on_to_the_same_result(tmp_path):
    """SIGKILL to its process group while the first two runs train, then the same command again."""
    out, log = tmp_path / "killed", tmp_path / "log.txt"
    with log.open("w") as output:
        process = start(TOY, out, output)
        wait_until(lambda: len({path.parent for path in checkpoints(out)}) == 2, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(out.glob("runs/*/*/*/absolute.json"))  # killed in the middle
        assert start(TOY, out, output).wait(timeout=600) == 0, log.read_text()
        once = tmp_path / "once.yaml"  # the runs that were killed, undisturbed
        once.write_text(TOY.read_text().replace("seeds: 2", "seeds: [1]"))
        assert start(once, tmp_path / "whole", output).wait(timeout=600) == 0, log.read_text()
    resumed = 0
    for algorithm in ALGORITHMS:
        killed, whole = (x / f"runs/exact/{algorithm}/seed_1" for x in (out, tmp_path / "whole"))
        for name in (files.ABSOLUTE, files.DIAGNOSIS):
            assert (killed / name).read_bytes() == (whole / name).read_bytes()
        training = [files.training_folder(folder) for folder in (killed, whole)]
        resumed += len(list(training[0].glob("config_*.json")))
        one, other = (list(read_lines(x / "evaluations.jsonl")) for x in training)
        assert one == other and len(one) == 3 * 2 * 32
        one, other = (list(read_lines(x / "metrics.jsonl")) for x in training)
        assert [without_time(row) for row in one] == [without_time(row) for row in other]
    assert resumed >= 1  # control: at least one did go on from a checkpoint
    assert "Runs finished: 4;" in (out / "report" / "report.md").read_text()
    assert command.main([str(once), "--out", str(out), "--report-only"]) == 0
    for name in ("report.md", "marl_eval.json", "tables.tex", "episodes.jsonl"):
        one, other = (x / "report" / name for x in (out, tmp_path / "whole"))
        assert one.read_bytes() == other.read_bytes()


def without_time(row):
    return {k: x for k, x in row.items() if not (k.startswith("time/") or k.endswith("Time"))}


def test_runs_of_another_machines_gpu_are_reported_and_not_gone_on_with(tmp_path, capsys):
    path = tmp_path / "gpu.yaml"
    path.write_text(TOY.read_text().replace("num_envs: 16", "num_envs: 16, device: cuda:99"))
    words = [str(path), "--out", str(tmp_path / "out")]
    (tmp_path / "out/runs").mkdir(parents=True)
    assert command.main([*words, "--report-only"]) == 1  # nothing was run
    assert "Runs finished: 0" in (tmp_path / "out/report/report.md").read_text()
    assert command.main(words) == 2
    assert "device = 'cuda:99' cannot be used here" in capsys.readouterr().err


def test_a_report_of_what_there_is(tmp_path, capsys):
    _, jobs = make_comparison(tmp_path)
    path, out = tmp_path / "made_up.yaml", tmp_path / "out"
    assert command.main([str(path), "--out", str(out), "--report-only"]) == 2
    assert f"--out {out} has no runs/: there is nothing to report" in capsys.readouterr().err
    assert not out.exists()  # a mistyped folder is not made
    (out / "runs").mkdir(parents=True)
    assert command.main([str(path), "--out", str(out), "--report-only"]) == 1  # runs are missing
    assert str(out / "report" / "report.md") in capsys.readouterr().out
    fail(jobs[0], [0.5])
    for job in jobs[1:]:
        finish(job, [0.5, 1.0], best=1.0)
    assert command.main([str(path), "--out", str(out), "--report-only"]) == 1
    told = capsys.readouterr().err
    assert "failed: exact/good/1: error: NaN | x (all in" in told and "--retry goes on" in told
    (jobs[0].folder / files.FAILED).write_text("{")
    assert command.main([str(path), "--out", str(out), "--report-only"]) == 1
    assert "failed: exact/good/1: failed.json is damaged (all in" in capsys.readouterr().err
    (jobs[0].folder / files.FAILED).unlink()
    shutil.rmtree(jobs[0].folder / "runs")
    finish(jobs[0], [0.5, 1.0], best=1.0)
    assert command.main([str(path), "--out", str(out), "--report-only"]) == 0


def test_a_run_that_is_stopped_from_outside_is_told_of(tmp_path, monkeypatch, capsys):
    """SIGTERM to one run's process, which ends as training does; the others are not touched."""
    stops = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    programs = {"good": stops, "bad_one": "raise SystemExit(143)"}
    monkeypatch.setattr(
        Job, "_next_command", lambda self: (sys.executable, "-c", programs[self.key.algorithm])
    )
    make_comparison(tmp_path, TEXT.replace("seeds: 3", "seeds: 1"))
    words = [str(tmp_path / "made_up.yaml"), "--out", str(tmp_path / "out")]
    assert command.main(words) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "not finished:" in line]
    assert told == [
        f"not finished: exact/{name}/1 (stopped by SIGTERM); the same command goes on"
        for name in programs
    ]
    assert command.main([*words, "--report-only"]) == 1
    assert "not finished:" not in capsys.readouterr().err  # control: nothing was stopped


@pytest.mark.parametrize("name", ["file", "x" * 300, "/proc/none"])
def test_a_folder_that_cannot_be_made_is_one_line(name, tmp_path, capsys):
    """It is a file, its name is too long, or it lies where no folder can be made."""
    make_comparison(tmp_path)
    (tmp_path / "file").touch()
    out = tmp_path / name
    assert command.main([str(tmp_path / "made_up.yaml"), "--out", str(out)]) == 2
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: --out {out} cannot be used: [Errno ")
    assert "; choose another --out" in told


def test_a_report_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    make_comparison(tmp_path)
    words = [str(tmp_path / "made_up.yaml"), "--out", str(tmp_path / "out"), "--report-only"]
    (tmp_path / "out/runs").mkdir(parents=True)
    (tmp_path / "out/report/report.md").mkdir(parents=True)
    assert command.main(words) == 2
    [told] = capsys.readouterr().err.splitlines()
    assert "report.md" in told and "; choose another --out" in told

    def full(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(command, "write_report", full)
    assert command.main(words) == 4
    assert "Disk quota exceeded; choose another --out" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_matter_of_the_folder(tmp_path, monkeypatch):
    make_comparison(tmp_path)

    def gone(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(command, "write_report", gone)
    (tmp_path / "runs").mkdir()
    with pytest.raises(BrokenPipeError):
        command.main([str(tmp_path / "made_up.yaml"), "--out", str(tmp_path), "--report-only"])


def test_runs_that_another_comparison_made_meanwhile_get_into_no_report(
    tmp_path, monkeypatch, capsys
):
    """Both looked at a folder that was empty then; a signal's exit code stays."""
    _, jobs = make_comparison(tmp_path)
    code = []

    def meanwhile(*_):
        files.write_json(jobs[0].folder / files.SETTINGS, jobs[0]._settings() | {"gamma": 0.5})
        return code[-1]

    monkeypatch.setattr(command, "run_jobs", meanwhile)
    jobs[0].folder.mkdir(parents=True)
    for expected, ended in ((2, 0), (130, 130)):
        (jobs[0].folder / files.SETTINGS).unlink(missing_ok=True)
        code.append(ended)
        words = [str(tmp_path / "made_up.yaml"), "--out", str(tmp_path / "out")]
        assert command.main(words) == expected
        assert "other settings (gamma: 0.5 -> 0.99)" in capsys.readouterr().err
    assert not (tmp_path / "out/report").exists()


def test_the_help_names_the_exit_code_of_every_signal(capsys):
    assert command.main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for number in StopRequest.SIGNALS:
        assert f"{EXIT_OFFSET + number} " in told and number.name in told


def test_the_remedy_for_runs_of_other_settings_works(tmp_path, capsys):
    """The refusal's own command reports them, and says what differs."""
    _, jobs = make_comparison(tmp_path)
    for job in jobs:
        finish(job, [0.5, 1.0], best=1.0)
        files.write_json(job.folder / files.SETTINGS, job._settings())
    path = tmp_path / "made_up.yaml"
    path.write_text(TEXT.replace("good: {}", "good: {gamma: 0.5}"))
    assert command.main([str(path), "--out", str(tmp_path / "out"), "--report-only"]) == 2
    told = capsys.readouterr().err
    words = told[told.index("benchmarks/joined_report.py") :].split()
    named = {"FILE.yaml": str(path), "ANOTHER": str(tmp_path / "joined")}
    program, *rest = (named.get(word, word) for word in words)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, ROOT / program, *rest], env=environment, check=True)
    text = (tmp_path / "joined/report.md").read_text()
    assert "- good, settings that differ: gamma was 0.99, is 0.5" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.yaml"], "none.yaml"),
        (["made_up.yaml", "--jobs", "0"], "--jobs 0 must be at least 1"),
        (["bad.yaml"], "did you mean 'seeds'"),
    ],
)
def test_bad_input_runs_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_comparison(tmp_path)
    (tmp_path / "bad.yaml").write_text(TEXT.replace("seeds:", "seed:"))
    assert command.main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()
