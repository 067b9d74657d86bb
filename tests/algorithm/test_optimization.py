"""One gradient step: clipping, and the guard that keeps NaN out of the parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hmasd.algorithm.optimization import (
    Learner,
    Means,
    TrainingError,
    in_parts,
    read,
    slices,
    step_together,
)
from hmasd.config import Config
from hmasd.kernels import build


def learner(max_norm: float = 10.0, learning_rate: float = 0.1) -> Learner:
    network = nn.Linear(2, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    config = Config(learning_rate=learning_rate, adam_eps=1e-5, max_grad_norm=max_norm)
    return Learner("toy net", network, config)


def step(toy: Learner, loss: torch.Tensor) -> None:
    step_together((toy, [(loss, 1.0)]))


def test_first_adam_step_by_hand() -> None:
    """Adam's first step moves each weight by lr · g / (|g| + eps)."""
    toy = learner()
    step(toy, (toy.network.weight * torch.tensor([[3.0, -4.0]])).sum())
    assert float(toy.mean_norm()) == pytest.approx(5.0)
    assert toy.network.weight[0].tolist() == pytest.approx([0.9, 1.1], abs=1e-5)


def test_a_step_may_be_a_share_of_its_size_and_whole_again() -> None:
    toy = learner()
    for share, expected in ((0.3, [0.97, 1.03]), (1.0, [0.87, 1.13])):
        toy.size_steps(share)
        step(toy, (toy.network.weight * torch.tensor([[3.0, -4.0]])).sum())
        assert toy.network.weight[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("max_norm", "expected"), [(10.0, [3.0, -4.0]), (1.0, [0.6, -0.8])])
def test_gradient_is_clipped_to_its_norm(max_norm: float, expected: list[float]) -> None:
    """The norm that is returned is the one before clipping."""
    toy = learner(max_norm)
    step(toy, (toy.network.weight * torch.tensor([[3.0, -4.0]])).sum())
    assert float(toy.mean_norm()) == pytest.approx(5.0)
    assert toy.network.weight.grad[0].tolist() == pytest.approx(expected, rel=1e-4)


def test_gradients_do_not_add_up_over_steps() -> None:
    toy = learner()
    for _ in range(3):
        step(toy, (toy.network.weight * torch.tensor([[3.0, -4.0]])).sum())
    assert float(toy.mean_norm()) == pytest.approx(5.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_loss_that_is_not_finite_stops_before_the_step(
    bad: float, where: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sqrt(0) has a finite value and an infinite slope: the loss alone is not enough to look at."""
    monkeypatch.setattr(build._switch, "enabled", fast)
    toy = learner()
    step(toy, toy.network.weight.square().sum())  # Adam has moments now
    weight = toy.network.weight.detach().clone()
    moments = {k: v.clone() for k, v in toy.state_dict()["state"][0].items()}
    if where == "loss":
        loss = toy.network.weight.sum() * bad
    else:
        loss = (toy.network.weight - weight).abs().sum().sqrt() * (1 if bad == bad else -1)
        assert loss.isfinite()
    step(toy, loss)
    step(toy, toy.network.weight.square().sum())  # nor does the update go on from there
    assert torch.equal(toy.network.weight, weight)
    for name, value in toy.state_dict()["state"][0].items():
        assert torch.equal(value, moments[name])
    with pytest.raises(TrainingError, match=f"toy net's {where}.* is (nan|inf)"):
        read({}, [toy])


def test_the_next_update_starts_anew_after_an_error() -> None:
    toy = learner()
    step(toy, toy.network.weight.sum() * float("nan"))
    with pytest.raises(TrainingError):
        read({}, [toy])
    before = toy.network.weight.detach().clone()
    step(toy, toy.network.weight.square().sum())
    read({}, [toy])
    assert not torch.equal(toy.network.weight, before)


def test_a_loss_in_parts_steps_like_the_whole() -> None:
    whole, parts = learner(), learner()
    step(whole, (whole.network.weight * torch.tensor([[3.0, -4.0]])).sum())
    weight = parts.network.weight
    step_together(
        (parts, [((weight * torch.tensor([[4.0, 0.0]])).sum(), 0.75), (-8 * weight[0, 1], 0.5)])
    )
    assert whole.mean_norm() == parts.mean_norm() == 5.0
    assert torch.equal(parts.network.weight, whole.network.weight)


def test_parts_count_by_their_weight_and_the_weightless_not_at_all() -> None:
    parts = in_parts([("a", 3.0), ("nobody", 0.0), ("b", 1.0)])
    assert [(part.batch, part.share) for part in parts] == [("a", 0.75), ("b", 0.25)]


@pytest.mark.parametrize(
    ("rows", "most", "expected"), [(5, 0, [5]), (5, 2, [2, 2, 1]), (4, 4, [4]), (3, 9, [3])]
)
def test_slices_cover_every_row_once(rows: int, most: int, expected: list[int]) -> None:
    cut = [list(range(rows))[part] for part in slices(rows, most)]
    assert [len(part) for part in cut] == expected
    assert [row for part in cut for row in part] == list(range(rows))


def test_a_finite_loss_does_step() -> None:
    """Control of the test before: the parameters do change when nothing is wrong."""
    toy = learner()
    before = toy.network.weight.detach().clone()
    step(toy, toy.network.weight.square().sum())
    assert not torch.equal(toy.network.weight, before)


def test_learning_rate_zero_changes_nothing() -> None:
    toy = learner(learning_rate=0.0)
    step(toy, toy.network.weight.square().sum())
    assert toy.network.weight.tolist() == [[1.0, 1.0]]


def test_means_by_hand() -> None:
    means = Means("loss", "kl")
    means.add(1.0, loss=torch.tensor(1.0, requires_grad=True), kl=torch.tensor(0.5))
    means.add(3.0, loss=torch.tensor(5.0), kl=torch.tensor(0.5))
    assert read(means.result("low")) == {"low/loss": 4.0, "low/kl": 0.5}


def test_metrics_are_read_together_and_in_place() -> None:
    toy = learner()
    step(toy, toy.network.weight.square().sum())
    read_once = read({"a": torch.tensor(0.25), "b": 3.0, "c": torch.tensor(-1.5).double()}, [toy])
    assert read_once == {"a": 0.25, "b": 3.0, "c": -1.5}
    assert all(type(x) is float for x in read_once.values())
    assert toy.told() == {}, "an update's steps are looked at once"
    assert read({}) == {}


def test_the_first_number_that_is_not_finite_is_named() -> None:
    fine, broken = learner(), learner()
    step(fine, fine.network.weight.square().sum())
    step(broken, broken.network.weight.square().sum())
    step(broken, broken.network.weight.sum() * float("inf"))
    with pytest.raises(TrainingError, match="toy net's loss is inf"):
        read({"kl": torch.tensor(0.5)}, [fine, broken])
