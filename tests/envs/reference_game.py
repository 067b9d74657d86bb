"""Alice_and_Bob once more: one game, slow, plain Python, written apart from the shipped env."""

from __future__ import annotations

from dataclasses import dataclass, field

Cell = tuple[int, int]

PICTURE = [
    "##########",
    "#k      K#",
    "#        #",
    "#        #",
    "#        #",
    "#        #",
    "#        #",
    "#        #",
    "#G      g#",
    "##########",
]  # K opens G, k opens g
CODES = {" ": 0, "#": 1, "K": 4, "k": 5, "G": 6, "g": 7}
DIRECTIONS = {0: (0, 1), 1: (0, -1), 2: (-1, 0), 3: (1, 0), 4: (0, 0)}


def find(sign: str) -> Cell:
    """The cell of a sign in the picture."""
    row = next(i for i, line in enumerate(PICTURE) if sign in line)
    return row, PICTURE[row].index(sign)


@dataclass
class ReferenceGame:
    """One episode."""

    alice: Cell
    bob: Cell
    episode_length: int = 100
    time: int = 0
    taken: set[str] = field(default_factory=set)

    def step(self, alice_action: int, bob_action: int) -> tuple[float, bool, bool]:
        """Play; returns reward, terminated, truncated."""
        self.alice = self._walk(self.alice, alice_action)
        self.bob = self._walk(self.bob, bob_action)
        self.time += 1
        feet = {self.alice, self.bob}
        before = len(self.taken)
        self.taken |= {goal for key, goal in ("KG", "kg") if {find(key), find(goal)} <= feet}
        won = before < 2 and len(self.taken) == 2
        return float(won), won, not won and self.time == self.episode_length

    def map(self) -> list[list[int]]:
        """The codes; an agent hides what it stands on, Bob hides Alice."""
        codes = [[CODES[" " if sign in self.taken else sign] for sign in line] for line in PICTURE]
        for code, (row, column) in ((2, self.alice), (3, self.bob)):
            codes[row][column] = code
        return codes

    def observation(self, agent: int) -> list[int]:
        """The patch around the agent, with its own code in the middle, and its cell."""
        row, column = (self.alice, self.bob)[agent]
        lines = self.map()[row - 1 : row + 2]
        patch = [code for line in lines for code in line[column - 1 : column + 2]]
        patch[4] = 2 + agent
        return [*patch, row, column]

    @staticmethod
    def _walk(cell: Cell, action: int) -> Cell:
        row, column = cell[0] + DIRECTIONS[action][0], cell[1] + DIRECTIONS[action][1]
        return cell if PICTURE[row][column] == "#" else (row, column)
