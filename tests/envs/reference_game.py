"""Alice_and_Bob once more: one game, slow, plain Python, written apart from the shipped env."""

from __future__ import annotations

from dataclasses import dataclass, field

Cell = tuple[int, int]

KEYS, GOALS = "abcd", "ABCD"  # a opens A, b opens B, ...
PICTURE = [  # the guide's game
    "##########",
    "#b      a#",
    "#        #",
    "#        #",
    "#        #",
    "#        #",
    "#        #",
    "#        #",
    "#A      B#",
    "##########",
]
# Row and column of a b .. A B .., worked out by hand for each size and number of pairs.
CELLS = {
    (8, 2): "1,8 1,1 8,1 8,8",
    (8, 3): "1,8 1,3 3,1 8,1 8,6 6,8",
    (8, 4): "1,8 1,4 1,1 5,1 8,1 8,5 8,8 4,8",
    (12, 2): "1,12 1,1 12,1 12,12",
    (12, 3): "1,12 1,5 5,1 12,1 12,8 8,12",
    (12, 4): "1,12 1,6 1,1 7,1 12,1 12,7 12,12 6,12",
    (16, 2): "1,16 1,1 16,1 16,16",
    (16, 3): "1,16 1,6 6,1 16,1 16,11 11,16",
    (16, 4): "1,16 1,8 1,1 9,1 16,1 16,9 16,16 8,16",
}
DIRECTIONS = {0: (0, 1), 1: (0, -1), 2: (-1, 0), 3: (1, 0), 4: (0, 0)}


def picture_of(size: int, pairs: int) -> list[str]:
    """The game of a size and a number of pairs, drawn."""
    wall, floor = "#" * (size + 2), "#" + " " * size + "#"
    lines = [list(line) for line in [wall, *[floor] * size, wall]]
    signs = KEYS[:pairs] + GOALS[:pairs]
    for sign, cell in zip(signs, CELLS[size, pairs].split(), strict=True):
        row, column = map(int, cell.split(","))
        lines[row][column] = sign
    return ["".join(line) for line in lines]


def find(sign: str, picture: list[str]) -> Cell:
    """The cell of a sign in the picture."""
    row = next(i for i, line in enumerate(picture) if sign in line)
    return row, picture[row].index(sign)


@dataclass
class ReferenceGame:
    """One episode."""

    alice: Cell
    bob: Cell
    episode_length: int = 100
    time: int = 0
    taken: set[str] = field(default_factory=set)
    picture: list[str] = field(default_factory=lambda: PICTURE)

    def __post_init__(self) -> None:
        self.signs = set("".join(self.picture))
        self.pairs = [pair for pair in zip(KEYS, GOALS, strict=True) if pair[0] in self.signs]
        self.cells = {sign: find(sign, self.picture) for pair in self.pairs for sign in pair}
        keys, goals = zip(*self.pairs, strict=True)
        self.codes = {" ": 0, "#": 1}
        self.codes |= {sign: 4 + i for i, sign in enumerate(keys + goals)}

    def step(self, alice_action: int, bob_action: int) -> tuple[float, bool, bool]:
        """Play; returns reward, terminated, truncated."""
        self.alice = self._walk(self.alice, alice_action)
        self.bob = self._walk(self.bob, bob_action)
        self.time += 1
        feet = {self.alice, self.bob}
        self.taken |= {g for k, g in self.pairs if {self.cells[k], self.cells[g]} <= feet}
        won = len(self.taken) == len(self.pairs)
        return float(won), won, not won and self.time == self.episode_length

    def map(self) -> list[list[int]]:
        """The codes; an agent hides what it stands on, Bob hides Alice."""
        codes = [
            [self.codes[" " if sign in self.taken else sign] for sign in line]
            for line in self.picture
        ]
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

    def _walk(self, cell: Cell, action: int) -> Cell:
        row, column = cell[0] + DIRECTIONS[action][0], cell[1] + DIRECTIONS[action][1]
        return cell if self.picture[row][column] == "#" else (row, column)
