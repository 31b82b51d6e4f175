"""Checkpoints stored as integers: the values their codes stand for, bit for bit, and packages that keep the codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import edgelm
from edgelm.providers import PROVIDERS
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.quantize.formats import find_format
from edgelm_export.quantize.kept import stored_format
from edgelm_export.weights import Weight
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config, rope_keys
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load
from tests.export.integer_checkpoints import (
    Floats,
    Made,
    awq,
    awq_config,
    compressed,
    compressed_config,
    gptq,
    gptq_config,
    in_integers,
    mlx,
)
from tests.export.quantized_checkpoints import requantized

# Of the largest logit: what rounding the inputs of every projection to 8 bits does to a random model of two layers.
ACTIVATION_ROUNDING = 0.1
IDS = range(5, 45)


@dataclass(frozen=True)
class Case:
    """A way to store weights: its settings, its maker, and what the codes are kept in."""

    settings: Mapping[str, Any]
    make: Callable[[Floats], Made]
    kept: str
    key: str = "quantization_config"
    tables: bool = False


CASES = {
    "gptq-4": Case(gptq_config(4, 32), partial(gptq, bits=4, group_size=32, symmetric=True), "int4-b32"),
    "gptq-4-zeros": Case(
        gptq_config(4, 64, sym=False), partial(gptq, bits=4, group_size=64, symmetric=False), "int4-b64-asym"
    ),
    "gptq-4-order": Case(
        gptq_config(4, 32, desc_act=True),
        partial(gptq, bits=4, group_size=32, symmetric=True, ordered=True),
        "int4-b32",
    ),
    "gptq-4-order-zeros-v2": Case(
        gptq_config(4, 16, desc_act=True, sym=False, checkpoint_format="gptq_v2"),
        partial(gptq, bits=4, group_size=16, symmetric=False, ordered=True, version=2),
        "int4-b16-asym",
    ),
    "gptq-4-rows": Case(gptq_config(4, -1), partial(gptq, bits=4, group_size=None, symmetric=True), "int4-b64"),
    "gptq-2": Case(gptq_config(2, 64), partial(gptq, bits=2, group_size=64, symmetric=True), "int2-b64"),
    "gptq-2-zeros": Case(
        gptq_config(2, 32, sym=False), partial(gptq, bits=2, group_size=32, symmetric=False), "int4-b32-asym"
    ),
    "gptq-3-zeros": Case(
        gptq_config(3, 32, sym=False), partial(gptq, bits=3, group_size=32, symmetric=False), "int4-b32-asym"
    ),
    "gptq-8": Case(gptq_config(8, 32), partial(gptq, bits=8, group_size=32, symmetric=True), "int8-b32"),
    "awq": Case(awq_config(), partial(awq, group_size=32), "int4-b32-asym"),
    "compressed-4": Case(
        compressed_config(4, "group", 32), partial(compressed, bits=4, strategy="group", group_size=32), "int4-b32"
    ),
    "compressed-4-zeros": Case(
        compressed_config(4, "group", 32, symmetric=False),
        partial(compressed, bits=4, strategy="group", group_size=32, symmetric=False),
        "int4-b32-asym",
    ),
    "compressed-4-order": Case(
        compressed_config(4, "group", 32, actorder="group"),
        partial(compressed, bits=4, strategy="group", group_size=32, ordered=True),
        "int4-b32",
    ),
    "compressed-8-rows": Case(
        compressed_config(8, "channel", form="int-quantized"),
        partial(compressed, bits=8, strategy="channel", packed=False),
        "int8-b64",
    ),
    "compressed-8-zeros": Case(
        compressed_config(8, "channel", symmetric=False, form="naive-quantized"),
        partial(compressed, bits=8, strategy="channel", symmetric=False, packed=False),
        "int8-b64-asym",
    ),
    "compressed-8-tensor": Case(
        compressed_config(8, "tensor", symmetric=False, form="int-quantized"),
        partial(compressed, bits=8, strategy="tensor", symmetric=False, packed=False),
        "int8-b64-asym",
    ),
    "compressed-4-rows-zeros": Case(
        compressed_config(4, "channel", symmetric=False),
        partial(compressed, bits=4, strategy="channel", symmetric=False),
        "int4-b64-asym",
    ),
    **{
        f"mlx-{bits}": Case(
            {"bits": bits, "group_size": 32}, partial(mlx, bits=bits, group_size=32), kept, "quantization", tables=True
        )
        for bits, kept in ((2, "int4-b32"), (3, "int4-b32"), (4, "int4-b32"), (6, "int8-b32"), (8, "int8-b32"))
    },
    "mlx-bfloat16": Case(
        {"bits": 4, "group_size": 64},
        partial(mlx, bits=4, group_size=64, dtype=ml_dtypes.bfloat16),
        "int4-b64",
        "quantization",
        tables=True,
    ),
}


@dataclass(frozen=True)
class Pair:
    """A checkpoint stored as integers, the same in float32, and the float32 model's logits."""

    stored: Path
    floats: Path
    logits: Floats


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def pair(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("integers")
    tied = {"tie_word_embeddings": True} if case.tables else {}
    config = base_config(
        "llama", hidden_size=64, intermediate_size=192, **rope_keys("default", 1e4, "rope_theta"), **tied
    )
    plain = write_checkpoint(folder / "plain", config, random_tensors(config, seed=3))
    stored, floats = in_integers(random_tensors(config, seed=3), case.make, tables=case.tables)
    written = requantized(plain, folder / "floats", None, floats)
    logits = export_and_load(written, folder / "float-package").logits(IDS)
    return Pair(requantized(plain, folder / "stored", case.settings, stored, case.key), written, logits)


def test_values_are_those_of_the_codes(pair: Pair) -> None:
    found, expected = open_checkpoint(pair.stored).tensors, open_checkpoint(pair.floats).tensors
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].read(), tensor.read(), err_msg=name)
        np.testing.assert_array_equal(found[name].read(3, 11), tensor.read(3, 11), err_msg=name)


