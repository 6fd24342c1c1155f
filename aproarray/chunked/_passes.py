"""The passes over chunks as dask graphs: plain dictionaries of tasks, whose functions are in `_line`.

Tasks of one tree are named by the tree's number in its batch, a level and an index; see `_boxes.Boxes`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from aproarray.chunked import _line
from aproarray.chunked._boxes import Boxes, Index

Key = tuple[Any, ...]
Graph = dict[Key | str, Any]
KeyOf = Callable[[int, Index], Key]


def part(results: Any, place: int) -> Any:
    """Return one of the results of a task."""
    return results[place]


def wait_for(*_: Any) -> None:
    """Wait for what it is given."""


def part_of(key: Key, place: int) -> Any:
    """Return the task that takes one of the results of another."""
    return functools.partial(part, place=place), key


def key_of(name: str, tree: int) -> KeyOf:
    """Return how the nodes of a tree are named in a graph."""
    return lambda level, index: (name, tree, level, *index)


def join(
    graph: Graph,
    name: str,
    tree: int,
    boxes: Boxes,
    connectivity: int,
    also: Any,
    check: bool,
    downwards: bool,
) -> None:
    """Add the passes over lines, up and (`downwards`) down.

    The lines of chunks are "line" of the graph. Added are "joined" and "line" of the other nodes, and
    "contexts" and "context".
    """
    line, joined, both = (key_of(f"{name}-{what}", tree) for what in ("line", "joined", "join"))
    for level in range(1, boxes.n_levels):
        for index in boxes.nodes(level):
            task = functools.partial(
                _line.join, box=boxes.box(level, index), connectivity=connectivity, also=also, check=check
            )
            children = [line(level - 1, child) for child in boxes.children(level, index)]
            graph[both(level, index)] = task, children
            graph[joined(level, index)] = part_of(both(level, index), 0)
            graph[line(level, index)] = part_of(both(level, index), 1)
    if not downwards:
        return
    context, contexts, both = (
        key_of(f"{name}-{what}", tree) for what in ("context", "contexts", "contexts-and-lines")
    )
    for level in range(boxes.n_levels - 1, 0, -1):
        for index in boxes.nodes(level):
            graph[both(level, index)] = (
                functools.partial(_line.contexts, also=also),
                joined(level, index),
                above(context, boxes, level, index),
            )
            graph[contexts(level, index)] = part_of(both(level, index), 0)
            for place, child in enumerate(boxes.children(level, index)):
                graph[context(level - 1, child)] = (
                    functools.partial(_part_of_lines, place=place),
                    both(level, index),
                )


def _part_of_lines(results: Any, place: int) -> Any:
    return results[1][place]


def above(context: KeyOf, boxes: Boxes, level: int, index: Index) -> Key | None:
    """Return the key of a node's context: None for the image, which has none."""
    return None if level == boxes.n_levels - 1 else context(level, index)


def add_up(
    graph: Graph,
    name: str,
    trees: str,
    tree: int,
    boxes: Boxes,
    add: np.ufunc = np.add,
    nothing: float = 0,
) -> None:
    """Add the passes over masses, up and down: "masses" of nodes, from those of chunks, and "outside".

    `trees` is the name of the graph's "joined" and "contexts".
    """
    masses, outside, several = (key_of(f"{name}-{what}", tree) for what in ("masses", "outside", "several"))
    joined, contexts = (key_of(f"{trees}-{what}", tree) for what in ("joined", "contexts"))
    for level in range(1, boxes.n_levels):
        for index in boxes.nodes(level):
            children = [masses(level - 1, child) for child in boxes.children(level, index)]
            task = functools.partial(_line.joined_masses, add=add)
            graph[masses(level, index)] = task, joined(level, index), children
    for level in range(boxes.n_levels - 1, 0, -1):
        for index in boxes.nodes(level):
            children = boxes.children(level, index)
            graph[several(level, index)] = (
                functools.partial(_line.context_masses, add=add, nothing=nothing),
                contexts(level, index),
                [masses(level - 1, child) for child in children],
                above(outside, boxes, level, index),
            )
            for place, child in enumerate(children):
                graph[outside(level - 1, child)] = part_of(several(level, index), place)
