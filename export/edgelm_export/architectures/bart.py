"""BART (Lewis et al. 2019, arXiv:1910.13461) and its kin: positions learned or sinusoidal, norms before or after each sum."""

from __future__ import annotations

from collections.abc import Callable

from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.attention import encoder_attention, plain_self_attention
from edgelm_export.blocks.cross import cross_attention, seq2seq_inputs
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.encoder_heads import PLAIN_HEADS
from edgelm_export.blocks.heads import seq2seq_output, side_embedding
from edgelm_export.blocks.mlp import mlp
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.blocks.positions import position_embeddings
from edgelm_export.config import BartConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, Source, name_map, per_layer
from edgelm_export.read_seq2seq_config import read_bart_config

LAYER = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.out_proj",
    "attn_norm": "self_attn_layer_norm",
    "up_proj": "fc1",
    "down_proj": "fc2",
    "mlp_norm": "final_layer_norm",
}
CROSS = {
    "cross.q_proj": "encoder_attn.q_proj",
    "cross.k_proj": "encoder_attn.k_proj",
    "cross.v_proj": "encoder_attn.v_proj",
    "cross.o_proj": "encoder_attn.out_proj",
    "cross_norm": "encoder_attn_layer_norm",
}
ENDS = {"position_embeddings": "embed_positions", "embedding_norm": "layernorm_embedding", "final_norm": "layer_norm"}


def names(c: BartConfig) -> NameMap:
    """Both sides are named alike; of tied tables a file may keep any."""
    own = {side: f"model.{side}.embed_tokens" for side in ("encoder", "decoder")}
    common = ["model.shared", *own.values()] if c.shared_embeddings else [own["decoder"]]
    common += ["lm_head"] if c.tie_word_embeddings else []
    table = {"lm_head": "lm_head", "embed_tokens": Source(common[0], also=tuple(common[1:]))}
    table["final_logits_bias"] = Source("final_logits_bias", leaf=False)
    for side, layer in (("encoder", LAYER), ("decoder", LAYER | CROSS)):
        table[f"{side}.embed_tokens"] = own[side]
        table |= {f"{side}.{name}": f"model.{side}.{source}" for name, source in ENDS.items()}
        table |= per_layer(f"model.{side}.layers.{{i}}.", layer, f"{side}.layers.{{i}}.")
    return name_map(table)


def encoder(g: GraphBuilder, c: BartConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, source, hidden_size] out."""
    x = side_embedding(g, tokens.ids, c, "encoder", c.embedding_scale)
    with g.at("encoder"):
        x = g.op("Add", x, position_embeddings(g, tokens.ids, c))
        x = _norm(g, x, "embedding_norm", c) if c.embedding_norm else x
        for i in range(c.num_hidden_layers):
            with g.at("layers", i):
                x = _sublayer(g, x, "attn_norm", c, lambda h: encoder_attention(g, h, c, tokens))
                x = _sublayer(g, x, "mlp_norm", c, lambda h: mlp(g, h, c))
        return _norm(g, x, "final_norm", c) if c.final_norm else x


def decoder(g: GraphBuilder, c: BartConfig) -> None:
    """Target ids, cache and the sources' keys and values in, logits and cache out."""
    (step, source), d = seq2seq_inputs(g, c), c.decoder
    ids = g.input("input_ids")
    # A norm takes a scale out again, but for its epsilon; transformers (4.57 and 5) has no scale there.
    x = side_embedding(g, ids, c, "decoder", 1.0 if c.norms_tokens_first else c.embedding_scale)
    with g.at("decoder"):
        x = _norm(g, x, "embedding_norm", c) if c.norms_tokens_first else x
        x = g.op("Add", x, position_embeddings(g, ids, c, step))
        x = _norm(g, x, "embedding_norm", c) if c.embedding_norm and not c.norms_tokens_first else x
        for i in range(d.num_hidden_layers):
            with g.at("layers", i):
                x = _sublayer(g, x, "attn_norm", c, lambda h, i=i: plain_self_attention(g, h, d, step, i))
                x = _sublayer(g, x, "cross_norm", c, lambda h, i=i: cross_attention(g, h, d, source, i))
                x = _sublayer(g, x, "mlp_norm", c, lambda h: mlp(g, h, d))
        x = _norm(g, x, "final_norm", c) if c.final_norm else x
    seq2seq_output(g, x, c)


def _sublayer(g: GraphBuilder, x: Value, norm: str, c: BartConfig, apply: Callable[[Value], Value]) -> Value:
    """A sum around attention or MLP, with its norm before or after."""
    if c.pre_norm:
        return g.op("Add", x, apply(_norm(g, x, norm, c)))
    return _norm(g, g.op("Add", x, apply(x)), norm, c)


def _norm(g: GraphBuilder, x: Value, name: str, c: BartConfig) -> Value:
    return layer_norm(g, x, name, c.hidden_size, c.layer_norm_eps)


_BART = {"positions": "learned", "position_offset": 2, "embedding_norm": True, "logits_bias": True}
PRE_NORM = {"pre_norm": True, "final_norm": True}

BART = Architecture(
    family="bart",
    model_types={
        "bart": _BART,
        "plbart": {**_BART, "scale_embedding": True},
        "mbart": {**_BART, **PRE_NORM},
        "blenderbot": {**PRE_NORM, "positions": "learned", "logits_bias": True},
        "blenderbot-small": {**_BART, "position_offset": 0, "norms_tokens_first": True},
    },
    read_config=read_bart_config,
    names={"hf": names},
    decoder=decoder,
    encoder=encoder,
    heads=PLAIN_HEADS,
    prefix="model.",
    seq2seq=True,
    ignored={"*shared.weight": "each side reads its own table", "*coder.version": "of fairseq"},
)
