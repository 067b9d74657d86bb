"""The losses against numbers by hand: re-typing the formula would repeat its mistake."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hmasd.algorithm.losses import (
    HEAVIEST,
    balance,
    explained_variance,
    huber,
    policy_loss,
    skill_loss,
    smoothness_penalty,
    value_loss,
)


def log(*ratios: float) -> Tensor:
    return torch.tensor(ratios, dtype=torch.float64).log()


# --- policy --------------------------------------------------------------------------------------

# ratio, advantage, surrogate with ε = 0.2, gradient of the surrogate by logp (= ratio · A or 0)
POLICY_CASES = [
    (1.0, 2.0, 2.0, 2.0),
    (1.1, 2.0, 2.2, 2.2),
    (1.5, 2.0, 2.4, 0.0),  # clipped: it has already gone far enough
    (0.5, 2.0, 1.0, 1.0),  # the wrong way: not clipped
    (1.5, -2.0, -3.0, -3.0),
    (0.5, -2.0, -1.6, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "surrogate", "slope"), POLICY_CASES)
def test_surrogate_by_hand(ratio: float, advantage: float, surrogate: float, slope: float) -> None:
    logp = log(ratio).requires_grad_()
    result = policy_loss(logp, log(1.0), torch.tensor([advantage]).double(), 0.2)
    assert result.loss.item() == pytest.approx(-surrogate)
    (gradient,) = torch.autograd.grad(result.loss, logp)
    assert float(gradient) == pytest.approx(-slope)


def test_policy_loss_is_a_mean_over_all_entries() -> None:
    ratios, advantages, surrogates, _ = (list(column) for column in zip(*POLICY_CASES, strict=True))
    result = policy_loss(
        log(*ratios).view(2, 3),
        log(*[1.0] * 6).view(2, 3),
        torch.tensor(advantages).view(2, 3),
        0.2,
    )
    assert float(result.loss) == pytest.approx(-sum(surrogates) / 6)


def test_how_far_the_policy_moved_by_hand() -> None:
    """KL estimate ρ - 1 - log ρ: 0 for no move, never negative; fraction beyond ±20 %."""
    result = policy_loss(log(1.0, 2.0, 0.5, 1.1), log(1.0, 1.0, 1.0, 1.0), torch.ones(4), 0.2)
    expected = (0 + (1 - math.log(2)) + (math.log(2) - 0.5) + (0.1 - math.log(1.1))) / 4
    assert float(result.kl) == pytest.approx(expected)
    assert float(result.clip_fraction) == 0.5
    assert float(result.ratio_error) == pytest.approx(1.0)
    still = policy_loss(log(0.3, 0.7), log(0.3, 0.7), torch.ones(2), 0.2)
    assert (float(still.kl), float(still.clip_fraction), float(still.ratio_error)) == (0, 0, 0)


def test_kl_estimate_has_the_closed_forms_mean() -> None:
    """E_old[ρ - 1 - log ρ] = KL(old || new), summed exactly over the choices of a categorical."""
    old = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    new = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64).log()
    result = policy_loss(new, old, torch.ones(3), 0.2, old.exp())
    oracle = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=old), torch.distributions.Categorical(logits=new)
    )
    assert float(result.kl) == pytest.approx(float(oracle))


# --- value ---------------------------------------------------------------------------------------


def test_huber_by_hand() -> None:
    error = torch.tensor([0.0, 1.0, -1.0, 10.0, 12.0, -12.0])
    assert huber(error, 10.0).tolist() == [0.0, 0.5, 0.5, 50.0, 70.0, 70.0]


def test_huber_against_torch(float64: None) -> None:
    error = 5 * torch.randn(100)
    oracle = torch.nn.functional.huber_loss(error, torch.zeros(100), reduction="none", delta=2.0)
    torch.testing.assert_close(huber(error, 2.0), oracle)


# V, V_old, R, loss with ε = 0.2, slope by V
VALUE_CASES = [
    (0.5, 0.5, 1.5, 0.5, -1.0),  # not moved: ½ · 1²
    (0.6, 0.5, 1.5, 0.405, -0.9),  # moved inside the range: ½ · 0.9²
    (1.0, 0.5, 1.5, 0.32, 0.0),  # moved past it towards R: H(0.7 - 1.5) is worse, no gradient
    (0.0, 0.5, 1.5, 1.125, -1.5),  # moved past it away from R: H(-1.5) is worse
    (31.5, 31.5, 1.5, 250.0, 10.0),  # far off: linear, 10 · (30 - 5)
]


@pytest.mark.parametrize(("value", "old", "target", "loss", "slope"), VALUE_CASES)
def test_value_loss_by_hand(
    value: float, old: float, target: float, loss: float, slope: float
) -> None:
    variable = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    result = value_loss(variable, torch.tensor([old]), torch.tensor([target]), 0.2, 10.0)
    assert result.item() == pytest.approx(loss)
    (gradient,) = torch.autograd.grad(result, variable)
    assert float(gradient) == pytest.approx(slope)


def test_one_value_serves_all_agents() -> None:
    """V = 1 column against R of N agents: the mean over agents, as if the value were repeated."""
    value, old, target = torch.randn(4, 3, 1), torch.randn(4, 3, 1), torch.randn(4, 3, 2)
    together = value_loss(value, old, target, 0.2, 10.0)
    repeated = value_loss(value.expand(4, 3, 2), old.expand(4, 3, 2), target, 0.2, 10.0)
    assert float(together) == pytest.approx(float(repeated))


# --- discriminators ------------------------------------------------------------------------------


def test_skill_loss_by_hand() -> None:
    log_probs = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]).log()
    result = skill_loss(log_probs, torch.tensor([1, 1]))
    assert float(result.loss) == pytest.approx(-(math.log(0.25) + math.log(0.7)) / 2)
    assert float(result.accuracy) == 0.5


def test_skill_loss_against_torch(float64: None) -> None:
    logits, skill = torch.randn(6, 2, 4), torch.randint(4, (6, 2))
    oracle = torch.nn.functional.cross_entropy(logits.flatten(0, 1), skill.flatten())
    torch.testing.assert_close(skill_loss(logits, skill).loss, oracle)


# --- explained variance --------------------------------------------------------------------------


def test_balance_by_hand() -> None:
    """40 pairs of 4 skills: 10 each would be even; one that nobody chose has no pair to weigh."""
    weights = balance(torch.tensor([[20.0, 10.0, 8.0, 2.0], [39.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(weights[0], torch.tensor([0.5, 1.0, 1.25, 5.0]))
    torch.testing.assert_close(weights[1], torch.tensor([10 / 39, 10.0, 10.0, 10.0]))
    assert balance(torch.tensor([1000.0, 1.0]))[1] == HEAVIEST  # 500.5 without the limit


def test_explained_variance_by_hand() -> None:
    target = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(explained_variance(target, target)) == 1
    assert float(explained_variance(target + 7, target)) == 1  # a constant shift costs nothing
    assert float(explained_variance(torch.full((4,), 2.5), target)) == 0
    assert float(explained_variance(-target, target)) == pytest.approx(-3)
    half = torch.tensor([1.5, 1.5, 3.5, 3.5])  # errors ±½: variance ¼ of 5/4
    assert float(explained_variance(half, target)) == pytest.approx(0.8)
    assert float(explained_variance(torch.zeros(4), torch.ones(4))) == 1  # no variance, no NaN


# --- dead agents count in no mean (trap 12) ------------------------------------------------------


def losses_of(rows: dict[str, Tensor], weight: Tensor | None) -> list[Tensor]:
    policy = policy_loss(rows["logp"], rows["old_logp"], rows["advantage"], 0.2, weight)
    value = value_loss(rows["value"], rows["old_value"], rows["target"], 0.2, 10.0, weight)
    skill = skill_loss(rows["logits"], rows["skill"], weight)
    return [*policy, value, *skill]


def live_and_dead() -> tuple[dict[str, Tensor], Tensor]:
    names = ("logp", "old_logp", "advantage", "value", "old_value", "target")
    rows = {name: 0.3 * torch.randn(30, 4, dtype=torch.float64) for name in names}
    rows |= {"logits": torch.randn(30, 4, 5, dtype=torch.float64)}
    rows |= {"skill": torch.randint(5, (30, 4))}
    weight = (torch.rand(30, 4) < 0.7).double()
    weight[0, 0] = 0
    return rows, weight


def with_garbage(rows: dict[str, Tensor], dead: Tensor) -> dict[str, Tensor]:
    def spoil(x: Tensor) -> Tensor:
        spoiled = x.clone()
        spoiled[dead] = 3 - 2 * x[dead] if x.is_floating_point() else (x[dead] + 1) % 5
        return spoiled

    return {name: spoil(x) if name != "logp" else x + 8 * dead.double() for name, x in rows.items()}


@pytest.mark.parametrize("changes", ["garbage", "left out"])
def test_dead_rows_change_no_loss_and_no_metric(changes: str) -> None:
    rows, weight = live_and_dead()
    expected = losses_of(rows, weight)
    if changes == "garbage":
        found = losses_of(with_garbage(rows, weight == 0), weight)
    else:
        found = losses_of({name: x[weight == 1] for name, x in rows.items()}, None)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_forgotten_weight_would_be_seen() -> None:
    """Control: without the weights every loss and metric moves."""
    rows, weight = live_and_dead()
    before = losses_of(rows, None)
    after = losses_of(with_garbage(rows, weight == 0), None)
    assert all(abs(a - b) > 1e-6 for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("name", ["logp", "value", "logits"])
def test_dead_rows_have_no_gradient(name: str) -> None:
    rows, weight = live_and_dead()
    for changed in (rows, with_garbage(rows, weight == 0)):
        variable = changed[name].clone().requires_grad_()
        policy, *_, value, skill, _ = losses_of(changed | {name: variable}, weight)
        loss = {"logp": policy, "value": value, "logits": skill}[name]
        (gradient,) = torch.autograd.grad(loss, variable)
        assert (gradient[weight == 0] == 0).all()
        assert (gradient[weight == 1] != 0).any()


def test_smoothness_by_hand() -> None:
    """Moves of 0, c and (3, 4) = 5: penalties 0, 0 and 25 / 4 - 1 with c = 2."""
    before = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
    both = torch.stack([before, before + torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 4.0]])])
    assert float(smoothness_penalty(both, 2.0)) == pytest.approx(5.25 / 3)
    weight = torch.tensor([1.0, 1.0, 0.0])
    assert float(smoothness_penalty(both, 2.0, weight)) == 0
