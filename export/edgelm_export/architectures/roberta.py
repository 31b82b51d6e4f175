"""RoBERTa (Liu et al. 2019, arXiv:1907.11692) and its multilingual and French kin: BERT with positions that pass padding over."""

from __future__ import annotations

from edgelm.tasks import FILL_MASK, HIDDEN_STATES, SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.bert import names
from edgelm_export.blocks.encoder import Tokens, embeddings, offset_positions
from edgelm_export.blocks.encoder_heads import COMMON_HEADS, masked_lm, pooled_classifier, pooler_output
from edgelm_export.blocks.encoder_layers import post_norm_layers
from edgelm_export.config import EncoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import name_map
from edgelm_export.read_encoder_config import read_encoder_config

HEADS = {
    "pooler": "roberta.pooler.dense",
    "classifier": "classifier",
    "classifier_dense": "classifier.dense",
    "classifier_output": "classifier.out_proj",
    "qa_outputs": "qa_outputs",
    "mlm_dense": "lm_head.dense",
    "mlm_norm": "lm_head.layer_norm",
    "mlm": "lm_head",
    "lm_head": "lm_head.decoder",
}

FACTS = {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": 1, "positions_after_padding": True}


def encoder(g: GraphBuilder, c: EncoderConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    positions = offset_positions(g, tokens.ids, c.pad_token_id)
    return post_norm_layers(g, embeddings(g, c, tokens, positions), c, tokens)


ROBERTA = Architecture(
    family="roberta",
    model_types={"roberta": FACTS, "xlm-roberta": FACTS, "camembert": FACTS},
    read_config=read_encoder_config,
    names={"hf": lambda c: names("roberta.")},
    encoder=encoder,
    heads={
        **COMMON_HEADS,
        HIDDEN_STATES: pooler_output("tanh"),
        SEQUENCE_CLASSIFICATION: pooled_classifier("classifier_dense", "tanh", "classifier_output"),
        FILL_MASK: masked_lm("gelu"),
    },
    head_names=lambda c: name_map(HEADS),
    prefix="roberta.",
    ignored={"*embeddings.position_ids": "counted in the graph"},
)
