"""Workers change nothing of what is played, and whatever happens to one is said and cleaned up."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmasd.envs.contract import check_env, random_action
from hmasd.envs.env_slice import EnvError
from hmasd.envs.guard import check_step
from hmasd.envs.vector import SingleEnvBatch, make_batch
from hmasd.envs.worker_process import make_game
from hmasd.envs.workers import WorkerError, WorkerSettings, make_worker_batch
from hmasd.types import EnvStep, EnvView
from tests.helpers.faulty_envs import SEED

ROOT = Path(__file__).parents[2]
WALK, PUSH = "tests.helpers.single_envs:Walk", "tests.helpers.single_envs:Push"
FAULTY = "tests.helpers.faulty_envs:Faulty"
NUM_ENVS, LENGTH = 5, 9
DEADLINE = 60.0  # seconds; a worker starts in less than one on an idle machine
SHORT = 2.0


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """After each test: no descriptor and no mapping of shared memory is left in this process."""
    gc.collect()  # what earlier tests in this process left to it must not vanish in between
    before = Counter(open_files())
    yield
    gc.collect()
    assert not Counter(open_files()) - before


@contextlib.contextmanager
def batch(
    maker: str, options: dict[str, Any], workers: int, timeout: float = DEADLINE, restarts: int = 0
) -> Iterator[SingleEnvBatch]:
    """A batch in this process (0 workers) or in workers; afterwards no process of it is left."""
    if workers == 0:
        made = make_batch(lambda: make_game(maker, options), NUM_ENVS, LENGTH)
    else:
        settings = WorkerSettings(workers, timeout, restarts)
        made = make_worker_batch(maker, options, NUM_ENVS, LENGTH, settings)
    started = pids(made)
    assert len(started) == workers
    check_memory(started)
    try:
        yield made
    finally:
        started |= pids(made)
        made.close()
        assert not [pid for pid in started if is_alive(pid)]


def pids(made: SingleEnvBatch) -> set[int]:
    """The processes of a batch."""
    return {worker.pid for worker in getattr(made._runner, "_workers", [])}


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def open_files() -> list[str]:
    """What this process has open; a mapping of shared memory counts, too."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed again
            links.append(re.sub(r"\[\d+\]", "", os.readlink(path)))
    return sorted(links)


def check_memory(workers: Iterable[int]) -> None:
    """Shared memory without a name goes with the last process that has it, however that ends."""
    for pid in workers:
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "/memfd:hmasd-envs (deleted)" in mapped and "/dev/shm/" not in mapped


def play(env: SingleEnvBatch, view: EnvView, steps: int, seed: int = 0) -> list[EnvStep]:
    """Random allowed actions; copies of all that the batch answers."""
    rng = np.random.default_rng(seed)
    played = []
    for _ in range(steps):
        step = copy(env.step(random_action(env, view, rng)))
        view = step.view
        played.append(step)
    return played


def copy(data: Any) -> Any:
    if isinstance(data, tuple):
        return type(data)(*(copy(field) for field in data))
    return None if data is None else np.array(data)


def bits(data: Any) -> Any:
    """What two equal results have in common, to the last bit."""
    if isinstance(data, (tuple, list)):
        return [bits(field) for field in data]
    return None if data is None else (data.dtype.str, data.shape, data.tobytes())


# --- nothing changes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("maker", "options"), [(WALK, {"full": True}), (PUSH, {})])
def test_any_number_of_workers_plays_the_same(maker: str, options: dict[str, Any]) -> None:
    found = []
    for workers in (0, 1, 2, 3):
        with batch(maker, options, workers) as env:
            first = copy(env.reset(SEED))
            played = play(env, first, 40)
            found.append(bits([first, played, list(env.get_state().values()), env.render(4)]))
            assert any(step.terminated.any() for step in played)
            other = play(env, env.reset(SEED + 1), 40)
            assert bits(other) != bits(played), "the comparison sees nothing"
    assert found[1:] == found[:1] * 3


