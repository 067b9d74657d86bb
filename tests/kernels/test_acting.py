"""One compiled acting step against its eager twin in float64, and against the whole network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import hmasd.kernels
from hmasd.modules.skill_conditioned import SkillConditionedGRU, act_categorical
from tests.kernels.conftest import error

pytestmark = pytest.mark.usefixtures("fast")
ROWS, INPUTS, SKILLS, CHOICES = 130, 11, 4, 5


def body(*, skill_at_input: bool) -> SkillConditionedGRU:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = SkillConditionedGRU(
            INPUTS, SKILLS, CHOICES, 64, skill_at_input=skill_at_input, gains=(2.0, 2.0)
        )
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return made


def arguments(*, masked: bool) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(ROWS, CHOICES, generator=generator) > 0.4
    mask[:, 0] = True
    return [
        torch.randn(ROWS, INPUTS, generator=generator),
        torch.randint(SKILLS, (ROWS,), generator=generator),
        torch.randn(ROWS, 64, generator=generator),
        (torch.rand(ROWS, generator=generator) > 0.3).float(),
        mask if masked else None,
        torch.rand(ROWS, generator=generator),
        torch.tensor(2.0),
    ]


def double(x: Tensor | None) -> Tensor | None:
    return x.double() if x is not None and x.is_floating_point() else x


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("skill_at_input", [False, True])
@torch.no_grad()
def test_kernel_equals_float64(skill_at_input: bool, masked: bool) -> None:
    network, given = body(skill_at_input=skill_at_input), arguments(masked=masked)
    exact = copy.deepcopy(network).double().act(*map(double, given))
    mine = network.act(*given)
    assert (mine.choice != exact.choice).sum() <= 1  # a draw may fall between two roundings
    same = mine.choice == exact.choice
    assert error([mine.logp[same], mine.state], [exact.logp[same], exact.state]) < 1e-5
    assert len(mine.choice.unique()) == CHOICES
    if masked:
        assert given[4].gather(1, mine.choice.unsqueeze(1)).all()
    other = network.act(given[0].flip(1), *given[1:])  # control: another input
    assert error([other.state], [exact.state]) > 1e-3


@torch.no_grad()
def test_it_is_one_step_of_the_network() -> None:
    network, (inputs, skill, hidden, keep, _, uniform, scale) = (
        body(skill_at_input=False),
        arguments(masked=False),
    )
    step = network.act(inputs, skill, hidden, keep, None, uniform, scale)
    logits, states = network(*(x.unsqueeze(0) for x in (inputs, skill)), hidden, keep.unsqueeze(0))
    assert torch.equal(step.state, states[0])
    logp = (scale * logits[0]).log_softmax(-1).gather(1, step.choice.unsqueeze(1)).squeeze(1)
    assert error([step.logp], [logp]) < 1e-5


def test_the_switch_and_gradients_go_to_the_twin() -> None:
    network, given = body(skill_at_input=False), arguments(masked=True)
    assert network.act(*given).logp.requires_grad
    with torch.no_grad():
        *inputs, scale = given
        scale.fill_(1.0)  # so the twin's weights are the network's own
        fast = network.act(*given)
        hmasd.kernels.set_fast(False)
        weights = (network.mlp.weights, network._gru_weights, network._head_weights)
        eager = network.act(*given)
        assert all(map(torch.equal, eager, act_categorical.eager(*inputs, *weights)))
    assert not torch.equal(fast.state, eager.state)  # rounding tells them apart
    assert error([fast.state], [eager.state]) < 1e-5
