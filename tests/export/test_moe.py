"""Mixtures of experts equal plain numpy, with every way of routing and in every weight format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgelm.errors import MissingWeights, WrongShape
from edgelm.providers import PROVIDERS
from edgelm.signature import Port
from edgelm_export.assemble import Plan
from edgelm_export.blocks.moe import mixture_of_experts
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.config import ModelConfig, MoeConfig
from edgelm_export.graph import GraphBuilder, Store
from edgelm_export.names import Source, name_map
from edgelm_export.quantize.formats import find_format
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.weights import Weights
from edgelm_export.write import DataFile
from tests.export.moe_reference import mixture

Tensors = dict[str, NDArray[np.float32]]

PLAIN = MoeConfig(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=48)
ROUTINGS = {
    "softmax, normalized": PLAIN,
    "softmax": replace(PLAIN, norm_topk_prob=False),
    "one expert": replace(PLAIN, num_experts_per_tok=1, norm_topk_prob=False),
    "all experts": replace(PLAIN, num_experts_per_tok=8, norm_topk_prob=False),
    "sigmoid": replace(PLAIN, scoring_func="sigmoid", norm_topk_prob=False),
    "sigmoid, normalized, scaled": replace(PLAIN, scoring_func="sigmoid", routed_scaling_factor=2.5),
    "sigmoid with correction": replace(PLAIN, scoring_func="sigmoid", score_correction=True),
    "softmax with correction": replace(PLAIN, score_correction=True),
    "best groups by their best expert": replace(PLAIN, n_group=4, topk_group=2, norm_topk_prob=False),
    "best groups by their best two": replace(
        PLAIN, scoring_func="sigmoid", score_correction=True, n_group=4, topk_group=2, group_score="top2"
    ),
    "sparse mixer": replace(PLAIN, scoring_func="sparsemixer", num_experts_per_tok=2, router_jitter_noise=0.2),
    "biases and clamps": replace(
        PLAIN, router_bias=True, expert_bias=True, swiglu_alpha=1.702, swiglu_beta=1.0, swiglu_limit=0.7
    ),
    "shared expert": replace(PLAIN, shared_intermediate_size=40),
    "shared expert with a gate": replace(PLAIN, shared_intermediate_size=40, shared_gate=True),
}


def model_config(hidden_size: int) -> ModelConfig:
    return ModelConfig(
        model_type="test",
        vocab_size=1,
        hidden_size=hidden_size,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=1,
        context_length=1,
        hidden_act="silu",
        pad_token_id=0,
        tie_word_embeddings=False,
        qkv_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
    )


def random_tensors(m: MoeConfig, hidden: int, seed: int = 0) -> Tensors:
    """Canonical tensors of one layer; each part moves the result."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 1.5 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.3, shape).astype(np.float32)

    tensors = {"router.weight": drawn(m.num_experts, hidden)}
    if m.router_bias:
        tensors["router.bias"] = drawn(m.num_experts)
    if m.score_correction:
        tensors["router_correction.bias"] = drawn(m.num_experts)
    names = {f"experts.{e}": m.moe_intermediate_size for e in range(m.num_experts)}
    if m.shared_intermediate_size:
        names["shared"] = m.shared_intermediate_size
    if m.shared_gate:
        tensors["shared_gate.weight"] = drawn(1, hidden)
    for name, inner in names.items():
        for leaf, shape in (
            ("gate_proj", (inner, hidden)),
            ("up_proj", (inner, hidden)),
            ("down_proj", (hidden, inner)),
        ):
            tensors[f"{name}.{leaf}.weight"] = drawn(*shape)
            if m.expert_bias and name != "shared":
                tensors[f"{name}.{leaf}.bias"] = drawn(shape[0])
    return tensors


def lazy(name: str, values: NDArray[np.float32]) -> LazyTensor:
    return LazyTensor(name, "float32", values.shape, lambda start, stop: values[start:stop])


def module_names(tensors: Mapping[str, Any]) -> dict[str, Source]:
    return dict(name_map({(module := name.rsplit(".", 1)[0]): module for name in tensors}))


def build(
    x_shape: tuple[int, ...],
    m: MoeConfig,
    tensors: Tensors,
    store: Store,
    form: str = "float32",
    names: Mapping[str, Source] | None = None,
) -> ir.Model:
    """A graph of the block as layer 3; names and tensors are those of the layer."""
    checkpoint = Checkpoint(
        "hf", {}, {}, {name: lazy(name, values) for name, values in tensors.items()}, (Path("c"),), dict
    )
    table = {f"layers.{{i}}.{name}": source for name, source in (names or module_names(tensors)).items()}
    weights = Weights(checkpoint, table, {})
    g = GraphBuilder(weights, Recipe("test", (("*.experts", form), ("*", "float32"))), PROVIDERS["cpu"], store)
    port = Port("x", "float32", ("batch", "sequence", x_shape[-1]))
    g.declare([port])
    with g.at("layers", 3):
        y = mixture_of_experts(g, g.input("x"), model_config(x_shape[-1]), m)
    g.output(replace(port, name="y"), y)
    weights.finish()
    return g.finish("m")


