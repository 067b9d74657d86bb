"""One gradient step, the same for all networks, and means over the steps of an update.

A batch may go through its network in parts, whose gradients add up to the whole batch's: each part
counts as much as it has of the batch's weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hmasd.config import Config
from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.adam import ClippedAdam
from hmasd.kernels.transfer import to_device, to_host

Batch = TypeVar("Batch")
Metrics = dict[str, Tensor | float]
"""Values by tag: numbers, or scalars on the device that nobody has waited for yet; see `read`."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Part(NamedTuple, Generic[Batch]):
    """Rows of a batch that go through a network at once."""

    batch: Batch
    weight: Tensor | float  # how many of its entries count
    share: float  # of what counts in the whole batch: the weight of this part's mean loss


def in_parts(
    batches: Iterable[tuple[Batch, Tensor | float]],
    ranks: Ranks = ALONE,
    total: float | None = None,
) -> list[Part[Batch]]:
    """This rank's parts of a batch, with how much each weighs in the batch of all ranks.

    One in which nobody counts is left out. Several parts have to be weighed against each other,
    which waits for the device where weights are there; one part of one rank is taken as it is.

    Args:
        batches: the parts and their weights.
        ranks: which have the batch together.
        total: the whole batch's weight, where it is known.
    """
    cut = list(batches)
    if len(cut) == ranks.world_size == 1:
        return [Part(*cut[0], 1.0)]
    weights = list(read({str(i): weight for i, (_, weight) in enumerate(cut)}).values())
    if total is None:
        total = ranks.total(sum(weights))
    counting = zip((batch for batch, _ in cut), weights, strict=True)
    return [Part(batch, weight, weight / total) for batch, weight in counting if weight > 0]


def slices(num_rows: int, most: int) -> Iterator[slice]:
    """Consecutive slices that cover all rows, `most` in each but the last; 0: all in one."""
    size = most or max(1, num_rows)
    return (slice(start, start + size) for start in range(0, num_rows, size))


def total_weight(weight: Tensor | None, like: Tensor) -> Tensor | float:
    """How many entries count: all of `like`, or the sum of their weights."""
    return float(like.numel()) if weight is None else weight.sum()


class Learner:
    """A network with its Adam, clipped and guarded against losses that are not finite.

    The parameters become views of one flat tensor, and so do their gradients: clipping and Adam are
    then one operation on one tensor instead of a few on each of dozens of small ones.
    """

    def __init__(self, name: str, network: nn.Module, config: Config, ranks: Ranks = ALONE) -> None:
        """`name` stands in error messages and in checkpoints; ranks: whose gradients add up."""
        self.name = name
        self.ranks = ranks
        self.network = network
        self.learning_rate = config.learning_rate
        self.optimizer = ClippedAdam(
            _flatten(network), config.max_grad_norm, config.learning_rate, config.adam_eps
        )
        self._losses: list[Tensor] = []  # since they were `told`, as are the norms
        self._norms: list[Tensor] = []

    @property
    def gradient(self) -> Tensor:
        """The gradient of all parameters: one flat tensor, of which theirs are views."""
        gradient = self.optimizer.flat.grad
        assert gradient is not None, "made with the flat parameters"
        return gradient

    def size_steps(self, share: float) -> None:
        """Let the steps from here on be this share of the learning rate."""
        self.optimizer.adam.param_groups[0]["lr"] = share * self.learning_rate

    def begin_anew(self, flat: Tensor) -> None:
        """Take these parameters, all in one, and forget all steps; gradients stay to be `told`."""
        with torch.no_grad():
            self.optimizer.flat.copy_(flat)
        for moment in self.optimizer.adam.state[self.optimizer.flat].values():
            moment.zero_()

    def accumulate(self, losses: Iterable[tuple[Tensor, float]]) -> None:
        """Backward each part's loss.

        Args:
            losses: mean loss of each part and its share of the whole. The next part is not asked
                for before this one's backward: one part's intermediate results live at a time.
        """
        self.gradient.zero_()
        for loss, share in losses:
            self.backward(loss, share)

    def backward(self, loss: Tensor, share: float = 1.0) -> None:
        """Add a loss's gradient, times what it counts, to what is there already."""
        loss.backward(torch.full_like(loss, share))
        self._losses.append(loss.detach())
        self._spoil_unless_finite(self._losses[-1])

    def apply(self) -> None:
        """Clip and step along the gradient that is there."""
        for norm in self._norms[-1:]:
            self._spoil_unless_finite(norm)
        self._norms.append(self.optimizer.step())

    def mean_norm(self) -> Tensor:
        """Mean norm of the gradients before clipping, over the steps that are not yet `told`."""
        return torch.stack(self._norms).mean()

    def told(self) -> Metrics:
        """The losses and then the norms of all steps since it was asked last."""
        losses, norms = self._losses, self._norms
        self._losses, self._norms = [], []
        told: Metrics = {f"loss {i}": x for i, x in enumerate(losses)}
        return told | {f"gradient norm {i}": x for i, x in enumerate(norms)}

    def check(self, told: Mapping[str, float]) -> None:
        """Look at what `told` has said.

        Raises:
            TrainingError: a number is not finite; no parameter has been changed from there on.
        """
        for what, value in told.items():
            if not math.isfinite(value):
                raise TrainingError(self._diverged(what.rpartition(" ")[0], value))

    def _spoil_unless_finite(self, number: Tensor) -> None:
        """Keep Adam from moving: 0 · x is NaN where x is not finite, and nobody has to look."""
        self.gradient[0].add_(0 * number)

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments and its count of steps."""
        return self.optimizer.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over Adam's moments; step size and epsilon stay those of this configuration."""
        adam = self.optimizer.adam
        (group,) = adam.param_groups
        settings = {name: value for name, value in group.items() if name != "params"}
        adam.load_state_dict(state)
        adam.param_groups[0].update(settings)

    def _diverged(self, what: str, value: float) -> str:
        return (
            f"the {self.name}'s {what} is {value}: stopped before the optimizer step, its "
            "parameters and the checkpoints are untouched. Lower --learning-rate, or look at the "
            "last metrics in runs/ for the reward or observation that grew."
        )


