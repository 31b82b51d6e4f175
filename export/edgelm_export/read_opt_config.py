"""Raw keys of OPT in, GptConfig out."""

from __future__ import annotations

from edgelm_export.config import GptConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_gpt_config import gpt_values

# The first rows of the table of positions stand for none, as in BART.
_POSITION_OFFSET = 2


def read_opt_config(reader: ConfigReader) -> GptConfig:
    """The config of an OPT or a Galactica; problems are left with the reader."""
    biased, weighted = reader.flag("enable_bias", True), reader.flag("layer_norm_elementwise_affine", True)
    for name in ("attention_bias", "mlp_bias"):
        reader.assume(name, biased)
    reader.require("scale_embeddings", False)
    reader.require("learned_embeddings", True)
    values = gpt_values(reader, rotary=False)
    pre_norm = reader.flag("do_layer_norm_before", True)
    own = {
        "layer": "pre-norm" if pre_norm else "post-norm",
        "norm_parts": ("weight", "bias") if weighted else (),
        # The key is of checkpoints fine-tuned before transformers 4.20.
        "final_norm": pre_norm and not reader.flag("_remove_final_layer_norm"),
        "embedding_size": reader.size("word_embed_proj_dim", values["hidden_size"]),
        "max_position_embeddings": reader.size("max_position_embeddings"),
        "position_offset": _POSITION_OFFSET,
    }
    return GptConfig(**{**values, **own})
