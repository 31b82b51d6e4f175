"""Raw keys of decoders with rotary positions whose attention and MLP run side by side in, GptConfig out."""

from __future__ import annotations

from typing import Any

from edgelm_export.config import Alibi, GptConfig, RopeConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_gpt_config import gpt_values

# CodeGen's queries, keys and values stand in as many pieces as it was trained on devices.
CODEGEN_PIECES = 4


def read_gpt_neox_config(reader: ConfigReader) -> GptConfig:
    """The config of a GPT-NeoX; problems are left with the reader."""
    parallel = reader.flag("use_parallel_residual", True)
    return GptConfig(**{**gpt_values(reader, rotary=True), "layer": "parallel" if parallel else "pre-norm"})


def read_phi_config(reader: ConfigReader) -> GptConfig:
    """The config of a Phi; problems are left with the reader."""
    return GptConfig(**{**gpt_values(reader, rotary=True), "layer": "parallel-one-norm"})


def read_gptj_config(reader: ConfigReader) -> GptConfig:
    """The config of a GPT-J or a CodeGen, whose rotary positions have no settings but their size; problems are left with the reader."""
    values = gpt_values(reader, rotary=False)
    if reader.flag("in_pieces") and values["hidden_size"] % CODEGEN_PIECES:
        reader.problem(
            f"n_embd {values['hidden_size']} is not a multiple of {CODEGEN_PIECES}, the pieces of its projections"
        )
    size, head_dim = reader.size("rotary_dim", least=2), values["head_dim"]
    if size % 2 or size > head_dim:
        reader.problem(f"rotary_dim is {size}, expected an even number of the {head_dim} dimensions of a head")
        size = head_dim
    rope = RopeConfig(10000.0, rotary_dim=0 if size == head_dim else size, interleaved=True)
    own = {"layer": "parallel-one-norm", "ropes": (rope,) * values["num_hidden_layers"]}
    return GptConfig(**{**values, **own})


def read_falcon_config(reader: ConfigReader) -> GptConfig:
    """The config of a Falcon; problems are left with the reader."""
    biased = reader.flag("bias")
    for name in ("attention_bias", "mlp_bias"):
        reader.assume(name, biased)
    reader.require("apply_residual_connection_post_layernorm", False)
    alibi = reader.flag("alibi")
    values = gpt_values(reader, rotary=not alibi)
    own: dict[str, Any] = {"layer": _falcon_layer(reader)}
    if not reader.flag("new_decoder_architecture"):
        own["num_key_value_heads"] = 1 if reader.flag("multi_query", True) else values["num_attention_heads"]
    if alibi:  # added before scores are scaled, in the precision of the code it was trained with
        own["alibi"] = Alibi(scale=values["head_dim"] ** -0.5, rounded=True)
    return GptConfig(**{**values, **own})


def _falcon_layer(reader: ConfigReader) -> str:
    """Where norms stand: the newer architecture has one before attention and one before MLP, if it does not say one for both."""
    parallel, newer = reader.flag("parallel_attn", True), reader.flag("new_decoder_architecture")
    norms = reader.size("num_ln_in_parallel_attn", 2 if newer else 1)
    if norms > 2 or (norms == 2 and not newer):
        reader.problem(
            f"num_ln_in_parallel_attn {norms} is not supported (1, or 2 where new_decoder_architecture is true)"
        )
    if newer and not parallel:
        reader.problem("parallel_attn false is not supported where new_decoder_architecture is true")
    if not parallel:
        return "pre-norm"
    return "parallel" if norms == 2 else "parallel-one-norm"
