"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): BERT without token types and pooler."""

from __future__ import annotations

from edgelm.tasks import FILL_MASK, SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.encoder import Tokens, embeddings
from edgelm_export.blocks.encoder_heads import COMMON_HEADS, masked_lm, pooled_classifier
from edgelm_export.blocks.encoder_layers import post_norm_layers
from edgelm_export.config import EncoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import name_map, per_layer
from edgelm_export.read_encoder_config import read_distilbert_config

HF = {
    "embed_tokens": "distilbert.embeddings.word_embeddings",
    "position_embeddings": "distilbert.embeddings.position_embeddings",
    "embedding_norm": "distilbert.embeddings.LayerNorm",
} | per_layer(
    "distilbert.transformer.layer.{i}.",
    {
        "q_proj": "attention.q_lin",
        "k_proj": "attention.k_lin",
        "v_proj": "attention.v_lin",
        "o_proj": "attention.out_lin",
        "attn_norm": "sa_layer_norm",
        "up_proj": "ffn.lin1",
        "down_proj": "ffn.lin2",
        "mlp_norm": "output_layer_norm",
    },
)

HEADS = {
    "classifier_dense": "pre_classifier",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
    "mlm_dense": "vocab_transform",
    "mlm_norm": "vocab_layer_norm",
    "mlm": "vocab_projector",
    "lm_head": "vocab_projector",
}


def encoder(g: GraphBuilder, c: EncoderConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    return post_norm_layers(g, embeddings(g, c, tokens), c, tokens)


DISTILBERT = Architecture(
    family="distilbert",
    model_types={"distilbert": {"layer_norm_eps": 1e-12}},
    read_config=read_distilbert_config,
    names={"hf": lambda c: name_map(HF)},
    encoder=encoder,
    heads={
        **COMMON_HEADS,
        SEQUENCE_CLASSIFICATION: pooled_classifier("classifier_dense", "relu"),
        FILL_MASK: masked_lm(),
    },
    head_names=lambda c: name_map(HEADS),
    prefix="distilbert.",
    ignored={"*embeddings.position_ids": "counted in the graph"},
)
