"""T5 (Raffel et al. 2019, arXiv:1910.10683) and its kin: norms before each layer, no biases, unscaled attention, relative positions."""

from __future__ import annotations

from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.attention import encoder_attention, plain_self_attention
from edgelm_export.blocks.cross import cross_attention, seq2seq_inputs
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.encoder_heads import PLAIN_HEADS
from edgelm_export.blocks.heads import seq2seq_output
from edgelm_export.blocks.linear import embedding
from edgelm_export.blocks.mlp import gated_mlp, mlp
from edgelm_export.blocks.norm import rms_norm
from edgelm_export.blocks.relative_bias import Buckets, step_bias, text_bias
from edgelm_export.config import T5Config
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, Source, name_map, per_layer
from edgelm_export.read_t5_config import read_t5_config

TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")

ATTENTION = {
    "q_proj": "layer.0.SelfAttention.q",
    "k_proj": "layer.0.SelfAttention.k",
    "v_proj": "layer.0.SelfAttention.v",
    "o_proj": "layer.0.SelfAttention.o",
    "relative_bias": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
}
CROSS = {
    "cross.q_proj": "layer.1.EncDecAttention.q",
    "cross.k_proj": "layer.1.EncDecAttention.k",
    "cross.v_proj": "layer.1.EncDecAttention.v",
    "cross.o_proj": "layer.1.EncDecAttention.o",
    "cross_norm": "layer.1.layer_norm",
}
GATED = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
PLAIN = {"up_proj": "wi", "down_proj": "wo"}


def names(c: T5Config) -> NameMap:
    """One token table under any of its names; a head of its own where there is one, else that table."""
    tied = c.tie_word_embeddings
    table: dict[str, str | Source] = {
        "embed_tokens": Source(TABLES[0], also=(*TABLES[1:], "lm_head") if tied else TABLES[1:]),
        "lm_head": Source("lm_head", also=() if tied else TABLES),
    }
    for side, attention, last in (("encoder", ATTENTION, 1), ("decoder", ATTENTION | CROSS, 2)):
        dense = {
            name: f"layer.{last}.DenseReluDense.{source}" for name, source in (GATED if c.gated else PLAIN).items()
        }
        layer = attention | dense | {"mlp_norm": f"layer.{last}.layer_norm"}
        table[f"{side}.final_norm"] = f"{side}.final_layer_norm"
        table |= per_layer(f"{side}.block.{{i}}.", layer, f"{side}.layers.{{i}}.")
    return name_map(table)


def encoder(g: GraphBuilder, c: T5Config, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, source, hidden_size] out."""
    x, bias = embedding(g, tokens.ids, c), None
    buckets = Buckets(c.relative_attention_num_buckets, c.relative_attention_max_distance, bidirectional=True)
    with g.at("encoder"):
        for i in range(c.num_hidden_layers):
            with g.at("layers", i):
                if bias is None or c.bias_in_every_layer:
                    bias = text_bias(g, "relative_bias", c.num_attention_heads, buckets, tokens.ids)
                attended = encoder_attention(g, _norm(g, x, "attn_norm", c), c, tokens, bias, scale=1.0)
                x = _with_mlp(g, g.op("Add", x, attended), c)
        return _norm(g, x, "final_norm", c)


def decoder(g: GraphBuilder, c: T5Config) -> None:
    """Target ids, cache and the sources' keys and values in, logits and cache out."""
    (step, source), d = seq2seq_inputs(g, c), c.decoder
    ids = g.input("input_ids")
    x, bias = embedding(g, ids, c), None
    buckets = Buckets(c.relative_attention_num_buckets, c.relative_attention_max_distance, bidirectional=False)
    with g.at("decoder"):
        for i in range(d.num_hidden_layers):
            with g.at("layers", i):
                if bias is None or c.bias_in_every_layer:
                    bias = step_bias(g, "relative_bias", d.num_attention_heads, buckets, step, ids)
                h = _norm(g, x, "attn_norm", c)
                x = g.op("Add", x, plain_self_attention(g, h, d, step, i, bias=bias, scale=1.0))
                h = _norm(g, x, "cross_norm", c)
                x = g.op("Add", x, cross_attention(g, h, d, source, i, scale=1.0))
                x = _with_mlp(g, x, c)
        x = _norm(g, x, "final_norm", c)
    seq2seq_output(g, x, c)


def _with_mlp(g: GraphBuilder, x: Value, c: T5Config) -> Value:
    h = _norm(g, x, "mlp_norm", c)
    return g.op("Add", x, gated_mlp(g, h, c) if c.gated else mlp(g, h, c))


def _norm(g: GraphBuilder, x: Value, name: str, c: T5Config) -> Value:
    return rms_norm(g, x, name, c.hidden_size, c.layer_norm_eps)


T5 = Architecture(
    family="t5",
    model_types={
        "t5": {"feed_forward_proj": "relu"},
        "mt5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "scaled_by_transformers_5": False},
        "umt5": {"feed_forward_proj": "gated-gelu", "scaled_by_transformers_5": True, "bias_in_every_layer": True},
    },
    read_config=read_t5_config,
    names={"hf": names},
    decoder=decoder,
    encoder=encoder,
    heads=PLAIN_HEADS,
    seq2seq=True,
    ignored={
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": "cross attention has no positions"
    },
)
