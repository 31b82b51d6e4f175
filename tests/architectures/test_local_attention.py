"""Attention within a window: block by block it is the same as over the whole text with a mask, and sees nothing beyond."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgelm import signature
from edgelm.providers import PROVIDERS
from edgelm.signature import Port
from edgelm_export.architectures import REGISTRY
from edgelm_export.assemble import Plan
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.local_attention import local_attention, local_blocks
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.recipe import preset
from edgelm_export.read_config import read_config
from edgelm_export.weights import Weights
from tests.architectures.running import FLOAT_TOLERANCE, distance

Array = NDArray[Any]

HEADS, HEAD_DIM = 2, 6
RAW = {
    "model_type": "modernbert",
    "vocab_size": 100,
    "hidden_size": HEADS * HEAD_DIM,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 4096,
}


def session(reach: int) -> onnxruntime.InferenceSession:
    """The blocks alone: query, key and value in, what was attended to out."""
    checkpoint = Checkpoint("hf", RAW, {}, {}, (Path("config.json"),), dict)
    architecture = REGISTRY["modernbert"]
    c = read_config(checkpoint, architecture.model_types["modernbert"], architecture.read_config)
    g = GraphBuilder(Weights(checkpoint, {}, {}), preset("fp32", 1), PROVIDERS["cpu"], Plan())
    g.declare(signature.encoder_inputs(token_types=False, positions=False))
    g.declare(Port(name, "float32", ("batch", "sequence", c.query_size)) for name in "qkv")
    tokens = Tokens(g.input(signature.INPUT_IDS), g.input(signature.ATTENTION_MASK), None)
    blocks = local_blocks(g, tokens, reach)
    attended = local_attention(g, (g.input("q"), g.input("k"), g.input("v")), blocks, replace(c, qkv_bias=False))
    g.output(Port("attended", "float32", ("batch", "sequence", c.query_size)), attended)
    return onnxruntime.InferenceSession(ir.to_proto(g.finish("local")).SerializeToString())


def feeds(lengths: tuple[int, ...], seed: int = 0) -> dict[str, Array]:
    """Ragged texts; what stands at padding is large, so that it shows where it is read."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    large = np.where(mask, 1.0, 30.0)[..., None]
    vectors = {name: (rng.normal(size=(*shape, HEADS * HEAD_DIM)) * large).astype(np.float32) for name in "qkv"}
    return {signature.INPUT_IDS: mask * 5, signature.ATTENTION_MASK: mask, **vectors}


def expected(given: dict[str, Array], reach: int) -> Array:
    """The same in float64, with the whole matrix of scores."""
    heads = {n: given[n].reshape(*given[n].shape[:2], HEADS, HEAD_DIM).astype(np.float64) for n in "qkv"}
    places = np.arange(given["q"].shape[1])
    near = np.abs(places[:, None] - places) <= reach
    seen = near & given[signature.ATTENTION_MASK].astype(bool)[:, None, None, :]
    scores = np.einsum("bind,bjnd->bnij", heads["q"], heads["k"]) / np.sqrt(HEAD_DIM)
    scores = np.where(seen, scores, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * seen
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    return np.einsum("bnij,bjnd->bind", weights, heads["v"]).reshape(given["q"].shape)


@pytest.mark.parametrize("reach", [0, 1, 5, 64, 70, 300])
def test_blocks_are_equal_to_a_mask_over_everything(reach: int) -> None:
    run = session(reach)
    block = max(reach, 64)
    edge = block + 2 * reach  # the longest text that is one block
    for lengths in ((1,), (3, 1, 9), (edge, 2), (edge + 1, edge), (2 * block, block), (3 * block + 7, block + 1)):
        given = feeds(lengths, seed=edge)
        tokens = given[signature.ATTENTION_MASK].astype(bool)
        found = np.asarray(run.run(["attended"], given)[0])
        assert distance(found[tokens], expected(given, reach)[tokens]) < FLOAT_TOLERANCE


@pytest.mark.parametrize("length", [50, 400])
def test_nothing_beyond_the_window_is_seen(length: int) -> None:
    reach, place = 7, 30
    run, given = session(reach), feeds((length,))
    before = np.asarray(run.run(["attended"], given)[0])
    for name in "kv":
        given[name][0, place] = 1e6
    moved = np.abs(np.asarray(run.run(["attended"], given)[0]) - before).max(-1)[0]
    assert not moved[: place - reach].any()
    assert not moved[place + reach + 1 :].any()
    assert (moved[place - reach : place + reach + 1] > 0).any()


def test_the_last_block_of_a_long_text_is_equal_too() -> None:
    given = feeds((4001,))
    found = np.asarray(session(8).run(["attended"], given)[0])
    tail = {name: values[:, -64 - 8 :] for name, values in given.items()}
    assert distance(found[:, -64:], expected(tail, 8)[:, -64:]) < FLOAT_TOLERANCE
