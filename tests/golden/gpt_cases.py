"""Goldens of the GPT lineage, for cases.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.architectures.random_configs import ROPE_SCALINGS, Config
from tests.golden.golden import Golden

_SHARED: Config = {
    "vocab_size": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
# The names that GPT-2's config has for sizes, and those of later ones.
_FIRST = {**_SHARED, "n_embd": 48, "n_head": 3, "n_layer": 2, "n_positions": 320, "layer_norm_epsilon": 1e-2}
_LATER = {
    **_SHARED,
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 320,
}
_OTHER_EPSILON = {"epsilon": {"layer_norm_epsilon": 1e-3}}
_RELU = {"activation": {"activation_function": "relu"}}


def gpt_cases() -> tuple[Golden, ...]:
    """Every case of the lineage."""
    return (*_learned_positions(), *_opt(), *_parallel(), *_falcon(), *_alibi(), *_like_llama())


def _case(name: str, model: str, config: Config, **sensitive: Config) -> Golden:
    """`model` is the class in transformers; a case is named after its model type, then what is special."""
    stated = {"architectures": [model], **config}
    return Golden(name, stated, {change.replace("_", " "): keys for change, keys in sensitive.items()})


def _learned_positions() -> tuple[Golden, ...]:
    neo = {
        **_SHARED,
        "hidden_size": 48,
        "num_heads": 3,
        "num_layers": 2,
        "intermediate_size": None,
        "max_position_embeddings": 320,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 12,
        "layer_norm_epsilon": 1e-2,
    }
    by_head = {**_FIRST, "multi_query": False, "n_inner": 60, "tie_word_embeddings": False}
    return (
        _case(
            "openai-gpt",
            "OpenAIGPTLMHeadModel",
            {"model_type": "openai-gpt", **_FIRST, "afn": "gelu"},
            **_OTHER_EPSILON,
            activation={"afn": "relu"},
        ),
        _case(
            "gpt2",
            "GPT2LMHeadModel",
            {"model_type": "gpt2", **_FIRST, "n_ctx": 320, "n_inner": None, "activation_function": "gelu_new"},
            **_OTHER_EPSILON,
            **_RELU,
            scale={"scale_attn_weights": False},
        ),
        _case(
            "gpt2-untied-unscaled",
            "GPT2LMHeadModel",
            {"model_type": "gpt2", **_FIRST, "n_inner": 60, "tie_word_embeddings": False, "scale_attn_weights": False},
            **_OTHER_EPSILON,
            scale={"scale_attn_weights": True},
        ),
        _case(
            "gpt_bigcode", "GPTBigCodeForCausalLM", {"model_type": "gpt_bigcode", **_FIRST}, **_OTHER_EPSILON, **_RELU
        ),
        _case("gpt_bigcode-heads", "GPTBigCodeForCausalLM", {"model_type": "gpt_bigcode", **by_head}, **_OTHER_EPSILON),
        _case(
            "gpt_neo",
            "GPTNeoForCausalLM",
            {"model_type": "gpt_neo", **neo},
            **_OTHER_EPSILON,
            window={"window_size": 13},
            layers={"attention_types": [[["local", "global"], 1]]},
        ),
    )


def _opt() -> tuple[Golden, ...]:
    opt = {"model_type": "opt", **_without(_LATER, "intermediate_size"), "ffn_dim": 80, "pad_token_id": 0}
    narrow = {**opt, "word_embed_proj_dim": 24, "do_layer_norm_before": False, "tie_word_embeddings": False}
    galactica = {
        **opt,
        "activation_function": "gelu",
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
        "learned_embeddings": True,
        "scale_embeddings": False,
    }
    relu = {"activation": {"activation_function": "relu"}}
    gelu = {"activation": {"activation_function": "gelu"}}
    return (
        replace(_case("opt", "OPTForCausalLM", {**opt, "activation_function": "relu"}, **gelu), unseen="*k_proj.bias"),
        replace(_case("opt-narrow-post-norm", "OPTForCausalLM", narrow, **gelu), unseen="*k_proj.bias"),
        _case("opt-galactica", "OPTForCausalLM", galactica, **relu),
    )


def _parallel() -> tuple[Golden, ...]:
    neox = {"model_type": "gpt_neox", **_LATER, "layer_norm_eps": 1e-2, "rotary_emb_base": 10000}
    sequential = {**neox, "use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0}
    gptj = {**_FIRST, "rotary_dim": 8, "n_inner": None}
    phi = {"model_type": "phi", **_LATER, "layer_norm_eps": 1e-2, "partial_rotary_factor": 0.5, "rope_theta": 10000.0}
    normed = {**phi, "qk_layernorm": True, "num_key_value_heads": 1, "rope_scaling": ROPE_SCALINGS["llama3"]}
    epsilon = {"epsilon": {"layer_norm_eps": 1e-3}}
    return (
        _case(
            "gpt_neox",
            "GPTNeoXForCausalLM",
            {**neox, "rotary_pct": 0.5, "use_parallel_residual": True},
            **epsilon,
            share={"rotary_pct": 0.25},
            sums={"use_parallel_residual": False},
        ),
        _case(
            "gpt_neox-sequential",
            "GPTNeoXForCausalLM",
            {**sequential, "rope_scaling": ROPE_SCALINGS["linear"], "hidden_act": "relu"},
            **epsilon,
            rope_scaling={"rope_scaling": None},
            base={"rotary_emb_base": 20000},
            sums={"use_parallel_residual": True},
        ),
        _case("gptj", "GPTJForCausalLM", {"model_type": "gptj", **gptj}, **_OTHER_EPSILON, size={"rotary_dim": 16}),
        _case(
            "codegen",
            "CodeGenForCausalLM",
            {"model_type": "codegen", **gptj, "n_head": 4, "n_embd": 64, "rotary_dim": 12},
            **_OTHER_EPSILON,
            size={"rotary_dim": 16},
        ),
        _case("phi", "PhiForCausalLM", phi, **epsilon, share={"partial_rotary_factor": 0.25}, base={"rope_theta": 2e4}),
        _case("phi-norms-of-heads", "PhiForCausalLM", normed, **epsilon, rope_scaling={"rope_scaling": None}),
    )


def _falcon() -> tuple[Golden, ...]:
    falcon = {"model_type": "falcon", **_without(_LATER, "intermediate_size"), "layer_norm_epsilon": 1e-2}
    first = {**falcon, "multi_query": True, "parallel_attn": True, "alibi": False, "bias": False, "rope_theta": 1e4}
    newer = {**first, "new_decoder_architecture": True, "num_attention_heads": 6, "hidden_size": 48, "num_kv_heads": 2}
    alibi = {**falcon, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True, "ffn_hidden_size": 60}
    return (
        _case("falcon", "FalconForCausalLM", first, **_OTHER_EPSILON, base={"rope_theta": 2e4}, alibi={"alibi": True}),
        _case("falcon-groups", "FalconForCausalLM", newer, **_OTHER_EPSILON, base={"rope_theta": 2e4}),
        _case("falcon-alibi", "FalconForCausalLM", alibi, **_OTHER_EPSILON, alibi={"alibi": False}),
    )


def _alibi() -> tuple[Golden, ...]:
    bloom = {"model_type": "bloom", **_SHARED, "n_embed": 48, "n_layer": 2, "n_head": 3, "layer_norm_epsilon": 1e-2}
    bloom["tie_word_embeddings"] = False
    after = {"apply_residual_connection_post_layernorm": True}
    mpt = {
        "model_type": "mpt",
        **_SHARED,
        "d_model": 48,
        "n_layers": 2,
        "n_heads": 3,
        "max_seq_len": 320,
        "no_bias": True,
    }
    attention = {"attn_config": {"clip_qkv": 1.0, "softmax_scale": None, "alibi": True}}
    unclipped = {"clip": {"attn_config": {"alibi": True}}}
    return (
        _case("bloom", "BloomForCausalLM", bloom, **_OTHER_EPSILON, sums=after),
        _case("mpt", "MptForCausalLM", {**mpt, **attention, "layer_norm_epsilon": 1e-2}, **_OTHER_EPSILON, **unclipped),
    )


def _like_llama() -> tuple[Golden, ...]:
    starcoder = {
        "model_type": "starcoder2",
        **_LATER,
        "num_key_value_heads": 1,
        "norm_epsilon": 1e-2,
        "rope_theta": 1e4,
        "sliding_window": 12,
        "use_bias": True,
    }
    stable = {
        "model_type": "stablelm",
        **_LATER,
        "num_key_value_heads": 1,
        "layer_norm_eps": 1e-2,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "use_qkv_bias": True,
    }
    parallel = {**stable, "use_parallel_residual": True, "qk_layernorm": True, "num_key_value_heads": 3}
    nemotron = {
        "model_type": "nemotron",
        **_LATER,
        "num_key_value_heads": 1,
        "norm_eps": 1e-2,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "head_dim": 16,
        "hidden_act": "relu2",
    }
    base: dict[str, Any] = {"base": {"rope_theta": 2e4}}
    epsilon = {"epsilon": {"layer_norm_eps": 1e-3}}
    return (
        _case(
            "starcoder2",
            "Starcoder2ForCausalLM",
            starcoder,
            **base,
            epsilon={"norm_epsilon": 1e-3},
            window={"sliding_window": 13},
        ),
        _case("stablelm", "StableLmForCausalLM", stable, **base, **epsilon, share={"partial_rotary_factor": 0.25}),
        _case("stablelm-parallel", "StableLmForCausalLM", parallel, **base, **epsilon),
        _case(
            "nemotron",
            "NemotronForCausalLM",
            nemotron,
            **base,
            epsilon={"norm_eps": 1e-3},
            activation={"hidden_act": "relu"},
        ),
    )


def _without(config: Config, key: str) -> Config:
    return {name: value for name, value in config.items() if name != key}
