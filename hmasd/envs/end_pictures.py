"""What a game looked like when its episode ended, though the next one has begun."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class EndPictures:
    """Pictures of the ends of games that somebody looks at; the others cost nothing."""

    def __init__(self) -> None:
        self._ends: dict[int, np.ndarray | None] = {}  # by number of a game that is looked at

    def show(self, number: int, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """The end of the game if its last step ended it, else what it draws now.

        The first call is the sign that somebody looks at this game.
        """
        end = self._ends.setdefault(number, None)
        return draw(number) if end is None else end

    def keep(self, ended: np.ndarray, draw: Callable[[int], np.ndarray]) -> None:
        """Draw those that are looked at and ended, before they restart; ended: [E] bool."""
        for number in self._ends:
            if ended[number]:
                self._ends[number] = np.array(draw(number))

    def forget(self) -> None:
        """The ends are past: all games are stepped or restarted."""
        self._ends = dict.fromkeys(self._ends)
