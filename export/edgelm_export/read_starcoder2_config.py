"""Raw keys of Llama-like decoders that have LayerNorms instead in, GptConfig out."""

from __future__ import annotations

from edgelm_export.config import GptConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_gpt_config import gpt_values


def read_starcoder2_config(reader: ConfigReader) -> GptConfig:
    """The config of a StarCoder2; problems are left with the reader."""
    biased = reader.flag("use_bias", True)
    for name in ("attention_bias", "mlp_bias"):
        reader.assume(name, biased)
    for key in ("residual_dropout", "embedding_dropout"):
        reader.get(key)
    reader.assume("use_sliding_window", True)
    return GptConfig(**gpt_values(reader, rotary=True))


def read_stablelm_config(reader: ConfigReader) -> GptConfig:
    """The config of a StableLM; problems are left with the reader."""
    parallel = reader.flag("use_parallel_residual")
    values = gpt_values(reader, rotary=True)
    return GptConfig(**{**values, "layer": "parallel-one-norm" if parallel else "pre-norm"})


def read_nemotron_config(reader: ConfigReader) -> GptConfig:
    """The config of a Nemotron; problems are left with the reader. A fact says whether its files keep weights of `norms_less_one`."""
    offset = 1.0 if reader.flag("norms_less_one") else 0.0
    return GptConfig(**{**gpt_values(reader, rotary=True), "norm_offset": offset})
