"""OLMo 2 (arXiv:2501.00656), OLMo 3 and EXAONE 4 (2507.11407): Llama's layers with the norms behind attention and MLP."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgelm_export.architectures.llama import QWEN2
from edgelm_export.architectures.llama_kin import DECODER, PLAIN, WINDOWED
from edgelm_export.architectures.llama_names import hf_names
from edgelm_export.blocks.attention import HeadNorms, self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import gated_mlp
from edgelm_export.blocks.norm import head_norms, rms_norm, whole_norms
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap
from edgelm_export.read_olmo_config import read_exaone4_config, read_olmo2_config


def post_norm_names(c: DecoderConfig) -> NameMap:
    """There are norms behind attention and MLP only."""
    return hf_names(c, {"attn_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"})


def decoder(g: GraphBuilder, c: DecoderConfig, norms: HeadNorms) -> None:
    """Token ids and cache in, logits and cache out; `norms` are those of queries and keys."""
    attend = partial(self_attention, step=cache_inputs(g, c), norms=norms)
    x = decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = g.op("Add", x, _norm(g, attend(g, x, c, i=i), "attn_post_norm", c))
            x = g.op("Add", x, _norm(g, gated_mlp(g, x, c), "mlp_post_norm", c))
    decoder_output(g, _norm(g, x, "final_norm", c), c)


def _norm(g: GraphBuilder, x: Value, name: str, c: DecoderConfig) -> Value:
    return rms_norm(g, x, name, c.hidden_size, c.norm_eps)


# Of OLMo 3's rope_theta the releases of transformers do not assume the same, so its config has to say it.
OLMO2 = replace(
    DECODER,
    family="olmo2",
    model_types={
        "olmo2": PLAIN,
        "olmo3": {"hidden_act": "silu", "sliding_window": 4096, "sliding_window_pattern": 4},
    },
    names={"hf": post_norm_names, "gguf": QWEN2.names["gguf"]},
    read_config=read_olmo2_config,
    decoder=partial(decoder, norms=whole_norms),
)

EXAONE4 = replace(
    OLMO2,
    family="exaone4",
    model_types={"exaone4": WINDOWED | {"sliding_window": 4096, "sliding_window_pattern": 4}},
    read_config=read_exaone4_config,
    decoder=partial(decoder, norms=head_norms),
)
