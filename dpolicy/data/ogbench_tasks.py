"""The goals of OGBench's tasks: where agents, balls and things must be, and how buttons must stand."""

import re
from typing import NamedTuple, TypeAlias

from dpolicy import _checks

_Places: TypeAlias = tuple[tuple[float, ...], ...]

_UNIT, _OFFSET = 4.0, 4.0  # metres of a cell, and from its own origin to the first one's centre
# The cells (row, column) of the goals of tasks 1 to 5, from OGBench's code (arXiv 2410.20092), as all that follows.
_MAZE_GOALS = {
    "medium": ((6, 6), (1, 6), (4, 2), (6, 1), (1, 1)),
    "large": ((7, 10), (7, 1), (1, 10), (5, 4), (5, 4)),
    "giant": ((10, 14), (10, 1), (1, 1), (5, 12), (3, 8)),
    "teleport": ((7, 1), (7, 10), (7, 10), (7, 10), (7, 1)),
}
_SOCCER_GOALS = {
    "arena": ((5, 2), (2, 2), (6, 6), (6, 1), (1, 6)),
    "medium": ((6, 6), (1, 1), (6, 5), (5, 3), (1, 6)),
}
_BALL = 15  # where the ball's place begins in qpos
_THINGS, _CUBE = 14, 7  # where those begin that the arm moves, and the numbers of a cube
_NEAR = 0.04  # how far from its place a cube, the drawer or the window still counts
_TABLE, _LAYER = 0.02, 0.04  # the height of a cube on the table, and of what is stacked above it


def _stack(x: float, y: float, cubes: int) -> _Places:
    """Cubes on each other, from the lowest."""
    return tuple((x, y, round(_TABLE + _LAYER * i, 2)) for i in range(cubes))


# The places (x, y) of the cubes, in their order, with a height where it is not that of the table.
_CUBE_GOALS: dict[str, tuple[_Places, ...]] = {
    "single": (((0.425, -0.1),), ((0.5, 0.0),), ((0.35, 0.0),), ((0.5, 0.2),), ((0.5, -0.2),)),
    "double": (
        ((0.425, 0.0), (0.425, 0.1)),
        ((0.35, 0.1), (0.5, 0.1)),
        ((0.425, -0.2), (0.425, 0.2)),
        ((0.425, 0.1), (0.425, -0.1)),
        _stack(0.425, 0.0, 2),
    ),
    "triple": (
        ((0.35, -0.1), (0.35, 0.1), (0.5, 0.1)),
        ((0.5, 0.0), (0.5, 0.2), (0.5, -0.2)),
        ((0.35, -0.1), (0.5, -0.2), (0.5, 0.0)),
        ((0.5, -0.1), (0.5, 0.1), (0.35, 0.0)),
        _stack(0.425, 0.2, 3),
    ),
    "quadruple": (
        ((0.35, -0.25), (0.35, 0.1), (0.5, -0.1), (0.5, 0.25)),
        ((0.375, 0.1), (0.475, 0.1), (0.375, -0.1), (0.475, -0.1)),
        ((0.525, -0.2), (0.325, 0.2), (0.325, -0.2), (0.525, 0.2)),
        ((0.525, 0.1), (0.325, 0.1), (0.325, -0.1), (0.525, -0.1)),
        _stack(0.425, 0.2, 4),
    ),
    "octuple": (
        (
            *((0.525, 0.05), (0.425, -0.15), (0.425, -0.05), (0.325, 0.15)),
            *((0.525, -0.15), (0.425, 0.05), (0.425, 0.15), (0.325, -0.05)),
        ),
        (
            *((0.525, 0.2), (0.525, 0.0), (0.525, -0.2), (0.425, -0.2)),
            *((0.325, -0.2), (0.325, 0.0), (0.325, 0.2), (0.425, 0.2)),
        ),
        (
            *((0.32, 0.15), (0.46, 0.15), (0.39, 0.05), (0.53, 0.05)),
            *((0.32, -0.05), (0.46, -0.05), (0.39, -0.15), (0.53, -0.15)),
        ),
        (
            *((0.525, 0.05), (0.525, -0.05), (0.425, -0.15, 0.06), (0.425, -0.15)),
            *((0.425, 0.15, 0.06), (0.425, 0.15), (0.325, -0.05), (0.325, 0.05)),
        ),
        (
            *(*_stack(0.325, 0.0, 2), *_stack(0.425, 0.2, 2)),
            *(*_stack(0.525, 0.0, 2), *_stack(0.425, -0.2, 2)),
        ),
    ),
}
_DRAWER_PLACE = (0.33, -0.356, 0.065986)
# Of the scene: the place of the cube, the states of both buttons, the drawer and the window.
_SCENE_GOALS: tuple[tuple[tuple[float, ...], tuple[int, int], float, float], ...] = (
    ((0.35, 0.05), (1, 1), -0.16, 0.2),
    ((0.35, -0.05), (0, 0), 0.0, 0.0),
    ((0.4, 0.15), (1, 1), -0.16, 0.0),
    (_DRAWER_PLACE, (1, 0), 0.0, 0.0),
    (_DRAWER_PLACE, (0, 0), 0.0, 0.2),
)
# The states of a puzzle's buttons, row after row.
_PUZZLE_GOALS = {
    "3x3": ("110 101 011", "011 111 111", "101 010 101", "111 111 111", "101 101 101"),
    "4x4": ("1111 " * 4, "1111 1001 1001 1111", "0101 1010 " * 2, "0000 " * 4, "0000 " * 4),
    "4x5": (
        *("00000 " * 4, "11111 " * 4, "11111 10001 10001 11111"),
        *("00000 00100 00100 00000", "10001 01110 01110 10001"),
    ),
    "4x6": (
        *("000000 " * 4, "000000 " * 4, "111110 110101 101011 011111"),
        *("100001 000000 000000 100001", "100001 011110 011110 100001"),
    ),
}
_FOUR = ("antsoccer-", "puzzle-3x3-", "puzzle-4x4-")  # whose default task is the fourth


