"""BERT (Devlin et al. 2018, arXiv:1810.04805): learned positions, token types, post-norm layers."""

from __future__ import annotations

from edgelm.tasks import FILL_MASK, HIDDEN_STATES, SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.encoder import Tokens, embeddings
from edgelm_export.blocks.encoder_heads import COMMON_HEADS, masked_lm, pooled_classifier, pooler_output
from edgelm_export.blocks.encoder_layers import post_norm_layers
from edgelm_export.config import EncoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, name_map, per_layer
from edgelm_export.read_encoder_config import read_encoder_config

EMBEDDINGS = {
    "embed_tokens": "embeddings.word_embeddings",
    "position_embeddings": "embeddings.position_embeddings",
    "token_type_embeddings": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}

LAYER = {
    "q_proj": "attention.self.query",
    "k_proj": "attention.self.key",
    "v_proj": "attention.self.value",
    "o_proj": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "up_proj": "intermediate.dense",
    "down_proj": "output.dense",
    "mlp_norm": "output.LayerNorm",
}

HEADS = {
    "pooler": "bert.pooler.dense",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
    "mlm_dense": "cls.predictions.transform.dense",
    "mlm_norm": "cls.predictions.transform.LayerNorm",
    "mlm": "cls.predictions",
    "lm_head": "cls.predictions.decoder",
    "next_sentence": "cls.seq_relationship",
}


def names(prefix: str) -> NameMap:
    """The names of everything but heads, which families close to BERT keep behind their own prefix."""
    outside = {name: prefix + source for name, source in EMBEDDINGS.items()}
    return name_map(outside | per_layer(prefix + "encoder.layer.{i}.", LAYER))


def encoder(g: GraphBuilder, c: EncoderConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    return post_norm_layers(g, embeddings(g, c, tokens), c, tokens)


BERT = Architecture(
    family="bert",
    model_types={"bert": {"layer_norm_eps": 1e-12, "type_vocab_size": 2}},
    read_config=read_encoder_config,
    names={"hf": lambda c: names("bert.")},
    encoder=encoder,
    heads={
        **COMMON_HEADS,
        HIDDEN_STATES: pooler_output("tanh"),
        SEQUENCE_CLASSIFICATION: pooled_classifier("pooler", "tanh"),
        FILL_MASK: masked_lm(),
    },
    head_names=lambda c: name_map(HEADS),
    prefix="bert.",
    ignored={"*embeddings.position_ids": "counted in the graph"},
)