@pytest.mark.parametrize(("workers", "resumed"), [(0, 2), (2, 0), (1, 3), (2, 2)])
def test_a_saved_batch_goes_on_with_any_number_of_workers(workers: int, resumed: int) -> None:
    with batch(WALK, {}, workers) as env:
        view = play(env, env.reset(SEED), 23)[-1].view
        saved = env.get_state()
        wanted = play(env, view, 30, seed=1)
    with batch(WALK, {}, resumed) as env:
        env.set_state(saved)
        assert bits(play(env, view, 30, seed=1)) == bits(wanted)


def test_workers_keep_the_contract() -> None:
    with batch(WALK, {}, 2) as env:
        assert check_env(env, 40, SEED) == []


def test_more_workers_than_envs_are_not_started() -> None:
    with contextlib.closing(
        make_worker_batch(WALK, {}, 2, LENGTH, WorkerSettings(7, DEADLINE, 0))
    ) as env:
        assert len(pids(env)) == 2


def test_a_worker_imports_no_torch() -> None:
    program = "import sys, hmasd.envs.worker_process; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


# --- what fails is said ---------------------------------------------------------------------------


def fail(options: dict[str, Any], workers: int = 2, timeout: float = DEADLINE) -> str:
    """What a batch with one failing env (the fourth) raises; the other steps must be fine."""
    with batch(FAULTY, {"env": 3, **options}, workers, timeout) as env:
        view = env.reset(SEED)
        played = play(env, view, 3)
        with pytest.raises((EnvError, ValueError)) as caught:
            for number in range(4, 2 * LENGTH):
                check_step(play(env, played[-1].view, 1)[0], number)
    return str(caught.value)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "step raised RuntimeError: the reactor melted"),
        ("shape", r"obs is float32 of shape \(1, 3\), but must be float32 of \(2, 3\)"),
        ("type", r"state is <U1 of shape \(2,\), but must be float32"),
        ("no step", "step returned a NoneType, not a SingleStep"),
        ("mask", "action_mask forbids agent 0 every action"),
        ("no final observation", "a view is a NoneType, but must be a SingleView"),
        ("agents", r"obs is float32 of shape \(3, 3\), but must be float32 of \(2, 3\)"),
    ],
)
def test_a_fault_of_an_env_is_told_alike(fault: str, words: str, workers: int) -> None:
    text = fail({"fault": fault}, workers)
    assert re.search(words, text)
    assert re.search(r"env 3, step 4 of episode 0 \(its reset had seed \d+\)", text)
    assert "last actions, oldest first: [[" in text


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("fault", "words"), [("nan", "is nan"), ("infinite reward", "is inf")])
def test_a_number_that_is_none_is_found(fault: str, words: str, workers: int) -> None:
    text = fail({"fault": fault}, workers)
    assert "env 3, step 4: " in text and words in text


def test_a_worker_that_raises_shows_its_own_traceback() -> None:
    text = fail({"fault": "raise"})
    assert re.match(r"env worker 1 \(pid \d+, envs 2\.\.4\) failed: EnvError: env 3, step 4", text)
    assert "faulty_envs.py" in text and "in _melt" in text
    assert "0 of 0 replacements are used" in text and "--env-restarts" in text


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_reset_that_raises_in_a_later_episode_is_named(workers: int) -> None:
    text = fail({"fault": "reset", "episode": 1}, workers)
    assert "env 3, step 0 of episode 1" in text
    assert "reset raised RuntimeError: the reset melted" in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit", r"exited with code 7 at .*\n\nWhat it printed last:\nlast words"),
        ("kill", r"was ended by signal 9 \(Killed\), which is .* when memory runs out, at"),
        ("crash", r"was ended by signal 11 \(Segmentation fault\) at [\s\S]*in _crash"),
    ],
)
def test_a_worker_that_dies_is_named(fault: str, words: str) -> None:
    start = time.monotonic()
    text = fail({"fault": fault})
    assert time.monotonic() - start < DEADLINE, "a death is seen at once"
    assert re.match(r"env worker 1 \(pid \d+, envs 2\.\.4\) ", text)
    assert re.search(words, text)
    assert "env 3, step 4 of episode 0" in text and "last actions, oldest first: [[" in text


