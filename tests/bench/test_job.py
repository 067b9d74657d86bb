"""One run as processes: what is next, what a failure leaves, and who may work in a folder."""

import dataclasses
import signal
import subprocess
import sys
import time

import pytest

from hmasd import checkpoint
from hmasd.bench import files, job
from hmasd.bench.job import Job
from hmasd.bench.results import read_record
from hmasd.settings import ConfigError
from tests.bench.made_up import TEXT, fail, finish, make_comparison, play, write_training


@pytest.fixture
def one(tmp_path):
    return make_comparison(tmp_path)[1][0]


def wait(one):
    deadline = time.monotonic() + 60
    while not one.poll():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_fresh_run_starts_with_its_settings(one):
    one.folder.mkdir(parents=True)
    words = one._next_command()
    settings = files.read_json(one.folder / files.SETTINGS)
    assert words[1:] == (
        *("-m", "hmasd", "train", "--config", str(one.folder / files.SETTINGS)),
        *("--output-dir", str(one.folder)),
    )
    assert settings["total_steps"] == 4000 and "output_dir" not in settings
    one.check_settings()


def test_a_run_without_a_checkpoint_starts_anew(one):
    write_training(one, [0.5])
    one._next_command()
    assert files.training_folder(one.folder) is None


def test_a_run_goes_on_from_its_newest_good_checkpoint(one):
    write_training(one, [0.5])
    models = one.folder / "models"
    for steps in (320, 640):
        checkpoint.save(checkpoint.checkpoint_path(models, steps), {"x": steps})
    checkpoint.checkpoint_path(models, 960).write_bytes(b"cut off")
    words = one._next_command()
    assert words[4:6] == ("--model-path", str(checkpoint.checkpoint_path(models, 640)))
    assert files.training_folder(one.folder) is not None


def test_a_run_that_cannot_be_read_is_not_begun_anew(one):
    """As one of a version before, which had another format."""
    write_training(one, [0.5])
    path = checkpoint.checkpoint_path(one.folder / "models", 320)
    path.parent.mkdir()
    path.write_bytes(b"of another format")
    with pytest.raises(ConfigError, match=r"begun, but its checkpoints cannot be read: .*delete"):
        one._next_command()
    assert path.is_file() and files.training_folder(one.folder) is not None


def test_a_trained_run_is_measured(one):
    checkpoint.save(checkpoint.checkpoint_path(one.folder / "models", None), {})
    assert one._next_command()[1:] == (
        *("-m", "hmasd.bench.measure", str(one.folder)),
        *("--episodes", "32"),
    )


def test_other_settings_in_the_same_folder_are_refused(one, tmp_path):
    one.folder.mkdir(parents=True)
    one._next_command()
    make_comparison(tmp_path, TEXT.replace("seeds: 3", "seeds: 5"))  # more seeds: fine
    with pytest.raises(ConfigError, match=r"gamma: 0\.99 -> 0\.5.*another --out"):
        make_comparison(tmp_path, TEXT.replace("good: {}", "good: {gamma: 0.5}"))


def test_training_s_own_record_tells_where_ours_is_gone(one, tmp_path):
    write_training(one, [0.5])
    record = dataclasses.asdict(one.config) | {"model_path": "models/x.pth"}  # it was resumed
    files.write_json(files.training_folder(one.folder) / "config.json", record)
    one.check_settings()
    with pytest.raises(ConfigError, match=r"gamma: 0\.99 -> 0\.5"):
        make_comparison(tmp_path, TEXT.replace("good: {}", "good: {gamma: 0.5}"))


@pytest.mark.parametrize("content", ['{"gamma": 0.', "[]", '"x"'])
def test_a_damaged_file_is_named_with_what_to_do(one, tmp_path, content):
    one.folder.mkdir(parents=True)
    (one.folder / files.SETTINGS).write_text(content)
    with pytest.raises(ConfigError, match=r"settings\.json is damaged .*delete it, and the same"):
        make_comparison(tmp_path)
    (one.folder / files.SETTINGS).unlink()
    make_comparison(tmp_path)


def test_a_failure_is_kept_with_its_last_words(one, monkeypatch):
    play(monkeypatch, "print('before'); print('error: NaN'); raise SystemExit(3)")
    one.start()
    wait(one)
    assert one.state == "failed"
    assert files.read_json(one.folder / files.FAILED) == {
        "exit_code": 3,
        "last_words": "error: NaN",
    }
    one.forget_failure()
    assert one.state == "unfinished"
    assert files.earlier_failures(one.folder) == [1]
    one.forget_failure()  # control: there is none
    assert files.earlier_failures(one.folder) == [1]


def test_a_failure_never_takes_an_earlier_ones_place(one):
    fail(one, [0.5])
    files.write_json(one.folder / files.EARLIER_FAILURE.format(2), {})
    files.write_json(one.folder / files.DIAGNOSIS, {})  # of the run as far as it came
    one.forget_failure()
    assert sorted(files.earlier_failures(one.folder)) == [2, 3]
    assert not (one.folder / files.DIAGNOSIS).exists()


