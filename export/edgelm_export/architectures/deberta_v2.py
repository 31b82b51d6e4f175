"""DeBERTa of the second and third version (He et al. 2021, arXiv:2111.09543): log buckets, shared projections, a convolution."""

from __future__ import annotations

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.deberta import EMBEDDINGS, HEAD_FUNCTIONS, IGNORED, LAYER, embedded, head_names
from edgelm_export.blocks.convolution import token_convolution
from edgelm_export.blocks.disentangled import disentangled_attention, packed_queries, relative_positions
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.encoder_layers import post_norm_layer
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.config import DebertaConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, name_map, per_layer
from edgelm_export.read_deberta_config import read_deberta_v2_config

CONVOLUTION = {"conv": "deberta.encoder.conv.conv", "conv_norm": "deberta.encoder.conv.LayerNorm"}


def names(c: DebertaConfig) -> NameMap:
    """Canonical -> source module names; positions may go through the projections of content."""
    content = {"q_proj": "query_proj", "k_proj": "key_proj", "v_proj": "value_proj"}
    shared = {"pos_q_proj": "query_proj", "pos_k_proj": "key_proj"}
    position = shared if c.share_att_key else {"pos_q_proj": "pos_query_proj", "pos_k_proj": "pos_key_proj"}
    attention = {name: f"attention.self.{source}" for name, source in (content | position).items()}
    return name_map(EMBEDDINGS | CONVOLUTION | per_layer("deberta.encoder.layer.{i}.", attention | LAYER))


def encoder(g: GraphBuilder, c: DebertaConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    first, relative = embedded(g, c, tokens), relative_positions(g, c, tokens)
    x = first
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            attended = disentangled_attention(g, packed_queries(g, x, c), c, tokens, relative)
            x = post_norm_layer(g, x, attended, c)
        if i == 0 and c.conv_kernel_size:
            x = g.op("Add", x, token_convolution(g, first, c, tokens))
            x = layer_norm(g, x, "conv_norm", c.hidden_size, c.layer_norm_eps)
    return x


DEBERTA_V2 = Architecture(
    family="deberta-v2",
    model_types={"deberta-v2": {"layer_norm_eps": 1e-7}},
    read_config=read_deberta_v2_config,
    names={"hf": names},
    encoder=encoder,
    heads=HEAD_FUNCTIONS,
    head_names=head_names,
    prefix="deberta.",
    ignored=IGNORED,
)