@pytest.mark.parametrize("fault", ["sleep", "spin"])
def test_a_worker_that_hangs_is_named_in_time(fault: str) -> None:
    start = time.monotonic()
    text = fail({"fault": fault}, timeout=SHORT)
    assert SHORT < time.monotonic() - start < 5 * SHORT
    assert re.match(r"env worker 1 \(pid \d+, envs 2\.\.4\) gave no answer within 2 s", text)
    assert "env 3, step 4 of episode 0" in text and "--env-timeout" in text
    assert f"in _{fault}" in text, "the line where it hangs"


def test_a_parent_that_was_stopped_does_not_blame_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-Z, an hour's pause, fg: the clock went on, though nobody waited."""
    with batch(WALK, {}, 2) as env:
        view = env.reset(SEED)
        clock = time.monotonic
        ticks = iter(range(0, 10**9, 3600))
        monkeypatch.setattr(time, "monotonic", lambda: clock() + next(ticks))
        played = play(env, view, 5)
        monkeypatch.undo()
    assert all(step.lost is None for step in played)


def test_a_worker_killed_between_two_steps_is_named() -> None:
    with batch(WALK, {}, 2) as env:
        view = env.reset(SEED)
        os.kill(env._runner._workers[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"worker 0 .* signal 9 .* between two steps"):
            play(env, view, 1)


def test_a_flood_of_output_neither_blocks_nor_shows(capfd: pytest.CaptureFixture[str]) -> None:
    with batch(FAULTY, {}, 2) as quiet:
        wanted = bits(play(quiet, quiet.reset(SEED), 20))
    with batch(FAULTY, {"fault": "flood"}, 2) as env:
        assert bits(play(env, env.reset(SEED), 20)) == wanted
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        ("tests.helpers.faulty_envs:unmakeable", "OSError: no licence for this game"),
        ("tests.helpers.faulty_envs:other_sizes", "has a game of other sizes than the first one"),
        ("tests.helpers.no_such_module:Walk", "ModuleNotFoundError: No module named"),
    ],
)
def test_games_that_cannot_be_made_are_told(maker: str, words: str) -> None:
    with pytest.raises(WorkerError, match=words):
        make_worker_batch(maker, {}, NUM_ENVS, LENGTH, WorkerSettings(2, DEADLINE, 3))


def test_a_game_that_fails_at_its_first_reset_is_not_tried_again() -> None:
    with (
        batch(FAULTY, {"fault": "reset", "env": 3}, 2, restarts=3) as env,
        pytest.raises(WorkerError, match=r"env 3, step 0 of episode 0.*the reset melted"),
    ):
        env.reset(SEED)


