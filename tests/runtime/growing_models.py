"""Small packages whose cache grows, as Optimum's do: graphs of one attention layer, and the same computed with numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.manifest import OPTIMUM, Manifest
from edgelm.providers import PROVIDERS
from edgelm.signature import CacheGeometry, LayerCache, Port
from edgelm.tasks import EncoderFacts
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.write import digests, write_graph
from tests.architectures.random_checkpoints import tiny_tokenizer

Array = NDArray[np.float32]

VOCAB, HEADS, HEAD_DIM, LONGEST = 128, 2, 4, 64
SIZE = HEADS * HEAD_DIM
CACHE = CacheGeometry((LayerCache(HEADS, HEAD_DIM),))
EMPTY: Any = None

_RNG = np.random.default_rng(7)
_TOKENS = _RNG.normal(size=(VOCAB, SIZE)).astype(np.float32)
_POSITIONS = _RNG.normal(size=(LONGEST, SIZE)).astype(np.float32)
_SOURCES = _RNG.normal(size=(VOCAB, SIZE)).astype(np.float32)
_HEAD = _RNG.normal(size=(SIZE, VOCAB)).astype(np.float32)


def logits(ids: Sequence[int], source: Sequence[int] | None = None) -> Array:
    """What the graphs should say after each token, [len(ids), VOCAB]."""
    x = _TOKENS[list(ids)] + _POSITIONS[: len(ids)]
    n = len(ids)
    x = x + _attend(x, x, np.where(np.tri(n) > 0, 0, -1e9))
    if source is not None:
        x = x + _attend(x, _SOURCES[list(source)], np.zeros((n, len(source))))
    return (x @ _HEAD).astype(np.float32)


def _attend(x: Array, seen: Array, mask: NDArray[Any]) -> Array:
    q, k = (a.reshape(len(a), HEADS, HEAD_DIM).transpose(1, 0, 2) for a in (x, seen))
    scores = q @ k.transpose(0, 2, 1) + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ k).transpose(1, 0, 2).reshape(len(x), SIZE).astype(np.float32)


def write_as_optimum(folder: Path, family: str) -> dict[str, Path]:
    """The float graphs as Optimum writes them: its names, and logits of every position."""
    folder.mkdir()
    if family == "decoder":
        programs = {"decoder": _decoder(reads_source=False, theirs=True)}
    else:
        programs = {
            "encoder": _encoder(output=signature.LAST_HIDDEN_STATE),
            "decoder_start": _decoder(reads_source=True, begins=True, theirs=True),
            "decoder": _decoder(reads_source=True, theirs=True),
        }
    files = {name: folder / f"their_{name}.onnx" for name in programs}
    for name, g in programs.items():
        write_graph(g.finish(name), files[name])
    return files


def decoder_package(folder: Path) -> Path:
    """A decoder."""
    return _package(folder, "decoder", {"decoder": _decoder(reads_source=False)})


def seq2seq_package(folder: Path) -> Path:
    """An encoder-decoder."""
    programs = {
        "encoder": _encoder(),
        "decoder_start": _decoder(reads_source=True, begins=True),
        "decoder": _decoder(reads_source=True),
    }
    return _package(folder, "encoder-decoder", programs)


def _package(folder: Path, family: str, programs: dict[str, GraphBuilder]) -> Path:
    folder.mkdir()
    for name, g in programs.items():
        write_graph(g.finish(name), folder / f"{name}.onnx")
    (folder / "tokenizer.json").write_text(tiny_tokenizer(VOCAB), encoding="utf-8")
    Manifest(
        family=family,
        task="text-generation" if family == "decoder" else "text-to-text",
        architecture="toy",
        programs={name: f"{name}.onnx" for name in programs},
        cache=CACHE,
        encoder=None if family == "decoder" else EncoderFacts(SIZE, 0, token_types=False),
        context_length=LONGEST,
        vocab_size=VOCAB,
        parameters=1,
        device="cpu",
        precision="fp32",
        recipe={},
        source={},
        files=digests(folder),
        generation={"eos_token_id": 2, "decoder_start_token_id": 1},
        quality={},
        versions={},
        exporter=OPTIMUM,
    ).save(folder)
    return folder


def _builder(*ports: tuple[str, str, tuple[int | str, ...]]) -> GraphBuilder:
    g = GraphBuilder(EMPTY, Recipe("fp32", ()), PROVIDERS["cpu"], EMPTY)
    g.declare(Port(*port) for port in ports)
    return g


def _encoder(output: str = signature.ENCODER_HIDDEN_STATES) -> GraphBuilder:
    g = _builder(*((name, "int64", ("batch", "sequence")) for name in (signature.INPUT_IDS, signature.ATTENTION_MASK)))
    x = g.op("Gather", g.constant(_SOURCES), g.input(signature.INPUT_IDS))
    g.output(Port(output, "float32", ("batch", "sequence", SIZE)), x)
    return g


def _decoder(*, reads_source: bool, begins: bool = False, theirs: bool = False) -> GraphBuilder:
    of, crossed = (".decoder" if reads_source else "", "past_key_values.0.encoder") if theirs else ("", "")
    past = {kind: f"past_key_values.0{of}.{kind}" for kind in signature.KINDS}
    present = {kind: f"present.0{of}.{kind}" for kind in signature.KINDS}
    cross = {kind: f"{crossed}.{kind}" if crossed else signature.cross(0, kind) for kind in signature.KINDS}
    if theirs and begins:
        cross = {kind: f"present.0.encoder.{kind}" for kind in signature.KINDS}
    cache = ("batch", HEADS, "past", HEAD_DIM)
    ports: list[tuple[str, str, tuple[int | str, ...]]] = [(signature.INPUT_IDS, "int64", ("batch", "sequence"))]
    if not begins:
        ports += [(name, "int64", ("batch", name)) for name in (signature.ATTENTION_MASK, signature.POSITION_IDS)]
        ports += [(name, "float32", cache) for name in past.values()]
    if not theirs:
        ports.append((signature.LOGITS_INDEX, "int64", ("batch", "n")))
    if reads_source:
        ports.append((signature.ENCODER_ATTENTION_MASK, "int64", ("batch", "source")))
    if begins:
        ports.append((signature.ENCODER_HIDDEN_STATES, "float32", ("batch", "source", SIZE)))
    elif reads_source:
        ports += [(name, "float32", ("batch", HEADS, "source", HEAD_DIM)) for name in cross.values()]
    g = _builder(*ports)
    ids = g.input(signature.INPUT_IDS)
    length = g.op("Squeeze", g.op("Shape", ids, start=1, end=2))
    positions = g.op("Range", _number(g, 0), length, _number(g, 1)) if begins else g.input(signature.POSITION_IDS)
    rows = g.op("Gather", g.constant(_POSITIONS), positions)
    x = g.op("Add", g.op("Gather", g.constant(_TOKENS), ids), rows)
    new = _heads(g, x)
    seen = new if begins else g.op("Concat", g.input(past["key"]), new, axis=2)
    for name in present.values():  # both are the same here
        g.output(Port(name, "float32", cache), g.op("Identity", seen))
    total = g.op("Squeeze", g.op("Shape", seen, start=2, end=3))
    columns = g.op("Range", _number(g, 0), total, _number(g, 1))
    own = g.op("Add", g.op("Range", _number(g, 0), length, _number(g, 1)), g.op("Sub", total, length))
    later = g.op("Greater", columns, g.op("Unsqueeze", own, g.constant(np.array([1], np.int64))))
    x = g.op("Add", x, _attended(g, new, seen, later))
    if reads_source:
        x = g.op("Add", x, _read_source(g, x, cross, begins=begins))
    if theirs:
        g.output(Port(signature.LOGITS, "float32", ("batch", "sequence", VOCAB)), g.op("MatMul", x, g.constant(_HEAD)))
        return g
    index = g.op("Unsqueeze", g.input(signature.LOGITS_INDEX), g.constant(np.array([-1], np.int64)))
    found = g.op("MatMul", g.op("GatherND", x, index, batch_dims=1), g.constant(_HEAD))
    g.output(signature.logits_port(VOCAB), found)
    return g


def _read_source(g: GraphBuilder, x: Any, cross: dict[str, str], *, begins: bool) -> Any:
    if begins:
        source = _heads(g, g.input(signature.ENCODER_HIDDEN_STATES))
        for name in cross.values():
            port = Port(name, "float32", ("batch", HEADS, "source", HEAD_DIM))
            g.output(port, g.op("Identity", source))
    else:
        source = g.input(cross["key"])
    mask = g.op("Unsqueeze", g.input(signature.ENCODER_ATTENTION_MASK), g.constant(np.array([1, 2], np.int64)))
    return _attended(g, _heads(g, x), source, g.op("Equal", mask, _number(g, 0)))


def _heads(g: GraphBuilder, x: Any) -> Any:
    """[batch, length, SIZE] -> [batch, HEADS, length, HEAD_DIM]."""
    apart = g.op("Reshape", x, g.constant(np.array([0, 0, HEADS, HEAD_DIM], np.int64)))
    return g.op("Transpose", apart, perm=[0, 2, 1, 3])


def _attended(g: GraphBuilder, q: Any, k: Any, hidden: Any) -> Any:
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = g.op("Where", hidden, g.constant(np.array(-1e9, np.float32)), scores)
    mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), k), perm=[0, 2, 1, 3])
    return g.op("Reshape", mixed, g.constant(np.array([0, 0, SIZE], np.int64)))


def _number(g: GraphBuilder, number: int) -> Any:
    return cast(Any, g.constant(np.array(number, np.int64)))
