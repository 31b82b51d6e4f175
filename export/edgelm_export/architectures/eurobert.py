"""EuroBERT (Boizard et al. 2025, arXiv:2503.05500): Llama's layers over whole texts, with the heads of an encoder."""

from __future__ import annotations

from edgelm import signature
from edgelm.tasks import FILL_MASK, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.llama import encoder
from edgelm_export.architectures.llama_names import hf_names
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.encoder_heads import PLAIN_HEADS, classifier, dense, token_classifier
from edgelm_export.blocks.heads import asked_positions
from edgelm_export.blocks.linear import lm_head
from edgelm_export.blocks.pooling import pooled_states
from edgelm_export.config import EuroBertConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import name_map
from edgelm_export.read_decoder_config import read_eurobert_config
from edgelm_export.task import Task


def masked_lm(g: GraphBuilder, x: Value, c: EuroBertConfig, tokens: Tokens, task: Task) -> None:
    """Logits over the vocabulary at the asked positions."""
    g.output(signature.logits_port(c.vocab_size), lm_head(g, asked_positions(g, x), c, bias=c.mlp_bias))


def pooled_classifier(g: GraphBuilder, x: Value, c: EuroBertConfig, tokens: Tokens, task: Task) -> None:
    """Logits of the first token's vector or of the mean of all; or, "late", the mean of all tokens' logits."""
    late = c.classifier_pooling == "late"
    h = x if late else pooled_states(g, x, tokens, c.classifier_pooling)
    h = dense(g, h, "dense", (c.hidden_size, c.hidden_size), "gelu")
    # A mean of logits is the logits of a mean: the last layer is linear.
    classifier(g, pooled_states(g, h, tokens, "mean") if late else h, c.hidden_size, task)


EUROBERT = Architecture(
    family="eurobert",
    model_types={"eurobert": {"rope_theta": 10000.0, "is_causal": False, "use_sliding_window": False}},
    read_config=read_eurobert_config,
    names={"hf": hf_names},
    encoder=encoder,
    heads={
        **PLAIN_HEADS,
        FILL_MASK: masked_lm,
        SEQUENCE_CLASSIFICATION: pooled_classifier,
        TOKEN_CLASSIFICATION: token_classifier,
    },
    head_names=lambda c: name_map({"dense": "dense", "classifier": "classifier"}),
    prefix="model.",
    ignored={"*.rotary_emb.inv_freq": "computed from rope_theta"},
)
