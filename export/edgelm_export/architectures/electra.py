"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): BERT with narrower embeddings, a generator's head and a discriminator's."""

from __future__ import annotations

from edgelm import signature
from edgelm.tasks import FILL_MASK, REPLACED_TOKEN_DETECTION, SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.bert import names
from edgelm_export.blocks.encoder import Tokens, embeddings, widened
from edgelm_export.blocks.encoder_heads import COMMON_HEADS, dense, masked_lm, pooled_classifier
from edgelm_export.blocks.encoder_layers import post_norm_layers
from edgelm_export.blocks.linear import linear
from edgelm_export.config import EncoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import Source, name_map
from edgelm_export.read_encoder_config import read_encoder_config
from edgelm_export.task import Task

HEADS = {
    "classifier": "classifier",
    "classifier_dense": "classifier.dense",
    "classifier_output": "classifier.out_proj",
    "qa_outputs": "qa_outputs",
    "mlm_dense": "generator_predictions.dense",
    "mlm_norm": "generator_predictions.LayerNorm",
    "mlm": "generator_lm_head",
    "lm_head": "generator_lm_head",
    "discriminator_dense": "discriminator_predictions.dense",
    "discriminator": "discriminator_predictions.dense_prediction",
}


def encoder(g: GraphBuilder, c: EncoderConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    return post_norm_layers(g, widened(g, embeddings(g, c, tokens), c), c, tokens)


def discriminator(g: GraphBuilder, x: Value, c: EncoderConfig, tokens: Tokens, task: Task) -> None:
    """For each token the logit of its having been replaced."""
    h = dense(g, x, "discriminator_dense", (c.hidden_size, c.hidden_size), c.hidden_act)
    logits = linear(g, h, {"discriminator": 1}, c.hidden_size, bias=True)
    g.output(signature.token_logits_port(1), logits)


ELECTRA = Architecture(
    family="electra",
    model_types={"electra": {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "embedding_size": 128}},
    read_config=read_encoder_config,
    names={"hf": lambda c: {**names("electra."), "embedding_projection": Source("electra.embeddings_project")}},
    encoder=encoder,
    heads={
        **COMMON_HEADS,
        SEQUENCE_CLASSIFICATION: pooled_classifier("classifier_dense", "gelu", "classifier_output"),
        FILL_MASK: masked_lm("gelu"),
        REPLACED_TOKEN_DETECTION: discriminator,
    },
    head_names=lambda c: name_map(HEADS),
    prefix="electra.",
    ignored={"*embeddings.position_ids": "counted in the graph"},
)