# --- a failed worker is replaced ------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["raise", "exit", "sleep", "mask"])
def test_a_failed_worker_is_replaced_and_its_envs_begin_anew(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with batch(FAULTY, {}, 2) as sound:
        wanted = play(sound, sound.reset(SEED), 20)
    timeout = SHORT if fault == "sleep" else DEADLINE
    with batch(FAULTY, {"fault": fault, "env": 3}, 2, timeout, restarts=1) as env:
        played = play(env, env.reset(SEED), 20)
        assert env.get_state()["episode"].tolist() == [2, 2, 2, 2, 2]
        assert env.get_state()["clock"].tolist() == [2, 2, 7, 7, 7]
        replaced = env.get_state()
        with batch(FAULTY, {}, 0) as resumed:
            resumed.set_state(replaced)
            assert bits(play(resumed, played[-1].view, 9, 5)) == bits(
                play(env, played[-1].view, 9, 5)
            )
    assert [step.lost is not None for step in played] == [n == 3 for n in range(20)]
    step = played[3]
    assert step.lost.tolist() == [False, False, True, True, True]
    assert step.truncated.tolist() == step.lost.tolist()
    assert not step.terminated.any() and not step.success.any()
    assert (step.reward[2:] == 0).all() and (step.view.obs[2:, :, 1] == 0).all()
    assert (step.final_obs == step.view.obs).all() and (step.final_state == step.view.state).all()
    for given, sound_step in zip(played[:4], wanted[:4], strict=True):  # the other worker's envs
        for field in ("reward", "truncated", "final_obs", "final_state"):
            assert bits(getattr(given, field)[:2]) == bits(getattr(sound_step, field)[:2])
    (record,) = caplog.records
    assert "env worker 1" in record.message and "replaced (1 of 1)" in record.message


def test_replacements_run_out() -> None:
    with batch(FAULTY, {"fault": "raise", "env": 3}, 2, restarts=1) as env:
        view = env.reset(SEED)
        played = play(env, view, 6)
        os.kill(env._runner._workers[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"worker 0 [\s\S]*1 of 1 replacements are used"):
            play(env, played[-1].view, 1)


def test_a_replacement_that_fails_is_replaced_too() -> None:
    options = {"fault": "reset", "env": 3, "episode": 1}
    with batch(FAULTY, options, 1, restarts=2) as env:
        view = play(env, env.reset(SEED), 5)[-1].view
        os.kill(env._runner._workers[0].pid, signal.SIGKILL)
        step = play(env, view, 1)[0]
        assert step.lost.all() and env.get_state()["episode"].tolist() == [2] * NUM_ENVS
        assert env._runner._restarts == 2


# --- no process is left ---------------------------------------------------------------------------

PARENT = """
import sys, os, signal, numpy as np
from hmasd.envs.workers import WorkerSettings, make_worker_batch
env = make_worker_batch("tests.helpers.faulty_envs:Faulty", {"fault": sys.argv[1]}, 4, 9,
                        WorkerSettings(2, 100.0, 0))
env.reset(3)
print(*(worker.pid for worker in env._runner._workers), flush=True)
for step in range(4):
    env.step(np.ones((4, 2), dtype=np.int64))
print("played", flush=True)
getattr(sys.modules[__name__], sys.argv[2])() if len(sys.argv) > 2 else sys.stdin.read()
"""


def start_parent(*arguments: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A program with two workers, which are playing or hanging when this returns."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


def wait_until_gone(workers: list[int], seconds: float = 10.0) -> list[int]:
    """The processes that are still there after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(is_alive, workers)):
        time.sleep(0.05)
    return [pid for pid in workers if is_alive(pid)]


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        ("none", signal.SIGKILL),
        ("sleep", signal.SIGKILL),
        ("spin", signal.SIGKILL),
        ("spin", signal.SIGTERM),
        ("none", signal.SIGABRT),
    ],
)
def test_no_worker_outlives_its_parent(fault: str, number: signal.Signals) -> None:
    parent, workers = start_parent(fault)
    if fault == "none":
        assert parent.stdout.readline() == "played\n"
    else:
        time.sleep(0.3)
    assert len(workers) == 2 and all(map(is_alive, workers))
    check_memory(workers)
    parent.send_signal(number)
    parent.communicate()
    assert parent.returncode == -number
    assert wait_until_gone(workers) == []


def test_the_end_of_a_program_that_forgot_to_close_ends_its_workers() -> None:
    parent, workers = start_parent("none")
    parent.communicate("")
    assert parent.returncode == 0 and wait_until_gone(workers) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_ask_to_stop_are_the_parents_matter(number: signal.Signals) -> None:
    with batch(WALK, {}, 2) as env:
        view = env.reset(SEED)
        for pid in pids(env):
            os.kill(pid, number)
            assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C goes to the foreground group"
        played = play(env, view, 10)
    with batch(WALK, {}, 0) as env:
        assert bits(play(env, env.reset(SEED), 10)) == bits(played)
