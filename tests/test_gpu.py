"""Training on a GPU: nothing mixes devices, and the host waits where it must and nowhere else.

The first tests need no GPU (tests/helpers/fake_gpu.py); the last ones are for who has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hmasd.agent import HMASDAgent
from hmasd.algorithm import optimization
from hmasd.algorithm.optimization import Learner
from hmasd.checkpoint import CheckpointError, on_device
from hmasd.config import Config
from hmasd.distributed import ProcessGroup, RanksError, join
from hmasd.envs.base import BatchedEnv
from hmasd.kernels import build
from hmasd.kernels.transfer import to_device, to_host
from hmasd.modules.normalization import ValueNormalizer
from hmasd.rollout.team import Generators, Team
from hmasd.training.asynchronous import make_agent
from hmasd.types import HOST_FIELDS, LowRollout
from tests.helpers.envs import ContinuousPoint, Counter, Lossy, MaskedAgents, NeverWon, ToyEnv
from tests.helpers.fake_gpu import DEVICE, FakeGPU, HiddenWaitError, cuda_guard, gpu, needs_gpu
from tests.helpers.ranks import free_port
from tests.helpers.rounds import SMALL, Player

__all__ = ["cuda_guard", "gpu"]  # fixtures
pytestmark = pytest.mark.timeout(600)  # torch loads much that it needs for no numbers


class AnyAction(MaskedAgents):
    """The fake GPU answers 0, which may be masked: the next allowed action is played then."""

    def _play(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return super()._play(self._view().action_mask.argmax(-1))


ON_GPU = replace(
    SMALL,
    device=str(DEVICE),
    batch_size=24,  # 6 steps per env
    chunk_length=3,
    skill_interval=4,
    high_level_batch_size=4,
    coordinator_epochs=1,
    discoverer_epochs=2,
    discriminator_epochs=1,
)
CASES: dict[str, tuple[dict[str, Any], Callable[[int], ToyEnv]]] = {
    "plain": ({}, Counter),
    "masks and deaths": ({"intrinsic_offset": "log_n"}, AnyAction),
    "continuous actions": ({"agent_id": True, "skill_input": "input"}, ContinuousPoint),
    "paper": ({"critic_head": "team", "discriminator_smoothness": 0.0}, Counter),
    "own observations": ({"critic_input": "obs", "high_discount": "smdp"}, AnyAction),
    "state restarts": ({"reset_hidden_on_skill": True, "discriminator_rounds": 1}, Counter),
    "random skills": ({"high_level": "random"}, Counter),
    "actions as skills": ({"low_level": "action", "skill_interval": 1}, AnyAction),
    # With balance the slices' weights are known on the device alone: see `in_parts`.
    "slices": ({"samples_at_once": 8, "discriminator_balance": False}, Counter),
    "lost envs": ({}, lambda n: Lossy(n, 6, {3: (1,), 8: (0, 1, 2, 3)})),
}


def play_step(agent: HMASDAgent, env: BatchedEnv, view: Any) -> Any:
    """One lock-step as the training loop makes it; what the envs show then."""
    seen = agent.observe(view)
    acting = agent.act(seen)
    step = env.step(to_host(acting.action).numpy())
    assert agent.store_transition(seen, acting, step)
    return step.view


def waits_of(gpu: FakeGPU, config: Config, env: BatchedEnv, rounds: int) -> list[list[int]]:
    """Waits of each lock-step, and of each update."""
    agent, view = make_agent(config, env), env.reset(config.seed)
    of_steps, of_updates = [], []
    for _ in range(rounds):
        while not agent.should_sync_update():
            before = gpu.waits
            view = play_step(agent, env, view)
            of_steps.append(gpu.waits - before)
        before = gpu.waits
        agent.sync_update()
        of_updates.append(gpu.waits - before)
    return [of_steps, of_updates]


@pytest.mark.parametrize("name", CASES)
def test_a_lock_step_waits_once_and_an_update_once(gpu: FakeGPU, name: str) -> None:
    settings, make_env = CASES[name]
    of_steps, of_updates = waits_of(gpu, replace(ON_GPU, **settings), make_env(4), rounds=2)
    assert of_steps == [1] * 12, "for the actions, which the envs take on the host"
    # for the metrics; where all envs are lost there are none
    assert of_updates == [1, int(name != "lost envs")]


EXPLORES = {
    "coordinator_kl_limit": 0.0,
    "exploration_start": 3 * ON_GPU.batch_size,
    "exploration_batch_size": 1,
}


@pytest.mark.parametrize(
    ("settings", "waits"),
    [
        ({"coordinator_kl_limit": 0.0}, [1, 1]),
        ({"coordinator_kl_limit": 0.05}, [3, 3]),  # whether to make the second pass, and the third
        (EXPLORES, [1, 1, 1, 1, 1, 2, 2]),  # rewards are counted on the host, the bonus too
    ],
)
def test_what_the_coordinator_decides_by_is_waited_for(
    gpu: FakeGPU, settings: dict[str, float], waits: list[int]
) -> None:
    config = replace(ON_GPU, coordinator_epochs=3, **settings)
    assert waits_of(gpu, config, NeverWon(4), rounds=len(waits))[1] == waits


def test_play_waits_for_its_actions_only(gpu: FakeGPU) -> None:
    env = AnyAction(4)
    agent, view = HMASDAgent(ON_GPU, env), env.reset(0)
    networks, shape = agent.networks, (4, env.num_agents)
    team = Team(ON_GPU, networks.coordinator, networks.actor, shape, Generators(None, None))
    for step in range(1, 8):
        played = env.step(team.play(view))
        team.advance(torch.from_numpy(played.terminated | played.truncated))
        view = played.view
        assert gpu.waits == step


def planted(name: str, patch: pytest.MonkeyPatch) -> None:
    """One mistake somewhere in a round."""
    if name == "number read in a gradient step":
        patch.setattr(Learner, "apply", lambda self: self.optimizer.step().item())
    elif name == "condition on the device":
        patch.setattr(
            ValueNormalizer,
            "statistics",
            lambda self: (self.mean, self.mean) if self.debias == 0 else (self.mean, self.debias),
        )
    elif name == "rows chosen by a mask":
        update = ValueNormalizer.update
        patch.setattr(ValueNormalizer, "update", lambda self, x, *_: update(self, x[x > 0]))
    elif name == "copy of pageable memory":
        patch.setattr("hmasd.rollout.team.to_device", lambda x, device, dtype=None: x.to(device))
    elif name == "copy that blocks":
        patch.setattr(
            "hmasd.rollout.team.to_device", lambda x, device, dtype=None: x.pin_memory().to(device)
        )
    elif name == "index on the host":
        patch.setattr("hmasd.rollout.skill_clock.to_device", lambda x, device: x)
    else:
        patch.setattr("hmasd.algorithm.discriminators.to_device", lambda x, device, dtype=None: x)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("number read in a gradient step", "_local_scalar_dense"),
        ("condition on the device", "_local_scalar_dense|is_nonzero"),
        ("rows chosen by a mask", "nonzero"),
        ("copy of pageable memory", "not pinned"),
        ("copy that blocks", "blocks"),
        ("index on the host", "indices .* on host"),
        ("rewards left on the host", "(same device|different devices).*cuda:0"),
    ],
)
def test_control_a_hidden_wait_is_found(
    gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch, name: str, error: str
) -> None:
    planted(name, monkeypatch)
    with pytest.raises(Exception, match=error):
        waits_of(gpu, ON_GPU, Counter(4), rounds=1)


def test_the_fake_gpu_has_no_numbers(gpu: FakeGPU) -> None:
    there = to_device(torch.tensor([1.0, 2.0]), DEVICE)
    assert there.is_cuda and (there * 2).shape == (2,)
    with pytest.raises(Exception, match=r"cuda:0(, cpu| and cpu)"):
        there + torch.ones(2)
    with pytest.raises(HiddenWaitError, match="not pinned"):
        torch.ones(2).to(DEVICE, non_blocking=True)
    assert to_host(there).tolist() == [0.0, 0.0]
    assert (gpu.copies, gpu.waits) == (1, 1)


def test_asynchronous_training_mixes_no_devices(
    gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may wait: it exists to be compared with."""
    monkeypatch.setattr(FakeGPU, "_refuse_to_wait", lambda *_: None)
    waits_of(gpu, replace(ON_GPU, sync_mode=False, batch_size=12), AnyAction(4), rounds=4)


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    launched_as(monkeypatch, local_rank=1, world_size=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RanksError, match=r"^2 or more processes .* 1 GPU.*--nproc-per-node 1"):
        join("cuda", reduce_timeout=5, rank_timeout=5)


