"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): pre-norm, rotary positions, gated MLP, global and local layers in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgelm import signature
from edgelm.tasks import FILL_MASK, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.attention import global_rotary_attention, local_rotary_attention
from edgelm_export.blocks.encoder import Head, Tokens
from edgelm_export.blocks.encoder_heads import PLAIN_HEADS, classifier, dense, span_classifier, token_classifier
from edgelm_export.blocks.heads import asked_positions
from edgelm_export.blocks.linear import lookup, token_logits
from edgelm_export.blocks.local_attention import local_text
from edgelm_export.blocks.mlp import gated_mlp
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.blocks.pooling import pooled_states
from edgelm_export.blocks.rotary import whole_text
from edgelm_export.config import ModernBertConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, joined, name_map, per_layer
from edgelm_export.read_modernbert_config import read_modernbert_config
from edgelm_export.task import Task

HEADS = {
    "head_dense": "head.dense",
    "head_norm": "head.norm",
    "classifier": "classifier",
    "qa_outputs": "classifier",
    "mlm": "decoder",
    "lm_head": "decoder",
}


def hf_names(c: ModernBertConfig) -> NameMap:
    """Query, key and value are one module, and so are the gate and what it gates."""
    layer = {"attn_norm": "attn_norm", "o_proj": "attn.Wo", "mlp_norm": "mlp_norm", "down_proj": "mlp.Wo"}
    layer |= joined("attn.Wqkv", dict.fromkeys(("q_proj", "k_proj", "v_proj"), c.query_size))
    layer |= joined("mlp.Wi", dict.fromkeys(("gate_proj", "up_proj"), c.intermediate_size))
    table = {"embed_tokens": "model.embeddings.tok_embeddings", "embedding_norm": "model.embeddings.norm"}
    return name_map(table | {"final_norm": "model.final_norm"} | per_layer("model.layers.{i}.", layer))


def encoder(g: GraphBuilder, c: ModernBertConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out. The first layer reads the normed embeddings as they are."""
    attend = {reach: _attention(g, c, tokens, reach) for reach in dict.fromkeys(c.reaches)}
    x = _norm(g, lookup(g, tokens.ids, "embed_tokens", (c.vocab_size, c.hidden_size)), "embedding_norm", c)
    for i, reach in enumerate(c.reaches):
        with g.at("layers", i):
            x = g.op("Add", x, attend[reach](g, _norm(g, x, "attn_norm", c) if i else x, c))
            x = g.op("Add", x, gated_mlp(g, _norm(g, x, "mlp_norm", c), c))
    return _norm(g, x, "final_norm", c)


def _attention(g: GraphBuilder, c: ModernBertConfig, tokens: Tokens, reach: int | None) -> Callable[..., Value]:
    if reach is None:
        with g.at("global"):
            return partial(global_rotary_attention, text=whole_text(g, c, (c.global_rope,), tokens.mask), i=0)
    with g.at("local"):
        return partial(local_rotary_attention, text=local_text(g, c, c.local_rope, tokens, reach))


def _norm(g: GraphBuilder, x: Value, name: str, c: ModernBertConfig) -> Value:
    return layer_norm(g, x, name, c.hidden_size, c.layer_norm_eps, bias=c.norm_bias)


def _prediction(g: GraphBuilder, x: Value, c: ModernBertConfig) -> Value:
    """The layer that all heads begin with."""
    h = dense(g, x, "head_dense", (c.hidden_size, c.hidden_size), c.classifier_activation, bias=c.classifier_bias)
    return _norm(g, h, "head_norm", c)


def _predicted(head: Head) -> Head:
    return lambda g, x, c, tokens, task: head(g, _prediction(g, x, c), c, tokens, task)


def masked_lm(g: GraphBuilder, x: Value, c: ModernBertConfig, tokens: Tokens, task: Task) -> None:
    """Logits over the vocabulary at the asked positions."""
    h = _prediction(g, asked_positions(g, x), c)
    logits = token_logits(g, h, c, c.hidden_size, bias="mlm" if c.decoder_bias else None)
    g.output(signature.logits_port(c.vocab_size), logits)


def pooled_classifier(g: GraphBuilder, x: Value, c: ModernBertConfig, tokens: Tokens, task: Task) -> None:
    """Logits of the first token's vector or of the mean of all."""
    classifier(g, _prediction(g, pooled_states(g, x, tokens, c.classifier_pooling), c), c.hidden_size, task)


MODERNBERT = Architecture(
    family="modernbert",
    model_types={
        "modernbert": {
            "norm_eps": 1e-5,
            "local_attention": 128,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "classifier_pooling": "cls",
        }
    },
    read_config=read_modernbert_config,
    names={"hf": hf_names},
    encoder=encoder,
    heads={
        **PLAIN_HEADS,
        FILL_MASK: masked_lm,
        SEQUENCE_CLASSIFICATION: pooled_classifier,
        TOKEN_CLASSIFICATION: _predicted(token_classifier),
        QUESTION_ANSWERING: _predicted(span_classifier),
    },
    head_names=lambda c: name_map(HEADS),
    prefix="model.",
)
