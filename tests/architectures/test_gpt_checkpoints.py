"""The GPT lineage: checkpoints as they were saved over the years, biases instead of positions, fused projections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelm.errors import UnusedWeights
from edgelm_export.blocks.alibi import alibi_slopes
from edgelm_export.transforms import groups_apart, heads_apart
from tests.architectures.decoder_configs import decoder_cases
from tests.architectures.random_checkpoints import Tensors, random_tensors, write_checkpoint
from tests.architectures.running import export_and_load

# Model type -> what its base class leaves out of names, and the buffers that releases before 4.30 saved.
OLD = {
    "gpt2": ("transformer.", ("h.0.attn.bias", "h.0.attn.masked_bias")),
    "gpt_neo": ("transformer.", ("h.0.attn.attention.bias", "h.0.attn.attention.masked_bias")),
    "gptj": ("transformer.", ("h.0.attn.bias", "h.0.attn.masked_bias")),
    "codegen": ("transformer.", ("h.0.attn.causal_mask",)),
    "gpt_neox": ("gpt_neox.", ("layers.0.attention.bias", "layers.0.attention.masked_bias")),
    "bloom": ("transformer.", ()),
    "opt": ("model.", ()),
}


@pytest.mark.parametrize("model_type", OLD)
@pytest.mark.parametrize("based", [False, True], ids=["with-prefix", "without-prefix"])
def test_old_spellings_and_buffers_change_nothing(model_type: str, based: bool, tmp_path: Path) -> None:
    config = decoder_cases(model_type, 6)[0].config
    tensors = random_tensors(config, seed=1)
    prefix, buffers = OLD[model_type]
    older: Tensors = {name.removeprefix(prefix if based else ""): values for name, values in tensors.items()}
    older |= {("" if based else prefix) + name: np.ones((1, 1, 4, 4), np.float32) for name in buffers}
    now = export_and_load(write_checkpoint(tmp_path / "now", config, tensors), tmp_path / "now-package")
    then = export_and_load(write_checkpoint(tmp_path / "then", config, older), tmp_path / "then-package")
    ids = list(range(3, 40))
    assert np.array_equal(then.logits(ids), now.logits(ids))


def test_gpt_neox_is_read_with_the_head_under_its_later_name(tmp_path: Path) -> None:
    config = {**decoder_cases("gpt_neox", 6)[0].config, "tie_word_embeddings": False}
    tensors = random_tensors(config, seed=1)
    later = {name.replace("embed_out", "lm_head"): values for name, values in tensors.items()}
    assert set(later) != set(tensors)
    first = export_and_load(write_checkpoint(tmp_path / "first", config, tensors), tmp_path / "first-package")
    second = export_and_load(write_checkpoint(tmp_path / "second", config, later), tmp_path / "second-package")
    assert np.array_equal(first.logits([5, 6, 7]), second.logits([5, 6, 7]))


def test_a_bias_that_the_architecture_has_no_place_for_is_no_mask(tmp_path: Path) -> None:
    config = decoder_cases("gptj", 6)[0].config
    tensors = random_tensors(config, seed=1)
    size = tensors["transformer.h.0.attn.q_proj.weight"].shape[0]
    more = {**tensors, "transformer.h.0.attn.q_proj.bias": np.ones(size, np.float32)}
    with pytest.raises(UnusedWeights, match="transformer.h.0.attn.q_proj.bias"):
        export_and_load(write_checkpoint(tmp_path / "checkpoint", config, more), tmp_path / "package")


# The paper's own sequences: 8 heads, and 6, for which those of 4 heads come first and then every other one of 8.
def test_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8, 8.0).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(6, 8.0).tolist() == [2.0**-n for n in (2, 4, 6, 8, 1, 3)]
    assert alibi_slopes(1, 8.0).tolist() == [2.0**-8]
    assert alibi_slopes(2, 16.0).tolist() == [2.0**-8, 2.0**-16]


def test_groups_come_apart() -> None:
    rows = np.arange(8, dtype=np.float32)  # q q k v | q q k v
    assert groups_apart(4, 2)(rows).tolist() == [0, 1, 4, 5, 2, 6, 3, 7]
    assert heads_apart(2)(rows[:6]).tolist() == [0, 3, 1, 4, 2, 5]
    assert groups_apart(2, 1)(np.stack([rows[:4]] * 3, axis=1))[:, 0].tolist() == [0, 1, 2, 3]
