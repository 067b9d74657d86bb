"""After stop 6: which two skills lead to the same place; pure."""

from __future__ import annotations

from torch import Tensor

ALIKE = 0.5  # how often two skills are taken for each other, against how often for themselves


def twin(confusion: Tensor) -> int | None:
    """Which skill to do without: of the two taken for each other most, the one told less often.

    Two skills are twins where c_ij + c_ji > `ALIKE` (c_ii + c_jj). Of what a discriminator can be
    told of a twin it tells nothing apart, so neither is paid for leaving the other.

    Args:
        confusion: c [n, n], share of the pairs of skill i that are named j.

    Returns:
        None if there are no twins.
    """
    told = confusion.diagonal()
    mistaken = confusion + confusion.T - ALIKE * (told.unsqueeze(0) + told.unsqueeze(1))
    mistaken.fill_diagonal_(-1.0)
    worst = int(mistaken.argmax())
    first, second = divmod(worst, len(confusion))
    if float(mistaken[first, second]) <= 0:
        return None
    return min(first, second, key=lambda skill: float(told[skill]))
