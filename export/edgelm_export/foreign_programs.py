"""Optimum's graphs of a checkpoint in, the programs of a package out: as graph files and data files in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm import signature, tasks
from edgelm.providers import Provider
from edgelm.rows import ENCODER
from edgelm.signature import CacheGeometry, Port
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.pooling import embedding_head
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.foreign_graph import ForeignGraph
from edgelm_export.graph import GraphBuilder, Location
from edgelm_export.names import Source
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.task import Task
from edgelm_export.weights import Weights
from edgelm_export.write import DataFile, write_graph


class ForeignPrograms:
    """What it takes to write them, in one recipe or another."""

    def __init__(self, checkpoint: Checkpoint, task: Task, graphs: Mapping[str, Path], provider: Provider) -> None:
        """Takes the checkpoint for what belongs to its task alone, and Optimum's graph of each program."""
        self._checkpoint = checkpoint
        self._task = task
        self._graphs = graphs
        self._provider = provider

    def write(self, recipe: Recipe, folder: Path) -> Written:
        """Writes all programs in a recipe's formats, and says what they turned out to be."""
        names = {dense.name: Source(dense.source) for dense in self._task.dense}
        weights = Weights(self._checkpoint, names, {})
        found, written = Written(), dict[str, Location]()
        for name, file in self._graphs.items():
            data = DataFile(folder / f"{name}.onnx.data")
            try:
                g = GraphBuilder(weights, recipe, self._provider, data, written=written)
                graph = ForeignGraph(file, g)
                self._declare(name, graph, found)
                found.graphs.append(graph.finish())
                write_graph(found.graphs[-1], folder / f"{name}.onnx")
            finally:
                data.close()
        return found

    def _declare(self, name: str, graph: ForeignGraph, found: Written) -> None:
        """Says what a program puts out."""
        if name != ENCODER:
            found.cache, found.vocab_size = graph.cache, graph.ask_for_logits()
            graph.keep_cache()
        elif self._task.name == tasks.TEXT_TO_TEXT:
            size = graph.width(signature.LAST_HIDDEN_STATE)
            graph.g.output(signature.source_port(size), graph.output(signature.LAST_HIDDEN_STATE))
        else:
            found.token_types = graph.input(signature.TOKEN_TYPE_IDS) is not None
            _HEADS.get(self._task.name, _logits)(graph, self._task)


class Written:
    """What the graphs turned out to be: the cache and the width of the logits of those that write, whether one takes token types."""

    def __init__(self) -> None:
        self.graphs: list[ir.Model] = []
        self.cache: CacheGeometry | None = None
        self.vocab_size: int | None = None
        self.token_types = False


def _hidden_states(graph: ForeignGraph, task: Task) -> None:
    size = graph.width(signature.LAST_HIDDEN_STATE)
    graph.g.output(signature.hidden_port(size), graph.output(signature.LAST_HIDDEN_STATE))


def _embedding(graph: ForeignGraph, task: Task) -> None:
    _hidden_states(graph, task)
    g, ids = graph.g, graph.input(signature.INPUT_IDS)
    mask = graph.input(signature.ATTENTION_MASK)
    if mask is None:
        g.declare([Port(signature.ATTENTION_MASK, "int64", ("batch", "sequence"))])
        mask = g.input(signature.ATTENTION_MASK)
    if ids is None:
        raise TypeError("a graph of token ids takes none")
    x = graph.output(signature.LAST_HIDDEN_STATE)
    sizes: Any = SimpleNamespace(hidden_size=graph.width(signature.LAST_HIDDEN_STATE))
    embedding_head(g, x, sizes, Tokens(ids, mask, None), task)


def _spans(graph: ForeignGraph, task: Task) -> None:
    """Start and end of an answer, side by side."""
    g = graph.g
    axis = g.constant(np.array([-1], np.int64))
    sides = [g.op("Unsqueeze", graph.output(f"{side}_logits"), axis) for side in ("start", "end")]
    g.output(signature.token_logits_port(2), g.op("Concat", *sides, axis=-1))


def _token_logits(graph: ForeignGraph, task: Task) -> None:
    graph.g.output(signature.token_logits_port(graph.width(signature.LOGITS)), graph.output(signature.LOGITS))


def _logits(graph: ForeignGraph, task: Task) -> None:
    """One row of logits a text."""
    size = graph.width(signature.LOGITS)
    graph.g.output(signature.row_port(signature.LOGITS, size), graph.output(signature.LOGITS))


_HEADS: Mapping[str, Callable[[ForeignGraph, Task], object]] = {
    tasks.HIDDEN_STATES: _hidden_states,
    tasks.EMBEDDING: _embedding,
    tasks.QUESTION_ANSWERING: _spans,
    tasks.TOKEN_CLASSIFICATION: _token_logits,
    tasks.FILL_MASK: lambda graph, task: graph.ask_for_logits(),
}