def step_together(*steps: tuple[Learner, Iterable[tuple[Tensor, float]]]) -> None:
    """One gradient step on each of some networks, with one reduction over the ranks.

    Nothing here waits for the device. If a loss or its gradient is not finite, this step of its
    network and those that follow change nothing until `read`, which raises.

    Args:
        steps: networks and the losses that `Learner.accumulate` takes.
    """
    for learner, losses in steps:
        learner.accumulate(losses)
    apply_together(*(learner for learner, _ in steps))


def apply_together(*learners: Learner) -> None:
    """Add up the accumulated gradients of all ranks in one reduction, clip and step."""
    learners[0].ranks.sum_all([learner.gradient for learner in learners])
    for learner in learners:
        learner.apply()


def _flatten(network: nn.Module) -> nn.Parameter:
    """Move a network's parameters and gradients into one tensor each, of which they are views."""
    parameters = list(network.parameters())
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    pieces = zip(flat.detach().split(sizes), flat.grad.split(sizes), strict=True)
    for parameter, (value, gradient) in zip(parameters, pieces, strict=True):
        parameter.data = value.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return flat


class Means:
    """Weighted means of scalars over an update's parts, steps and ranks."""

    def __init__(self, *names: str, ranks: Ranks = ALONE) -> None:
        """`names`: of all that will be added, by any rank."""
        self._values: dict[str, list[Tensor]] = {name: [] for name in names}
        self._weights: dict[str, list[Tensor | float]] = {name: [] for name in names}
        self._ranks = ranks

    def add(self, weight: Tensor | float, **values: Tensor) -> None:
        """Take in one part's means, each over entries of this weight in all."""
        for name, value in values.items():
            self._values[name].append(value.detach())
            self._weights[name].append(weight)

    def result(self, prefix: str) -> Metrics:
        """`{prefix/name: mean}`."""
        found = [x for values in self._values.values() for x in values]
        device = found[0].device if found else torch.device("cpu")
        sums = torch.stack([self._sum(name, device) for name in self._values])
        total, weight = self._ranks.sum(sums).unbind(-1)
        means = (total / weight).unbind()
        return {f"{prefix}/{name}": x for name, x in zip(self._values, means, strict=True)}

    def _sum(self, name: str, device: torch.device) -> Tensor:
        """Of weight times value, and of the weights: [2] float64."""
        if not self._values[name]:
            return torch.zeros(2, dtype=torch.float64, device=device)
        values, weights = torch.stack(self._values[name]).double(), self._weights[name]
        on_device = [x for x in weights if isinstance(x, Tensor)]
        if on_device:  # all of them are
            weight = torch.stack(on_device).double()
        else:
            weight = to_device(torch.tensor(weights, dtype=torch.float64), device)
        return torch.stack([(values * weight).sum(), weight.sum()])


def largest(numbers: list[Tensor], ranks: Ranks) -> Tensor:
    """The largest scalar of all ranks; 0 if there is none."""
    found = torch.stack(numbers).max() if numbers else torch.zeros(())
    return ranks.largest(found.double())


def read(metrics: Metrics, learners: Sequence[Learner] = ()) -> dict[str, float]:
    """Metrics as numbers, and how the learners' steps went: an update's one wait for the device.

    Raises:
        TrainingError: a loss or gradient of one of the learners was not finite.
    """
    groups = [metrics, *(learner.told() for learner in learners)]
    tensors = [x for group in groups for x in group.values() if isinstance(x, Tensor)]
    numbers = iter(_on_host(tensors))
    numbers_of, *told = (
        {name: next(numbers) if isinstance(x, Tensor) else x for name, x in group.items()}
        for group in groups
    )
    for learner, of_steps in zip(learners, told, strict=True):
        learner.check(of_steps)
    return numbers_of


def _on_host(scalars: Sequence[Tensor]) -> list[float]:
    """Scalars as numbers, in one wait for each device that they are on."""
    values = [0.0] * len(scalars)
    for device in {x.device for x in scalars}:
        places = [i for i, x in enumerate(scalars) if x.device == device]
        here = to_host(torch.stack([scalars[i].double() for i in places])).tolist()
        for place, value in zip(places, here, strict=True):
            values[place] = value
    return values
