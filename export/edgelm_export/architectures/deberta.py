"""DeBERTa (He et al. 2020, arXiv:2006.03654): BERT's layers with attention that tells content from position."""

from __future__ import annotations

from dataclasses import replace

from edgelm.tasks import FILL_MASK, SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.disentangled import disentangled_attention, packed_queries_of_one, relative_positions
from edgelm_export.blocks.encoder import Tokens, embedding_sum, widened
from edgelm_export.blocks.encoder_heads import COMMON_HEADS, masked_lm, pooled_classifier
from edgelm_export.blocks.encoder_layers import post_norm_layer
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.config import DebertaConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, Source, name_map, per_layer
from edgelm_export.read_deberta_config import read_deberta_config
from edgelm_export.task import Task
from edgelm_export.transforms import heads_apart

RELATIVE = {"relative_embeddings": "deberta.encoder.rel_embeddings", "relative_norm": "deberta.encoder.LayerNorm"}
EMBEDDINGS = RELATIVE | {
    "embed_tokens": "deberta.embeddings.word_embeddings",
    "position_embeddings": "deberta.embeddings.position_embeddings",
    "token_type_embeddings": "deberta.embeddings.token_type_embeddings",
    "embedding_projection": "deberta.embeddings.embed_proj",
    "embedding_norm": "deberta.embeddings.LayerNorm",
}
LAYER = {
    "o_proj": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "up_proj": "intermediate.dense",
    "down_proj": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
HEADS = {
    "pooler": "pooler.dense",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
    "mlm_dense": "cls.predictions.transform.dense",
    "mlm_norm": "cls.predictions.transform.LayerNorm",
    "mlm": "cls.predictions",
    "lm_head": "cls.predictions.decoder",
    "lm_dense": "lm_predictions.lm_head.dense",
    "lm_norm": "lm_predictions.lm_head.LayerNorm",
    "lm": "lm_predictions.lm_head",
}
IGNORED = {
    "mask_predictions.*": "the head of version 3's training, which no class of transformers has",
    "*embeddings.position_ids": "counted in the graph",
    "*embeddings.position_embeddings.*": "of Microsoft's decoder for masks, where position_biased_input is false",
    "*embeddings.word_embeddings._weight": "left over from training with a table that two models shared",
}


def names(c: DebertaConfig) -> NameMap:
    """Canonical -> source module names."""
    attention: dict[str, str | Source] = {
        "qkv_proj": Source("attention.self.in_proj", heads_apart(c.num_attention_heads)),
        "attention": "attention.self",
        "pos_k_proj": "attention.self.pos_proj",
        "pos_q_proj": "attention.self.pos_q_proj",
    }
    return name_map(EMBEDDINGS | per_layer("deberta.encoder.layer.{i}.", attention | LAYER))


def head_names(c: DebertaConfig) -> NameMap:
    """Heads, and what the class allocates for positions where no term of attention asks for it."""
    held = {"relative_embeddings": c.relative_attention, "relative_norm": c.norm_rel_ebd}
    unused = {name: RELATIVE[name] for name, there in held.items() if there and not c.position_terms}
    return name_map(HEADS | unused)


def embedded(g: GraphBuilder, c: DebertaConfig, tokens: Tokens) -> Value:
    """Embeddings, normed in the width of the layers: [batch, sequence, hidden_size]."""
    x = widened(g, embedding_sum(g, c, tokens), c, bias=False)
    return g.tap("embeddings", layer_norm(g, x, "embedding_norm", c.hidden_size, c.layer_norm_eps))


def encoder(g: GraphBuilder, c: DebertaConfig, tokens: Tokens) -> Value:
    """Token ids in, hidden states [batch, sequence, hidden_size] out."""
    x, relative = embedded(g, c, tokens), relative_positions(g, c, tokens)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            attended = disentangled_attention(g, packed_queries_of_one(g, x, c), c, tokens, relative)
            x = post_norm_layer(g, x, attended, c)
    return x


def fill_mask(g: GraphBuilder, x: Value, c: DebertaConfig, tokens: Tokens, task: Task) -> None:
    """The head that the checkpoint holds, transformers' or Microsoft's own; `legacy` decides where that leaves it open."""
    ours, own = g.has("mlm_dense.weight"), g.has("lm_dense.weight")
    if c.legacy if ours == own else ours:
        masked_lm()(g, x, c, tokens, task)
    else:
        masked_lm(name="lm")(g, x, replace(c, tie_word_embeddings=True), tokens, task)


HEAD_FUNCTIONS = {**COMMON_HEADS, SEQUENCE_CLASSIFICATION: pooled_classifier("pooler"), FILL_MASK: fill_mask}

DEBERTA = Architecture(
    family="deberta",
    model_types={"deberta": {"layer_norm_eps": 1e-7}},
    read_config=read_deberta_config,
    names={"hf": names},
    encoder=encoder,
    heads=HEAD_FUNCTIONS,
    head_names=head_names,
    prefix="deberta.",
    ignored=IGNORED,
)