def test_a_finished_run_is_not_taken_up_again(one):
    """Measuring may die when all is written."""
    finish(one, [0.5, 1.0], best=1.0)
    for name in (files.FAILED, files.DIAGNOSIS):
        files.write_json(one.folder / name, {})
    one.forget_failure()
    assert (one.folder / files.DIAGNOSIS).is_file() and one.state == "finished"


def test_training_goes_on_before_a_final_checkpoint_that_is_damaged(one):
    fail(one, [0.5])
    models = one.folder / "models"
    final = checkpoint.checkpoint_path(models, None)
    checkpoint.save(checkpoint.checkpoint_path(models, 320), {"x": 1})
    checkpoint.save(final, {"x": 2})
    one.forget_failure()
    assert final.is_file()  # control: it is whole
    files.write_json(one.folder / files.FAILED, {})
    final.write_bytes(b"cut off")
    one.forget_failure()
    assert one._next_command()[4:6] == ("--model-path", str(models / "hmasd_sync_enhanced_320.pth"))


def test_a_run_that_failed_is_looked_at_once(one, monkeypatch):
    """Also where the look itself fails; what training said stays."""
    fail(one, [0.5])
    assert one._next_command()[1:] == ("-m", "hmasd.bench.measure", str(one.folder), "--failed")
    one = Job(one.key, one.config, one.episodes)
    failure = (one.folder / files.FAILED).read_bytes()
    assert one.has_more
    one.start()  # no policy was kept: only what was logged is told
    wait(one)
    assert not one.has_more and one.state == "failed"
    assert (one.folder / files.FAILED).read_bytes() == failure
    assert files.read_json(one.folder / files.DIAGNOSIS)["skills"]["last"] is None
    (one.folder / files.DIAGNOSIS).unlink()
    assert not one.has_more  # it would only fail again


