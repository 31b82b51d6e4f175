"""Raw keys of ModernBERT in, ModernBertConfig out."""

from __future__ import annotations

from edgelm_export.blocks.activations import ACTIVATIONS
from edgelm_export.blocks.pooling import POOLINGS
from edgelm_export.config import ModernBertConfig, RopeConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import pad_token_id
from edgelm_export.read_rope import rope_of

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
# Training, other implementations of the same, and keys of BERT that ModernBERT's first configs carried along.
_WITHOUT_EFFECT = (
    "embedding_dropout",
    "mlp_dropout",
    "deterministic_flash_attn",
    "reference_compile",
    "repad_logits_with_grad",
    "sparse_prediction",
    "sparse_pred_ignore_index",
    "layer_norm_eps",
    "position_embedding_type",
)


def read_modernbert_config(reader: ConfigReader) -> ModernBertConfig:
    """The config of a ModernBERT; problems are left with the reader.

    Layers are told apart by `layer_types` or, before transformers 5, by `global_attn_every_n_layers`; the base of their
    rotary positions is in `rope_parameters` or in `global_rope_theta` and `local_rope_theta`.
    """
    for key in _WITHOUT_EFFECT:
        reader.get(key)
    hidden_size, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    limit, reaches = reader.size("max_position_embeddings"), _reaches(reader)
    head_dim = _head_dim(reader, hidden_size, heads)
    global_rope, local_rope = _ropes(reader, limit, head_dim)
    bias = reader.flag("attention_bias")
    return ModernBertConfig(
        model_type=str(reader.get("model_type")),
        vocab_size=reader.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=reader.size("intermediate_size"),
        num_hidden_layers=len(reaches),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        context_length=reader.context(limit),
        hidden_act=reader.one_of("hidden_activation", ACTIVATIONS),
        pad_token_id=pad_token_id(reader),
        tie_word_embeddings=reader.flag("tie_word_embeddings", True),
        qkv_bias=bias,
        attention_output_bias=bias,
        mlp_bias=reader.flag("mlp_bias"),
        layer_norm_eps=reader.number("norm_eps"),
        embedding_size=hidden_size,
        max_position_embeddings=0,
        type_vocab_size=0,
        relative_attention_num_buckets=0,
        norm_bias=reader.flag("norm_bias"),
        decoder_bias=reader.flag("decoder_bias", True),
        classifier_bias=reader.flag("classifier_bias"),
        classifier_pooling=reader.one_of("classifier_pooling", {name: POOLINGS[name] for name in ("cls", "mean")}),
        classifier_activation=reader.one_of("classifier_activation", ACTIVATIONS),
        global_rope=global_rope,
        local_rope=local_rope,
        reaches=reaches,
    )


def _head_dim(reader: ConfigReader, hidden_size: int, heads: int) -> int:
    """An equal share of the hidden size, whose halves are turned against each other."""
    size, rest = divmod(hidden_size, heads)
    if rest or size % 2 or reader.get("head_dim") not in (None, size):
        reader.problem(
            f"hidden_size {hidden_size} over num_attention_heads {heads} is no even head size, or head_dim differs from it"
        )
    return max(size, 2)


def _reaches(reader: ConfigReader) -> tuple[int | None, ...]:
    """How far each layer sees to each side: half of `local_attention`, or None for everything."""
    layers, reach = reader.layers("num_hidden_layers"), reader.size("local_attention", least=0) // 2
    every, types = reader.size("global_attn_every_n_layers"), reader.get("layer_types")
    if types is None:
        return tuple(reach if i % every else None for i in range(layers))
    if not isinstance(types, list) or len(types) != layers or not all(kind in (_GLOBAL, _LOCAL) for kind in types):
        reader.problem(f"layer_types must name {_GLOBAL} or {_LOCAL} for each of the {layers} layers")
        return (None,) * layers
    return tuple(reach if kind == _LOCAL else None for kind in types)


def _ropes(reader: ConfigReader, limit: int, head_dim: int) -> tuple[RopeConfig, RopeConfig]:
    """Of global and of local layers. Local ones without a base of their own take the global one's."""
    given, scaling = reader.get("rope_parameters") or {}, reader.get("rope_scaling") or {}
    theta = reader.number("global_rope_theta")
    bases = {_GLOBAL: theta, _LOCAL: reader.number("local_rope_theta", theta)}
    parts = (
        [given.get(kind) or {} for kind in bases] if isinstance(given, dict) and set(given) <= set(bases) else [None]
    )
    if not all(isinstance(part, dict) for part in (*parts, scaling)):
        reader.problem(f"rope_parameters must hold an object each for {_GLOBAL} and {_LOCAL}, and rope_scaling be one")
        return RopeConfig(1.0), RopeConfig(1.0)
    if scaling and "rope_type" not in scaling:  # transformers goes by no other key here
        reader.problem(f"rope_scaling {scaling!r} names no rope_type")
    found = [
        rope_of(reader, {"rope_theta": base, **part, **scaling}, limit, head_dim)
        for base, part in zip(bases.values(), parts, strict=True)
    ]
    return found[0], found[1]