def test_codes_are_kept_in_the_blocks_expected(case: Case, pair: Pair) -> None:
    tensor = open_checkpoint(pair.stored).tensors["model.layers.1.mlp.up_proj.weight"]
    form = stored_format(find_format("keep"), Weight("up", tensor.shape, tensor))
    assert form.name + ("" if form.symmetric else "-asym") == case.kept


def test_the_package_computes_with_the_values_of_the_codes(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROVIDERS, "cpu", replace(PROVIDERS["cpu"], accuracy_level=0))
    found = export_and_load(pair.stored, tmp_path / "out", "keep").logits(IDS)
    assert distance(found, pair.logits) < FLOAT_TOLERANCE


def test_what_remains_is_the_rounding_of_activations(pair: Pair, tmp_path: Path) -> None:
    found = export_and_load(pair.stored, tmp_path / "out", "keep").logits(IDS)
    assert FLOAT_TOLERANCE < distance(found, pair.logits) < ACTIVATION_ROUNDING


def test_integers_are_kept_unasked(tmp_path: Path) -> None:
    config = base_config("llama", hidden_size=64, intermediate_size=192, **rope_keys("default", 1e4, "rope_theta"))
    plain = write_checkpoint(tmp_path / "plain", config, random_tensors(config, seed=3))
    stored, _ = in_integers(random_tensors(config, seed=3), CASES["gptq-4"].make, tables=True)
    source = requantized(plain, tmp_path / "stored", CASES["gptq-4"].settings, stored)
    assert edgelm.export(source, tmp_path / "kept", verify=False).manifest.precision == "keep-fast"
    assert edgelm.export(plain, tmp_path / "rounded", verify=False).manifest.precision == "int4"