def test_what_a_look_at_a_failure_says_is_no_last_word(one, monkeypatch):
    fail(one, [0.5])
    (one.folder / files.LOG).write_text("CheckpointError: of a look before\n")
    one.forget_failure()
    play(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    one.start()
    wait(one)
    assert "nothing was printed" in files.read_json(one.folder / files.FAILED)["last_words"]


def test_a_folder_is_free_again_after_a_refusal(one):
    write_training(one, [0.5])
    path = checkpoint.checkpoint_path(one.folder / "models", 320)
    path.parent.mkdir()
    path.write_bytes(b"of another format")
    with pytest.raises(ConfigError, match="cannot be read"):
        one.start()
    one._lock().close()  # free at once, or an error


@pytest.mark.parametrize("command", [["/no/such/python"], OSError("of reading")])
def test_a_folder_is_free_again_after_an_error(one, command, monkeypatch):
    """The next step cannot be found out, or its process not be started."""

    def next_command(self):
        if isinstance(command, OSError):
            raise command
        return command

    monkeypatch.setattr(Job, "_next_command", next_command)
    with pytest.raises(OSError, match=r"of reading|/no/such/python"):
        one.start()
    assert one._files == []
    with (one.folder / files.LOCK).open("w") as file:
        assert job._try_lock(file)


def test_training_that_ends_well_without_a_result_has_failed(one, monkeypatch):
    play(monkeypatch, "")
    one.start()
    wait(one)
    assert one.state == "failed"


def test_a_stopped_training_has_not_failed(one, monkeypatch):
    play(monkeypatch, "import time; time.sleep(60)")
    one.start()
    one.stop()
    wait(one)
    assert one.state == "unfinished" and one.was_stopped
    assert one.stopped_by is None  # by nobody else


def test_a_killed_training_has_failed(one, monkeypatch):
    play(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    one.start()
    wait(one)
    failure = files.read_json(one.folder / files.FAILED)
    assert failure["exit_code"] == -signal.SIGKILL
    words = "ended by a signal (Killed, out of memory?); before: nothing was printed"
    assert failure["last_words"] == words


def test_two_processes_never_work_in_one_folder(one, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "LOCK_PATIENCE", 0.3)
    play(monkeypatch, "import time; time.sleep(60)")
    one.start()
    other = Job(one.key, one.config, one.episodes)
    with pytest.raises(ConfigError, match="another process works in"):
        other.start()
    one.stop()
    wait(one)
    other.start()  # control: the lock goes with the process
    other.stop()
    wait(other)


def test_what_another_comparison_did_meanwhile_is_seen_before_anything_is_done(one, monkeypatch):
    """It made the run with other settings, or finished it."""
    play(monkeypatch, "raise SystemExit(3)")
    settings = one._settings()
    finish(one, [0.5, 1.0], best=1.0)
    files.write_json(one.folder / files.SETTINGS, settings | {"gamma": 0.5})
    with pytest.raises(ConfigError, match=r"other settings \(gamma: 0\.5 -> 0\.99"):
        one.start()
    files.write_json(one.folder / files.SETTINGS, settings)
    one.start()
    assert one.poll() and one.process is None and one.state == "finished"
    one._lock().close()  # it is free


def test_a_folder_is_free_only_when_the_failure_is_written_down(one, monkeypatch):
    """Or a comparison that waits for it would go on with a run that failed."""
    play(monkeypatch, "raise SystemExit(3)")
    states, close = [], Job._close

    def look(self):
        states.append(self.state)
        close(self)

    monkeypatch.setattr(Job, "_close", look)
    one.start()
    wait(one)
    assert states == ["failed"]


def test_a_measurement_that_leaves_none_has_failed(one, monkeypatch):
    """Or it would be made again and again."""
    play(monkeypatch, "print('nothing to say')")
    checkpoint.save(checkpoint.checkpoint_path(one.folder / "models", None), {"x": 1})
    one.start()
    wait(one)
    assert one.state == "failed"
    assert "nothing to say" in files.read_json(one.folder / files.FAILED)["last_words"]


def test_a_failure_is_forgotten_by_one_process_alone(one, monkeypatch):
    monkeypatch.setattr(job, "LOCK_PATIENCE", 0.1)
    fail(one, [0.5])
    with one._lock(), pytest.raises(ConfigError, match="another process works in"):
        Job(one.key, one.config, one.episodes).forget_failure()
    assert one.state == "failed"
    other, lock = Job(one.key, one.config, one.episodes), one._lock
    monkeypatch.setattr(one, "_lock", lambda: (other.forget_failure(), lock())[1])
    one.forget_failure()  # the other was first
    assert one.state == "unfinished" and files.earlier_failures(one.folder) == [1]


def test_a_last_line_of_metrics_that_tells_no_steps_is_no_progress(one):
    write_training(one, [0.5])
    assert one.env_steps == 2048
    with (files.training_folder(one.folder) / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": null}\n')
    assert one.env_steps == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses prctl")
def test_a_run_dies_with_a_comparison_that_is_killed(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from hmasd.bench.job import Job
from tests.bench.made_up import make_comparison
one = make_comparison(Path({str(tmp_path)!r}))[1][0]
Job._next_command = lambda self: (sys.executable, "-c", "import time; time.sleep(60)")
one.start()
print(one.process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        child = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.wait()
    one = make_comparison(tmp_path)[1][0]
    one._lock().close()  # free within LOCK_PATIENCE, or an error
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True)
    assert status.stdout.strip()[:1] in ("", "Z")


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-9],
        lambda whole: "[]",
        lambda whole: '{"episodes": 3}',
        lambda whole: whole.replace("4096", "null"),
        lambda whole: whole.replace("true", "null", 1),
        lambda whole: whole.replace("1.0", "NaN", 1),
        lambda whole: whole.replace("stochastic", "greedy"),
        lambda whole: whole.replace('"stochastic"', "3"),
        lambda whole: '{"env_steps": 1, "episodes": []}',
    ],
)
def test_a_measurement_that_is_damaged_is_made_again(one, tmp_path, monkeypatch, damage):
    finish(one, [0.5, 1.0], best=1.0)
    path = one.folder / files.ABSOLUTE
    checkpoint.save(checkpoint.checkpoint_path(one.folder / "models", None), {"x": 1})
    whole = path.read_text()
    assert make_comparison(tmp_path)[1][0].state == "finished"  # control
    path.write_text(damage(whole))
    again = make_comparison(tmp_path)[1][0]
    assert again.state == "unfinished"
    assert again._next_command()[2] == "hmasd.bench.measure"
    assert read_record(again).damaged == (files.ABSOLUTE,)
    play(monkeypatch, f"open({str(path)!r}, 'w').write({whole!r})")
    again.start()
    wait(again)
    assert again.state == "finished" and read_record(again).damaged == ()


def test_settings_that_are_damaged_are_those_that_training_noted(one, tmp_path):
    finish(one, [0.5, 1.0], best=1.0)
    (one.folder / files.SETTINGS).write_text('{"gamma": 0.')
    note = files.training_folder(one.folder) / "config.json"
    files.write_json(note, dataclasses.asdict(one.config))
    make_comparison(tmp_path)
    files.write_json(note, dataclasses.asdict(one.config) | {"gamma": 0.5})
    with pytest.raises(ConfigError, match=r"other settings \(gamma: 0\.5 -> "):
        make_comparison(tmp_path)


def test_a_run_that_was_measured_otherwise_is_refused(one, tmp_path):
    finish(one, [0.5, 1.0], best=1.0)
    make_comparison(tmp_path)  # control: as it was
    with pytest.raises(ConfigError, match=r"measured on 32 episodes, not on 64.*another --out"):
        make_comparison(tmp_path, TEXT.replace("absolute_factor: 1", "absolute_factor: 2"))
