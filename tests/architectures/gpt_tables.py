"""What may differ from one decoder of the GPT lineage to the next, for decoder_tables.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.architectures.encoder_tables import Column, each
from tests.architectures.random_configs import ROPE_SCALINGS, Config


def rows(names: str, *values: tuple[Any, ...]) -> tuple[Config, ...]:
    """A partial config for each row of values of the named keys."""
    return tuple(dict(zip(names.split(), row, strict=True)) for row in values)


def always(**keys: Any) -> tuple[Config, ...]:
    """What every configuration of a type says."""
    return (keys,)


# Heads are multiples of 8 wide, as the attention over a cache needs, and their number may be odd.
_WIDTHS = ((48, 3), (40, 5), (64, 1), (72, 3), (64, 2), (96, 6), (56, 7))

# What may differ in GPT-2 and those that kept its names.
_GPT2: Mapping[str, Column] = {
    "width": rows("n_embd n_head", *_WIDTHS),
    "layers": each("n_layer", 1, 2, 3),
    "vocabulary": each("vocab_size", 97, 128, 160),
    "epsilon": ({}, *each("layer_norm_epsilon", 1e-5, 1e-2, 0.1)),
    "positions": each("n_positions", 64, 75),
    "tied": ({}, *each("tie_word_embeddings", True, False)),
}
_INNER = ({}, *each("n_inner", None, 77, 96))
_ACTIVATIONS = ({}, *each("activation_function", "gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "silu"))

# The heads of others: as above, with the third number saying how much of a head turns. Of those 16 and 64 dimensions are a size the
# fused attention takes, 4, 8, 12 and 24 are not.
_PARTIAL = ((48, 3, 0.25), (40, 5, 1.0), (64, 1, 1.0), (96, 4, 0.5), (64, 2, 0.5), (96, 6, 1.0), (144, 3, 0.5))

# Rotary positions scaled: chosen so that at 60 positions some pairs of dimensions are kept, some blended and some slowed.
_LINEAR = {"rope_type": "linear", "factor": 2.5}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
SCALINGS = (_LINEAR, ROPE_SCALINGS["llama3"], _YARN, _DYNAMIC)
_ROPES = (
    {},
    {"rope_theta": 500000.0, "rope_scaling": None},
    *({"rope_theta": 10000.0, "rope_scaling": scaling} for scaling in SCALINGS),
    {"rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
)


def turned(shapes: Sequence[Config], ropes: Sequence[Config], *longropes: Config) -> tuple[Config, ...]:
    """Each shape and each kind of rotary positions with some of the others, and then what has both."""
    count = max(len(shapes), len(ropes))
    mixed = ({**shapes[i % len(shapes)], **ropes[i % len(ropes)]} for i in range(count))
    return (*mixed, *longropes)


def longrope(pairs: int) -> Config:
    """LongRoPE for heads of which so many pairs of dimensions turn; all prompts are beyond the context of training."""
    short, long = ([1.0 + share * n / pairs for n in range(pairs)] for share in (0.5, 3.0))
    scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    return {"rope_scaling": scaling, "original_max_position_embeddings": 4}


_EPSILON = ({}, *each("layer_norm_eps", 1e-5, 1e-2, 0.1))
_ROTARY: Mapping[str, Column] = {
    "layers": each("num_hidden_layers", 1, 2, 3),
    "inner": each("intermediate_size", 77, 96, 100),
    "vocabulary": each("vocab_size", 97, 128, 160),
    "positions": each("max_position_embeddings", 128),
}
_GPTJ_KEYS = "n_embd n_head rotary_dim"
_GPTJ: Mapping[str, Column] = {
    "layers": each("n_layer", 1, 2, 3),
    "inner": _INNER,
    "vocabulary": each("vocab_size", 97, 128, 160),
    "positions": each("n_positions", 64, 75),
    "epsilon": _GPT2["epsilon"],
    "activation": _ACTIVATIONS,
    "tied": ({}, *each("tie_word_embeddings", True, False)),
}
_GPTJ_WIDTHS = ((48, 3, 16), (40, 5, 8), (64, 1, 64), (96, 3, 12), (64, 2, 32), (96, 4, 24), (160, 2, 16))
_OPT_WIDTHS = ((48, 3, 48), (40, 5, 24), (64, 1, None), (72, 3, 96), (64, 2, 20), (56, 7, 56))
_NEW = {"new_decoder_architecture": True, "parallel_attn": True, "alibi": False}
_SHARED = ((48, 3, 1), (64, 4, 2), (80, 5, 5), (96, 6, 2), (64, 2, 1), (64, 1, 1))
_SHARED_PARTIAL = tuple((*row, share) for row, share in zip(_SHARED, (0.25, 1.0, 0.5, 0.5, 0.5, 0.25), strict=True))
_STABLELM_LONG = rows("hidden_size num_attention_heads num_key_value_heads partial_rotary_factor", (48, 3, 1, 0.5))[0]

TABLES: Mapping[str, Mapping[str, Column]] = {
    "openai-gpt": {
        **_GPT2,
        "class": always(architectures=["OpenAIGPTLMHeadModel"]),
        "activation": ({}, *each("afn", "gelu", "relu", "silu")),
    },
    "gpt2": {
        **_GPT2,
        "class": always(architectures=["GPT2LMHeadModel"]),
        "inner": _INNER,
        "activation": _ACTIVATIONS,
        "scale": ({}, *each("scale_attn_weights", True, False)),
    },
    "gpt_bigcode": {
        **_GPT2,
        "class": always(architectures=["GPTBigCodeForCausalLM"]),
        "inner": _INNER,
        "activation": _ACTIVATIONS,
        "queries": ({}, *each("multi_query", True, False)),
        "scale": ({}, *each("scale_attn_weights", True, False)),
    },
    "gpt_neo": {
        "class": always(architectures=["GPTNeoForCausalLM"]),
        "width": rows("hidden_size num_heads", *_WIDTHS),
        "layers": rows(
            "num_layers attention_types",
            (1, [[["local"], 1]]),
            (2, [[["global", "local"], 1]]),
            (3, [[["local", "global"], 1], [["global"], 1]]),
            (2, [[["global"], 2]]),
        ),
        "window": ({}, *each("window_size", 12, 12, 64)),
        "vocabulary": _GPT2["vocabulary"],
        "epsilon": _GPT2["epsilon"],
        "positions": each("max_position_embeddings", 64, 75),
        "tied": _GPT2["tied"],
        "inner": ({}, *each("intermediate_size", None, 77, 96)),
        "activation": _ACTIVATIONS,
    },
    "opt": {
        "class": always(architectures=["OPTForCausalLM"]),
        "width": rows("hidden_size num_attention_heads word_embed_proj_dim", *_OPT_WIDTHS),
        "layers": each("num_hidden_layers", 1, 2, 3),
        "inner": each("ffn_dim", 77, 96, 100),
        "vocabulary": _GPT2["vocabulary"],
        "positions": each("max_position_embeddings", 64, 75),
        "norms": (
            {},
            {"do_layer_norm_before": False},
            {"do_layer_norm_before": True, "_remove_final_layer_norm": True},
            {"do_layer_norm_before": True, "_remove_final_layer_norm": False},
        ),
        "weights": ({}, *each("layer_norm_elementwise_affine", True, False)),
        "bias": ({}, *each("enable_bias", True, False)),
        "activation": ({}, *each("activation_function", "relu", "gelu", "gelu_new")),
        "tied": _GPT2["tied"],
    },
    "gpt_neox": {
        **_ROTARY,
        "class": always(architectures=["GPTNeoXForCausalLM"]),
        "width": turned(
            (
                *rows("hidden_size num_attention_heads rotary_pct", *_PARTIAL),
                {"hidden_size": 32, "num_attention_heads": 2},
            ),
            ({}, *each("rope_scaling", None, *SCALINGS)),
            {"hidden_size": 48, "num_attention_heads": 3, "rotary_pct": 0.5, **longrope(4)},
        ),
        "epsilon": _EPSILON,
        "base": ({}, *each("rotary_emb_base", 1000, 500000.0)),
        "parallel": ({}, *each("use_parallel_residual", True, False)),
        "bias": ({}, *each("attention_bias", True, False)),
        "activation": each("hidden_act", "gelu", "relu", "gelu_new"),
        "tied": ({}, *each("tie_word_embeddings", True, False)),
    },
    "gptj": {**_GPTJ, "class": always(architectures=["GPTJForCausalLM"]), "width": rows(_GPTJ_KEYS, *_GPTJ_WIDTHS)},
    "codegen": {
        **_GPTJ,
        "class": always(architectures=["CodeGenForCausalLM"]),
        "width": rows(_GPTJ_KEYS, (64, 4, 16), (96, 4, 24), (64, 8, 4), (128, 4, 12), (192, 12, 8), (160, 4, 32)),
    },
    "phi": {
        **_ROTARY,
        "class": always(architectures=["PhiForCausalLM"]),
        "width": turned(
            (
                *rows("hidden_size num_attention_heads partial_rotary_factor", *_PARTIAL),
                {"hidden_size": 32, "num_attention_heads": 2},
            ),
            _ROPES,
            {"hidden_size": 48, "num_attention_heads": 3, "partial_rotary_factor": 0.5, **longrope(4)},
        ),
        "shared": ({}, *each("num_key_value_heads", None, 1)),
        "epsilon": _EPSILON,
        "normed": ({}, *each("qk_layernorm", True, False)),
        "activation": ({}, *each("hidden_act", "gelu_new", "gelu")),
        "tied": ({}, *each("tie_word_embeddings", True, False)),
    },
    "falcon": {
        "class": always(architectures=["FalconForCausalLM"]),
        "width": (
            *rows("hidden_size num_attention_heads", (48, 3), (64, 1), (96, 6), (56, 7), (160, 2)),
            {"hidden_size": 96, "num_attention_heads": 6, "num_kv_heads": 2, **_NEW},
            {"hidden_size": 48, "num_attention_heads": 3, "num_kv_heads": 1, **_NEW},
            {"hidden_size": 64, "num_attention_heads": 4, "num_kv_heads": 4, **_NEW, "num_ln_in_parallel_attn": 2},
            {"hidden_size": 64, "num_attention_heads": 4, "num_kv_heads": 2, **_NEW, "num_ln_in_parallel_attn": 1},
        ),
        "layers": each("num_hidden_layers", 1, 2, 3),
        "inner": ({}, *each("ffn_hidden_size", 77, 96)),
        "vocabulary": _GPT2["vocabulary"],
        "epsilon": _GPT2["epsilon"],
        "positions": each("max_position_embeddings", 128),
        "form": (
            {},
            {"alibi": True, "parallel_attn": True, "multi_query": False},
            {"alibi": True, "parallel_attn": True},
            {"parallel_attn": True, "multi_query": False},
            {"alibi": False, "parallel_attn": True, "multi_query": True},
        ),
        "rope": _ROPES,
        "bias": ({}, *each("bias", True, False)),
        "activation": ({}, *each("activation", "gelu", "relu")),
        "tied": _GPT2["tied"],
    },
    "bloom": {
        "class": always(architectures=["BloomForCausalLM"]),
        "width": (*rows("hidden_size n_head", *_WIDTHS), {"n_embed": 64, "num_attention_heads": 8}),
        "layers": each("n_layer", 1, 2, 3),
        "vocabulary": _GPT2["vocabulary"],
        "epsilon": _GPT2["epsilon"],
        "sum": ({}, *each("apply_residual_connection_post_layernorm", True, False)),
        "tied": _GPT2["tied"],
    },
    "mpt": {
        "class": always(architectures=["MptForCausalLM"]),
        "width": rows("d_model n_heads", *_WIDTHS),
        "layers": each("n_layers", 1, 2, 3),
        "vocabulary": _GPT2["vocabulary"],
        "epsilon": _GPT2["epsilon"],
        "positions": each("max_seq_len", 64, 128),
        "attention": (
            {},
            {"attn_config": {"clip_qkv": 0.5}},
            {"attn_config": {"softmax_scale": 0.1, "alibi_bias_max": 8}},
            {"attn_config": {"alibi": True, "clip_qkv": None, "softmax_scale": None}},
        ),
        "tied": _GPT2["tied"],
    },
    "starcoder2": {
        **_ROTARY,
        "class": always(architectures=["Starcoder2ForCausalLM"]),
        "width": turned(
            rows("hidden_size num_attention_heads num_key_value_heads", *_SHARED),
            _ROPES,
            {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1, **longrope(8)},
        ),
        "epsilon": ({}, *each("norm_epsilon", 1e-5, 1e-2, 0.1)),
        "window": ({}, *each("sliding_window", None, 12, 64)),
        "bias": ({}, *each("use_bias", True, False)),
        "activation": ({}, *each("hidden_act", "gelu_pytorch_tanh", "gelu")),
        "tied": _GPT2["tied"],
    },
    "stablelm": {
        **_ROTARY,
        "class": always(architectures=["StableLmForCausalLM"]),
        "width": turned(
            (
                *rows("hidden_size num_attention_heads num_key_value_heads partial_rotary_factor", *_SHARED_PARTIAL),
                {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2},
            ),
            _ROPES,
            {**_STABLELM_LONG, **longrope(4)},
        ),
        "epsilon": _EPSILON,
        "parallel": ({}, *each("use_parallel_residual", True, False)),
        "normed": ({}, *each("qk_layernorm", True, False)),
        "bias": ({}, *each("use_qkv_bias", True, False)),
        "activation": ({}, *each("hidden_act", "silu", "gelu")),
        "tied": ({}, *each("tie_word_embeddings", True, False)),
    },
    "nemotron": {
        **_ROTARY,
        "class": always(architectures=["NemotronForCausalLM"]),
        "width": (
            *rows("hidden_size num_attention_heads num_key_value_heads partial_rotary_factor", *_SHARED_PARTIAL),
            {"hidden_size": 50, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32},
        ),
        "epsilon": ({}, *each("norm_eps", 1e-5, 1e-2, 0.1)),
        "rope": ({}, *each("rope_theta", 1000.0, 5e5)),
        "biases": ({}, {"attention_bias": True, "mlp_bias": True}, {"attention_bias": False}),
        "activation": ({}, *each("hidden_act", "relu2", "gelu")),
        "tied": ({}, *each("tie_word_embeddings", True, False)),
    },
}
