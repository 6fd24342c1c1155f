"""Dask arrays that are computed a second time rather than kept: images are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask._task_spec import DataNode, GraphNode, Task, TaskRef, convert_legacy_task
from dask.base import clone_key, tokenize
from dask.blockwise import Blockwise
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer


def read_again(arrays: list[Any], barrier: Delayed, purpose: str) -> list[Any]:
    """Return the same dask arrays, to be computed again after the barrier.

    As `dask.graph_manipulation.bind` does, which leaves the tasks of layers other than blockwise ones as they
    are (dask 2024.11 to 2026.8): they are computed once then, and kept.
    """
    return [_again(array, barrier, tokenize(barrier.key, purpose)) for array in arrays]


def _again(array: Any, barrier: Delayed, seed: str) -> Any:
    graph, before = array.__dask_graph__(), barrier.__dask_graph__()
    keys = graph.get_all_external_keys()
    layers, dependencies = dict(before.layers), dict(before.dependencies)
    for name, layer in graph.layers.items():
        clone = layer.clone if isinstance(layer, Blockwise) else _clone_of(layer)
        copy, is_bound = clone(keys=keys, seed=seed, bind_to=barrier.key)
        layers[clone_key(name, seed)] = copy
        needed = {clone_key(other, seed) for other in graph.dependencies[name]}
        dependencies[clone_key(name, seed)] = needed | ({barrier.__dask_layers__()[0]} if is_bound else set())
    rebuild, arguments = array.__dask_postpersist__()
    name = clone_key(array.name, seed)
    return rebuild(HighLevelGraph(layers, dependencies), *arguments, rename={array.name: name})


def _clone_of(layer: Any) -> Callable[..., tuple[MaterializedLayer, bool]]:
    def clone(keys: set[Any], seed: str, bind_to: Any) -> tuple[MaterializedLayer, bool]:
        tasks, is_bound = {}, False
        for key, task in layer.items():
            node = convert_legacy_task(key, task, keys)
            node = node if isinstance(node, GraphNode) else DataNode(key, node)
            name = clone_key(key, seed) if key in keys else key
            others = {other: clone_key(other, seed) for other in node.dependencies if other in keys}
            if others or isinstance(node, DataNode) or not isinstance(node, Task):
                tasks[name] = node.substitute(others, key=name)
            else:  # what is read: after the barrier
                tasks[name] = Task(name, _after, TaskRef(bind_to), node.func, *node.args, **node.kwargs)
                is_bound = True
        return MaterializedLayer(tasks), is_bound

    return clone


def _after(_: Any, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return function(*arguments, **options)