def launched_as(monkeypatch: pytest.MonkeyPatch, local_rank: int, world_size: int) -> None:
    """What a launcher tells a process."""
    told = {"RANK": local_rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": world_size}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))


# --- where a round's tensors are ------------------------------------------------------------------


def test_fields_are_where_their_list_says(gpu: FakeGPU) -> None:
    env = AnyAction(4)
    agent, view = HMASDAgent(ON_GPU, env), env.reset(0)
    while not agent.should_sync_update():
        view = play_step(agent, env, view)
    agent.high_storage.cut(agent._next_view)
    for batch in (agent.low_storage.rollout(0), agent.high_storage.rollout(0)):
        of_batch = {k: x for k, x in batch._asdict().items() if x is not None}
        assert {k for k, x in of_batch.items() if not x.is_cuda} == HOST_FIELDS & set(of_batch)


def test_a_checkpoint_is_taken_apart_by_the_same_list() -> None:
    player = Player(replace(SMALL, high_level_batch_size=1000), MaskedAgents(4))
    player.collect()
    player.agent.sync_update()
    player.collect()
    player.agent.low_storage.discard(torch.tensor([True, False, False, False]))
    state = on_device(player.agent.state_dict(), torch.device("meta"))
    memory = state["low_storage"]["memory"]
    assert set(LowRollout._fields) == set(memory)
    assert {k for k, x in memory.items() if not x.is_meta} == HOST_FIELDS & set(memory)
    assert not state["low_storage"]["discarded"].is_meta
    assert not state["next_view"]["alive"].is_meta and state["next_view"]["obs"].is_meta
    for part in (state["high_storage"]["open"], *state["high_storage"]["closed"]):
        assert {k for k, x in part.items() if not x.is_meta} == HOST_FIELDS & set(part)
    assert all(x.is_meta for x in state["discriminator_pairs"]["memory"].values())
    assert state["critic_hidden"].is_meta


def test_a_run_of_another_kind_of_device_is_refused_and_nothing_is_changed() -> None:
    """A GPU's generator has another state: 16 bytes, where the host's has 5,056."""
    player = Player(SMALL, Counter(4))
    agent = player.agent
    player.collect()
    elsewhere = agent.state_dict()
    elsewhere["generators"] = {k: torch.zeros(16, dtype=torch.uint8) for k in agent.generators}
    elsewhere["env_steps"] = 7
    with pytest.raises(CheckpointError, match="another kind of device than --device cpu"):
        agent.load_state_dict(elsewhere)
    assert agent.env_steps == SMALL.batch_size


# --- backward, which the fake GPU cannot run ------------------------------------------------------


class NoNumberIsRead(TorchDispatchMode):
    """Raises where a number of a tensor, or a shape that depends on one, is asked for."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if torch.Tag.data_dependent_output in function.tags or (
            torch.Tag.dynamic_output_shape in function.tags
        ):
            raise HiddenWaitError(str(function))
        return function(*args, **(kwargs or {}))


def step_without_reading(monkeypatch: pytest.MonkeyPatch, spoil: bool) -> int:
    """One update of an agent without compiled kernels; how many gradient steps were watched."""
    monkeypatch.setattr(build._switch, "enabled", False)
    player, steps = Player(replace(SMALL, skill_persistence=0.0), MaskedAgents(4)), []
    player.collect()
    backward, apply = Learner.backward, Learner.apply

    def watched_backward(learner: Learner, loss: Tensor, share: float) -> None:
        with NoNumberIsRead():
            backward(learner, loss * loss.detach().item() if spoil else loss, share)

    def watched_apply(learner: Learner) -> None:
        steps.append(learner.name)
        with NoNumberIsRead():
            apply(learner)

    monkeypatch.setattr(Learner, "backward", watched_backward)
    monkeypatch.setattr(Learner, "apply", watched_apply)
    player.agent.sync_update()
    assert len(set(steps)) == 5, "all networks learned"
    return len(steps)


def test_backward_and_adam_read_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step_without_reading(monkeypatch, spoil=False) == 10


def test_control_a_number_that_is_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HiddenWaitError, match="_local_scalar_dense"):
        step_without_reading(monkeypatch, spoil=True)


# --- on a GPU -------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_rounds_train_and_nothing_waits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What acted and what is replayed agree, and torch itself looks for hidden waits."""
    settings, make_env = CASES[name]
    config, env = replace(ON_GPU, **settings), make_env(4)
    agent, view = make_agent(config, env), env.reset(config.seed)

    def allowed(x: Tensor, copy: Callable[[Tensor], Tensor] = to_host) -> Tensor:
        torch.cuda.set_sync_debug_mode("default")
        x = copy(x)
        torch.cuda.set_sync_debug_mode("error")
        return x

    monkeypatch.setattr(optimization, "to_host", allowed)
    monkeypatch.setitem(globals(), "to_host", allowed)
    metrics = {}
    for number in range(3):
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first one allocates
        try:
            while not agent.should_sync_update():
                view = play_step(agent, env, view)
            metrics |= agent.sync_update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(np.isfinite(x) for x in metrics.values())
    for level in ("low", "high"):
        assert metrics.get(f"{level}/ratio_start", 1.0) == pytest.approx(1, abs=1e-4)


@needs_gpu
def test_on_a_gpu_reductions_are_nccls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one: two would need two GPUs."""
    launched_as(monkeypatch, local_rank=0, world_size=1)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    group = ProcessGroup("cuda", reduce_timeout=60, rank_timeout=60)
    all_reduce, reduced = torch.distributed.all_reduce, []
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda x: (reduced.append(x.device), all_reduce(x))
    )
    try:
        world = torch.distributed.group.WORLD
        assert world._get_backend(torch.device("cuda")).name() == "nccl"
        there = [torch.arange(6.0, device="cuda").view(2, 3), torch.ones(1, device="cuda")]
        group.sum_all(there)
        assert there[0].tolist() == [[0, 1, 2], [3, 4, 5]] and there[1].tolist() == [1]
        assert [device.type for device in reduced] == ["cuda"]
        assert group.sum(there[0]).is_cuda
    finally:
        group.close()
