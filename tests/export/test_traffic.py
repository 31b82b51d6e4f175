from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.package import Package
from tests.runtime.encoders import encoder_config, write_encoder

GOLDENS = Path(__file__).parents[1] / "golden"


def exported(folder: Path, golden: str, **changes: object) -> tuple[Package, dict[str, Any]]:
    """The fp32 package of a golden whose config says something else, and that config."""
    shutil.copytree(GOLDENS / golden, folder / "source")
    file = folder / "source" / "config.json"
    config = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps(config), encoding="utf-8")
    return edgelm.export(folder / "source", folder / "package", precision="fp32", verify=False), config


def read_share(package: Package) -> tuple[int, int]:
    """What a step reads, and the whole data file."""
    manifest = package.manifest
    assert manifest.weight_bytes_per_step is not None
    return manifest.weight_bytes_per_step, manifest.files["decoder.onnx.data"]["size"]


# Tensors begin at multiples of 64 bytes.
GAPS = 64 * 60


def test_a_table_that_is_only_looked_up_does_not_count(tmp_path: Path) -> None:
    package, config = exported(tmp_path, "llama")
    assert not config["tie_word_embeddings"]
    read, size = read_share(package)
    table = config["vocab_size"] * config["hidden_size"] * 4
    assert size - table - GAPS < read <= size - table


def test_a_table_that_is_the_head_too_is_read_whole(tmp_path: Path) -> None:
    package, config = exported(tmp_path, "gpt2")
    assert "tie_word_embeddings" not in config  # tied, by its type's default
    read, size = read_share(package)
    positions = config["n_positions"] * config["n_embd"] * 4
    assert size - positions - GAPS < read <= size - positions


def test_of_a_mixture_only_the_chosen_experts_count(tmp_path: Path) -> None:
    reads: list[int] = []
    for chosen in (1, 3):
        package, config = exported(tmp_path / str(chosen), "mixtral", num_experts_per_tok=chosen)
        reads.append(read_share(package)[0])
    width = -(-config["intermediate_size"] // 16) * 16  # filled up to what kernels take
    expert = 3 * config["hidden_size"] * width * 4
    assert reads[1] - reads[0] == pytest.approx(2 * expert * config["num_hidden_layers"], abs=8)


def test_an_encoder_has_no_steps(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "source", encoder_config())
    package = edgelm.export(source, tmp_path / "package", precision="fp32", verify=False)
    assert package.manifest.weight_bytes_per_step is None
