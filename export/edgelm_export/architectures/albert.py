"""ALBERT (Lan et al. 2019, arXiv:1909.11942): BERT with narrower embeddings and layers that share their weights."""

from __future__ import annotations

from edgelm.tasks import FILL_MASK, HIDDEN_STATES, SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.attention import encoder_attention
from edgelm_export.blocks.encoder import Tokens, embeddings
from edgelm_export.blocks.encoder_heads import COMMON_HEADS, masked_lm, pooled_classifier, pooler_output
from edgelm_export.blocks.encoder_layers import post_norm_layer
from edgelm_export.blocks.linear import linear
from edgelm_export.config import AlbertConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, name_map
from edgelm_export.read_encoder_config import read_albert_config

OUTSIDE = {
    "embed_tokens": "albert.embeddings.word_embeddings",
    "position_embeddings": "albert.embeddings.position_embeddings",
    "token_type_embeddings": "albert.embeddings.token_type_embeddings",
    "embedding_norm": "albert.embeddings.LayerNorm",
    "embedding_projection": "albert.encoder.embedding_hidden_mapping_in",
}

LAYER = {
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "attention.dense",
    "attn_norm": "attention.LayerNorm",
    "up_proj": "ffn",
    "down_proj": "ffn_output",
    "mlp_norm": "full_layer_layer_norm",
}

HEADS = {
    "pooler": "albert.pooler",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
    "mlm_dense": "predictions.dense",
    "mlm_norm": "predictions.LayerNorm",
    "mlm": "predictions",
    "lm_head": "predictions.decoder",
    "sentence_order": "sop_classifier.classifier",
}


def names(c: AlbertConfig) -> NameMap:
    """Layer i of what is stored is inner layer i % inner_group_num of its group."""
    stored = dict(OUTSIDE)
    for i in range(c.num_hidden_groups * c.inner_group_num):
        group, inner = divmod(i, c.inner_group_num)
        layer = f"albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}"
        stored |= {f"layers.{i}.{name}": f"{layer}.{source}" for name, source in LAYER.items()}
    return name_map(stored)


def encoder(g: GraphBuilder, c: AlbertConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    x = linear(g, embeddings(g, c, tokens), {"embedding_projection": c.hidden_size}, c.embedding_size, bias=True)
    for i in range(c.num_hidden_layers):
        group = int(i / (c.num_hidden_layers / c.num_hidden_groups))  # rounded as transformers rounds it
        for inner in range(c.inner_group_num):
            with g.at("layers", group * c.inner_group_num + inner):
                x = post_norm_layer(g, x, encoder_attention(g, x, c, tokens), c)
    return x


ALBERT = Architecture(
    family="albert",
    model_types={"albert": {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "embedding_size": 128}},
    read_config=read_albert_config,
    names={"hf": names},
    encoder=encoder,
    heads={
        **COMMON_HEADS,
        HIDDEN_STATES: pooler_output("tanh"),
        SEQUENCE_CLASSIFICATION: pooled_classifier("pooler", "tanh"),
        FILL_MASK: masked_lm(),
    },
    head_names=lambda c: name_map(HEADS),
    prefix="albert.",
    ignored={"*embeddings.position_ids": "counted in the graph"},
)
