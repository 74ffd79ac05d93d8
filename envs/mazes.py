"""Layouts of mazes: text to cells, and the shortest ways between them."""

from functools import cache

import numpy as np

from dpolicy import _checks

WALL, FREE, START, GOAL = "#", ".", "S", "G"
GATES = "abcdefgh"

# Rows from north to south. Halls are as wide as the way up to an outer corridor is long: where both coordinates are
# limited alike, the four routes take equally many steps.
LAYOUTS: dict[str, str] = {
    "four": """
        ################
        #......a.......#
        #....######....#
        #......b.......#
        #S...######...G#
        #......c.......#
        #....######....#
        #......d.......#
        ################
    """,
    "large": """
        ############################
        #..........####....##......#
        #......###...a..##.........#
        #......#####.########......#
        #..........####....##......#
        #......###...b..##.........#
        #S.....##############.....G#
        #......###...c..##.........#
        #..........####....##......#
        #......#####.########......#
        #......###...d..##.........#
        #..........####....##......#
        ############################
    """,
}
# Steps after which an episode is cut, about three times what the way takes.
TIME_LIMITS = {"four": 100, "large": 250}


def rows_of(layout: str) -> tuple[str, ...]:
    """The rows of a layout: one of `LAYOUTS`, or a text of your own.

    Raises:
        ValueError: For an unknown name; for rows of unequal length or unknown characters, an open border, anything but
            one start and one goal, or a goal or another free cell that cannot be reached.
    """
    _checks.instance("layout", layout, str, f"one of {', '.join(LAYOUTS)}, or a text of rows")
    text = LAYOUTS.get(layout, layout)
    rows = tuple(line.strip() for line in text.strip().splitlines())
    if len(rows) < 3:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, or a text of rows, got {layout!r}.")
    if {len(row) for row in rows} != {len(rows[0])}:
        raise ValueError(f"layout must have rows of one length, got lengths {[len(row) for row in rows]}.")
    text = "".join(rows)
    if unknown := set(text) - {WALL, FREE, START, GOAL, *GATES}:
        raise ValueError(
            f"layout must be made of # . S G and gates {GATES}, got {''.join(sorted(unknown))!r}."
        )
    border = rows[0] + rows[-1] + "".join(row[0] + row[-1] for row in rows)
    if set(border) != {WALL}:
        raise ValueError("layout must have walls (#) all around.")
    for mark, name in ((START, "start S"), (GOAL, "goal G")):
        if text.count(mark) != 1:
            raise ValueError(f"layout must have one {name}, got {text.count(mark)}.")
    for gate in GATES:
        if text.count(gate) > 1:
            raise ValueError(f"layout must have no gate twice, got {text.count(gate)} of {gate!r}.")
    start, goal = (cell_index(rows, marked(rows, mark)) for mark in (START, GOAL))
    moves = distances(rows)[start]
    if moves[goal] < 0:
        raise ValueError("layout must have a way from the start S to the goal G.")
    if lost := int((moves < 0).sum()):
        raise ValueError(
            f"layout must have a way from the start S to every free cell: {lost} are walled in, which # can fill."
        )
    return rows


def marked(rows: tuple[str, ...], mark: str) -> tuple[int, int]:
    """Column from the west and row from the south of the cell that bears a mark."""
    for i, row in enumerate(reversed(rows)):
        if mark in row:
            return row.index(mark), i
    raise ValueError(f"layout must have a cell {mark!r}.")


def gates(rows: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """The cells of the gates, in the order of their letters."""
    return tuple(marked(rows, gate) for gate in GATES if gate in "".join(rows))


def open_cells(rows: tuple[str, ...]) -> np.ndarray:
    """Which cells are free, `[width, height]`, by column from the west and row from the south."""
    return np.array([[mark != WALL for mark in row] for row in reversed(rows)]).T


def free_cells(rows: tuple[str, ...]) -> np.ndarray:
    """Column and row of every free cell, `[n, 2]`."""
    return np.argwhere(open_cells(rows))


def cell_index(rows: tuple[str, ...], cell: tuple[int, int]) -> int:
    """Where a cell stands among `free_cells`."""
    return int(np.flatnonzero((free_cells(rows) == np.asarray(cell)).all(axis=1))[0])


def neighbours(rows: tuple[str, ...]) -> np.ndarray:
    """Which free cells touch, `[n, n]`: along a side, or across a corner with both cells beside it free."""
    cells, free = free_cells(rows), open_cells(rows)
    apart = cells[None] - cells[:, None]
    near = np.abs(apart).max(axis=-1) == 1
    beside_x = free[cells[:, None, 0] + np.sign(apart[..., 0]) * near, cells[:, None, 1] + 0 * apart[..., 1]]
    beside_y = free[cells[:, None, 0] + 0 * apart[..., 0], cells[:, None, 1] + np.sign(apart[..., 1]) * near]
    return near & beside_x & beside_y


@cache
def distances(rows: tuple[str, ...]) -> np.ndarray:
    """Moves between free cells, `[n, n]`, by breadth-first search from all of them at once; -1 where there is no way.

    A move across a corner counts as one, as both coordinates move at once.
    """
    near = neighbours(rows).astype(np.float32)
    reached = np.eye(len(near), dtype=bool)
    found = np.where(reached, 0, -1)
    moves = 0
    while True:
        moves += 1
        newly = ((reached.astype(np.float32) @ near) > 0) & ~reached
        if not newly.any():
            return found
        found[newly] = moves
        reached |= newly