class Goals(NamedTuple):
    """The sub-goals of a task: places that coordinates must be near to, and states that buttons must have.

    Attributes:
        places: For each the first index in `qpos`, the values there, and how far from them still counts. 14 + 7 i is
            that of cube i, with a tolerance of .04.
        buttons: The states of all buttons; empty where there are none.
    """

    places: tuple[tuple[int, tuple[float, ...], float], ...] = ()
    buttons: tuple[int, ...] = ()


def default_task(name: str) -> int:
    """The task of a name without a number: 4 of antsoccer and the smaller puzzles, 1 of mazes, else 2."""
    if name.startswith(_FOUR):
        return 4
    return 1 if name.partition("-")[0].endswith("maze") else 2


def task_goals(name: str, task: int = 0) -> Goals:
    """The goals of a task: of mazes the agent's place, of antsoccer the ball's, else of cubes, drawer, window, buttons.

    Cubes are not permuted: cube i must be at its own place, as in OGBench's single tasks.

    Args:
        name: Of the set, such as "antmaze-large-navigate-v0" or "cube-double-play-v0".
        task: From 1 to 5; 0 is the default one: 4 of antsoccer, puzzle-3x3 and puzzle-4x4, 1 of mazes, 2 of the others.

    Raises:
        ValueError: For a set whose goals are not known here, or a task that there is not.
    """
    _checks.integer("data_task", task, 0, 5)
    kind, _, rest = name.partition("-")
    size = rest.partition("-")[0]
    number = (task or default_task(name)) - 1
    if kind == "cube" and size in _CUBE_GOALS:
        return Goals(tuple(_at(i, place) for i, place in enumerate(_CUBE_GOALS[size][number])))
    if kind == "scene":
        place, buttons, drawer, window = _SCENE_GOALS[number]
        after = _THINGS + _CUBE + len(buttons)
        return Goals((_at(0, place), (after, (drawer,), _NEAR), (after + 1, (window,), _NEAR)), buttons)
    if kind == "puzzle" and size in _PUZZLE_GOALS:
        return Goals(buttons=tuple(map(int, re.sub(r"\s", "", _PUZZLE_GOALS[size][number]))))
    table = _SOCCER_GOALS if kind == "antsoccer" else _MAZE_GOALS if kind.endswith("maze") else {}
    if size not in table:
        raise ValueError(
            f"data_task must be None for {name}, whose goals are not known here (those of OGBench's mazes, antsoccer, "
            "cube, scene and puzzle are): give them to dpolicy.data.read_ogbench from Python."
        )
    row, column = table[size][number]
    place = (column * _UNIT - _OFFSET, row * _UNIT - _OFFSET)
    return Goals(((_BALL if kind == "antsoccer" else 0, place, 1.0 if kind == "pointmaze" else 0.5),))


def _at(cube: int, place: tuple[float, ...]) -> tuple[int, tuple[float, ...], float]:
    return _THINGS + _CUBE * cube, (*place, _TABLE)[:3], _NEAR
