"""MPNet (Song et al. 2020, arXiv:2004.09297): RoBERTa with a relative position bias that all layers share, without token types."""

from __future__ import annotations

from edgelm.tasks import FILL_MASK, HIDDEN_STATES, SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.encoder import Tokens, embeddings, offset_positions, sequence_positions
from edgelm_export.blocks.encoder_heads import COMMON_HEADS, masked_lm, pooled_classifier, pooler_output
from edgelm_export.blocks.encoder_layers import post_norm_layers
from edgelm_export.blocks.relative_bias import Buckets, relative_bias
from edgelm_export.config import EncoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import name_map, per_layer
from edgelm_export.read_encoder_config import read_mpnet_config

HF = {
    "embed_tokens": "mpnet.embeddings.word_embeddings",
    "position_embeddings": "mpnet.embeddings.position_embeddings",
    "embedding_norm": "mpnet.embeddings.LayerNorm",
    "relative_bias": "mpnet.encoder.relative_attention_bias",
} | per_layer(
    "mpnet.encoder.layer.{i}.",
    {
        "q_proj": "attention.attn.q",
        "k_proj": "attention.attn.k",
        "v_proj": "attention.attn.v",
        "o_proj": "attention.attn.o",
        "attn_norm": "attention.LayerNorm",
        "up_proj": "intermediate.dense",
        "down_proj": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
)

HEADS = {
    "pooler": "mpnet.pooler.dense",
    "classifier": "classifier",
    "classifier_dense": "classifier.dense",
    "classifier_output": "classifier.out_proj",
    "qa_outputs": "qa_outputs",
    "mlm_dense": "lm_head.dense",
    "mlm_norm": "lm_head.layer_norm",
    "mlm": "lm_head",
    "lm_head": "lm_head.decoder",
}

# Fixed in transformers' MPNet, whatever pad_token_id and relative_attention_num_buckets say.
PADDING = 1
BUCKETS = Buckets(32, 128, bidirectional=True)


def encoder(g: GraphBuilder, c: EncoderConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    x = embeddings(g, c, tokens, offset_positions(g, tokens.ids, PADDING))
    table, positions = (c.relative_attention_num_buckets, c.num_attention_heads), sequence_positions(g, tokens.ids)
    bias = relative_bias(g, "relative_bias", table, BUCKETS, positions, positions)
    return post_norm_layers(g, x, c, tokens, bias)


MPNET = Architecture(
    family="mpnet",
    model_types={"mpnet": {"layer_norm_eps": 1e-12, "pad_token_id": PADDING, "position_offset": PADDING + 1}},
    read_config=read_mpnet_config,
    names={"hf": lambda c: name_map(HF)},
    encoder=encoder,
    heads={
        **COMMON_HEADS,
        HIDDEN_STATES: pooler_output("tanh"),
        SEQUENCE_CLASSIFICATION: pooled_classifier("classifier_dense", "tanh", "classifier_output"),
        FILL_MASK: masked_lm("gelu"),
    },
    head_names=lambda c: name_map(HEADS),
    prefix="mpnet.",
    ignored={"*embeddings.position_ids": "counted in the graph"},
)