def run(folder: Path, x: NDArray[np.float32], m: MoeConfig, tensors: Tensors, *form_and_names: Any) -> Any:
    """x [batch, sequence, hidden] through the block, as ONNX Runtime computes it."""
    store = DataFile(folder / "m.onnx.data")
    model = build(x.shape, m, tensors, store, *form_and_names)
    store.close()
    (folder / "m.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    session = onnxruntime.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def states(batch: int = 2, sequence: int = 9, hidden: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (batch, sequence, hidden)).astype(np.float32)


def expected(x: NDArray[np.float32], tensors: Tensors, m: MoeConfig) -> NDArray[np.floating]:
    tokens = x.reshape(-1, x.shape[-1]).astype(np.float64)
    return mixture(tokens, tensors, m).reshape(x.shape)


def error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def rounded(tensors: Tensors, form: str, block_size: int) -> Tensors:
    """What is stored of the experts."""
    exact = find_format(form.replace("b32", f"b{block_size}").replace("affine", "asym"))
    result = dict(tensors)
    for name, values in tensors.items():
        if name.startswith("experts.") and name.endswith("weight"):
            padded = np.pad(values, ((0, 0), (0, -values.shape[1] % block_size)))
            result[name] = exact.dequantize(exact.quantize(padded), values.shape[1])
    return result


@pytest.mark.parametrize("name", ROUTINGS)
def test_float_experts_are_exact_with_every_routing(tmp_path: Path, name: str) -> None:
    m = ROUTINGS[name]
    tensors = random_tensors(m, 64)
    assert error(run(tmp_path, states(), m, tensors), expected(states(), tensors, m)) < 2e-6


@pytest.mark.parametrize("name", ROUTINGS)
def test_int8_experts_are_close_with_every_routing(tmp_path: Path, name: str) -> None:
    m = ROUTINGS[name]
    tensors = random_tensors(m, 64)
    wanted = expected(states(), rounded(tensors, "int8-b32", 32), m)
    assert error(run(tmp_path, states(), m, tensors, "int8-b32"), wanted) < 0.02


@pytest.mark.parametrize("form", ["int4-b32", "int4-b32-asym", "int4-b32-affine", "int8-b32"])
@pytest.mark.parametrize(("hidden", "inner"), [(64, 96), (64, 48), (40, 50), (64, 50)])
def test_blocks_equal_what_they_stand_for(tmp_path: Path, form: str, hidden: int, inner: int) -> None:
    # Widths that are no multiples of what the kernels take are filled up. Only the kernel's rounding of its input is left.
    m = replace(PLAIN, moe_intermediate_size=inner, scoring_func="sigmoid", expert_bias=True)
    x, tensors = states(hidden=hidden), random_tensors(m, hidden)
    wanted = expected(x, rounded(tensors, form, 32), m)
    assert error(run(tmp_path, x, m, tensors, form), wanted) < 0.02


def test_blocks_of_128_are_used_where_they_divide(tmp_path: Path) -> None:
    m = replace(PLAIN, moe_intermediate_size=128)
    x, tensors = states(hidden=256), random_tensors(m, 256)
    run(tmp_path, x, m, tensors, "int8-b128")
    model = ir.load(tmp_path / "m.onnx")
    node = next(node for node in model.graph if node.op_type == "QMoE")
    assert node.attributes["block_size"].as_int() == 128


def test_half_precision_experts_are_close(tmp_path: Path) -> None:
    tensors = random_tensors(PLAIN, 64)
    assert error(run(tmp_path, states(), PLAIN, tensors, "float16"), expected(states(), tensors, PLAIN)) < 2e-3
    assert (tmp_path / "m.onnx.data").stat().st_size < 8 * 3 * 64 * 48 * 2 + 8 * 64 * 4 + 4096


@pytest.mark.parametrize("form", ["float32", "int4-b32", "int8-b32"])
def test_rows_of_a_batch_do_not_touch_each_other(tmp_path: Path, form: str) -> None:
    tensors = random_tensors(PLAIN, 64)
    whole = run(tmp_path, states(), PLAIN, tensors, form)
    for row in range(2):
        alone = run(tmp_path, states()[row : row + 1], PLAIN, tensors, form)
        np.testing.assert_allclose(whole[row : row + 1], alone, rtol=0, atol=2e-6)


def test_stacked_experts_are_read_one_by_one(tmp_path: Path) -> None:
    tensors = random_tensors(PLAIN, 64)
    stacked = {"router.weight": tensors["router.weight"]}
    names = {"router": Source("router")}
    for leaf in ("gate_proj", "up_proj", "down_proj"):
        stacked[f"{leaf}.weight"] = np.stack([tensors[f"experts.{e}.{leaf}.weight"] for e in range(8)])
        names[f"experts.{{e}}.{leaf}"] = Source(leaf, stacked=8)
    found = run(tmp_path, states(), PLAIN, stacked, "float32", names)
    assert error(found, expected(states(), tensors, PLAIN)) < 2e-6


def test_a_stack_of_another_height_is_named() -> None:
    tensors = random_tensors(PLAIN, 64)
    names = module_names(tensors) | {"experts.{e}.up_proj": Source("ups", stacked=8)}
    names = {name: source for name, source in names.items() if not re.fullmatch(r"experts\.\d\.up_proj", name)}
    tensors["ups.weight"] = np.zeros((7, 48, 64), np.float32)
    with pytest.raises(WrongShape, match=r"ups\.weight: \[7, 48, 64\] in the file, \[8, 48, 64\] by the config"):
        build((1, 1, 64), PLAIN, tensors, Plan(), "float32", names)


def test_an_expert_that_is_not_there_is_named() -> None:
    tensors = random_tensors(PLAIN, 64)
    names = module_names(tensors)
    del tensors["experts.5.up_proj.weight"]
    with pytest.raises(MissingWeights, match=r"experts\.5\.up_proj\.weight"):
        build((1, 1, 64), PLAIN, tensors, Plan(), "float32", names)
