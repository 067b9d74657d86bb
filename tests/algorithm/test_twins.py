"""Two skills that the discriminator takes for each other are twins; one of them is too many."""

from __future__ import annotations

import pytest
import torch

from hmasd.algorithm.twins import twin


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        ([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]], None),
        ([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 1.0]], 1),  # one has swallowed the other
        ([[0.4, 0.6, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], 0),
        ([[0.4, 0.0, 0.6], [0.5, 0.5, 0.0], [0.6, 0.0, 0.4]], 0),  # 1.2 against 0.5 of 0 and 1
        ([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]], 0),  # 0.6 against 0.4
        ([[0.4, 0.2, 0.4], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], None),  # 0.4 against 0.7
        ([[0.0, 0.0], [0.0, 0.0]], None),  # nobody was chosen
    ],
)
def test_the_one_that_is_told_less_of_the_pair_mistaken_most(
    confusion: list[list[float]], expected: int | None
) -> None:
    assert twin(torch.tensor(confusion, dtype=torch.float64)) == expected
