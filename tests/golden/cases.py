"""The table of goldens: what each tiny checkpoint is like, and which settings a reader must not get wrong."""

from __future__ import annotations

from tests.architectures.random_configs import Config, base_config, rope_keys
from tests.golden.golden import Golden
from tests.golden.gpt_cases import gpt_cases
from tests.golden.latent_cases import latent_cases
from tests.golden.lineage_cases import lineage_cases
from tests.golden.moe_cases import moe_cases

# Epsilons are large enough that a norm without its epsilon, or with another one, is seen.
_EPS = 1e-2
_SMALL = {"hidden_size": 48, "head_dim": 16}
_OTHER_EPS = {"rms_norm_eps": {"rms_norm_eps": 2e-3}}
_OTHER_THETA = {"rope_theta": {"rope_theta": 20000.0}}


def golden_cases() -> dict[str, Golden]:
    """Every case by name."""
    first = (*_llama(), *_mistral(), *_qwen2(), *_qwen3())
    others = (*gpt_cases(), *latent_cases(), *lineage_cases(), *moe_cases())
    return {case.name: case for case in (*first, *others)}


def _llama() -> tuple[Golden, ...]:
    llama3 = rope_keys("llama3", 500000.0, "rope_theta")
    recent = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    linear = {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}
    biased = {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}
    first = base_config("llama", rms_norm_eps=_EPS, num_hidden_layers=1, intermediate_size=57)
    return (
        Golden(
            "llama",
            base_config("llama", torch_dtype="bfloat16", rms_norm_eps=_EPS, **_SMALL, **recent, **llama3),
            {**_OTHER_EPS, "rope scaling": {"rope_scaling": None}, "rope_theta": {"rope_theta": 10000.0}},
            generation={"bos_token_id": 1, "eos_token_id": [2, 0], "do_sample": True, "temperature": 0.6, "top_p": 0.9},
        ),
        Golden(
            "llama-linear-scaling",
            base_config(
                "llama", torch_dtype="float16", rms_norm_eps=_EPS, tie_word_embeddings=True, **_SMALL, **linear
            ),
            {**_OTHER_EPS, **_OTHER_THETA, "rope scaling": {"rope_scaling": None}},
            generation={"eos_token_id": 2},
        ),
        Golden(
            "llama-biases",
            base_config("llama", torch_dtype="bfloat16", intermediate_size=56, **biased),
            _OTHER_THETA,
        ),
        # As the first Llama releases have it: whatever came later is left out.
        Golden("llama-first-config", _without(first, "num_key_value_heads"), {**_OTHER_EPS, **_OTHER_THETA}),
    )


def _mistral() -> tuple[Golden, ...]:
    wide_heads = {"head_dim": 32, "hidden_size": 44, "rope_theta": 1000000.0, "sliding_window": None}
    window = {"num_key_value_heads": 1, "rms_norm_eps": _EPS, "rope_theta": 10000.0, "sliding_window": 12}
    return (
        Golden(
            "mistral",
            base_config("mistral", torch_dtype="bfloat16", **wide_heads),
            _OTHER_THETA,
            generation={"bos_token_id": 1, "eos_token_id": 2},
        ),
        Golden(
            "mistral-sliding-window",
            base_config("mistral", torch_dtype="bfloat16", **_SMALL, **window),
            {**_OTHER_EPS, **_OTHER_THETA, "window": {"sliding_window": 13}},
        ),
    )


def _qwen2() -> tuple[Golden, ...]:
    settings = {"do_sample": True, "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    tied = base_config(
        "qwen2",
        torch_dtype="bfloat16",
        rms_norm_eps=_EPS,
        tie_word_embeddings=True,
        rope_theta=1000000.0,
        sliding_window=12,
        max_window_layers=2,
        use_sliding_window=False,
    )
    windowed = base_config(
        "qwen2",
        dtype="bfloat16",
        rms_norm_eps=_EPS,
        num_key_value_heads=4,
        intermediate_size=40,
        sliding_window=12,
        max_window_layers=1,
        use_sliding_window=True,
        **rope_keys("default", 1000000.0, "rope_parameters"),
    )
    return (
        Golden(
            "qwen2",
            tied,
            {**_OTHER_EPS, **_OTHER_THETA, "window": {"use_sliding_window": True, "max_window_layers": 0}},
            generation={**settings, "eos_token_id": [2, 0]},
            shards=3,
        ),
        Golden(
            "qwen2-sliding-window",
            _without(windowed, "torch_dtype"),
            {**_OTHER_EPS, "window": {"sliding_window": 13}, "its layers": {"max_window_layers": 0}},
        ),
    )


def _qwen3() -> tuple[Golden, ...]:
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [2, 0]}
    plain = base_config(
        "qwen3",
        torch_dtype="bfloat16",
        hidden_size=50,
        head_dim=32,
        rms_norm_eps=_EPS,
        tie_word_embeddings=True,
        attention_bias=False,
        rope_theta=1000000.0,
        rope_scaling=None,
        use_sliding_window=False,
        max_window_layers=2,
    )
    biased = base_config(
        "qwen3",
        dtype="bfloat16",
        hidden_size=50,
        head_dim=16,
        intermediate_size=72,
        num_hidden_layers=1,
        num_attention_heads=6,
        attention_bias=True,
        use_sliding_window=False,
        **rope_keys("llama3", 10000.0, "rope_parameters"),
    )
    local_and_global = base_config(
        "qwen3",
        dtype="bfloat16",
        hidden_size=48,
        head_dim=16,
        intermediate_size=56,
        num_hidden_layers=3,
        num_key_value_heads=1,
        rms_norm_eps=_EPS,
        attention_bias=False,
        use_sliding_window=True,
        sliding_window=9,
        max_window_layers=0,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **rope_keys("default", 10000.0, "rope_parameters"),
    )
    unscaled = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    return (
        Golden("qwen3", plain, {**_OTHER_EPS, **_OTHER_THETA}, generation=settings),
        Golden("qwen3-biases", _without(biased, "torch_dtype"), {"rope scaling": unscaled}),
        # Goes on until everything its local layers have seen of the prompt has left their windows many times over.
        Golden(
            "qwen3-local-and-global",
            _without(local_and_global, "torch_dtype"),
            {**_OTHER_EPS, "window": {"sliding_window": 10}, "its layers": {"layer_types": ["sliding_attention"] * 3}},
            new_tokens=36,
        ),
    )


def _without(config: Config, key: str) -> Config:
    return {name: value for name, value in config.items() if name != key}
