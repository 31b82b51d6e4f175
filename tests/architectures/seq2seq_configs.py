"""Configurations that encoder-decoders are tried with: tables in, contents of config.json files out."""

from __future__ import annotations

from collections import ChainMap

from edgelm_export.architectures import REGISTRY
from tests.architectures.random_configs import Case, Config, spread
from tests.architectures.seq2seq_tables import TABLES

CLASS_NAMES = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "plbart": "PLBartForConditionalGeneration",
    "blenderbot": "BlenderbotForConditionalGeneration",
    "blenderbot-small": "BlenderbotSmallForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
    "marian": "MarianMTModel",
    "m2m_100": "M2M100ForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}
LEAST_CASES = 10


def seq2seq_types() -> list[str]:
    """Every model type that is an encoder-decoder."""
    return sorted(name for name, architecture in REGISTRY.items() if architecture.seq2seq)


def seq2seq_cases(model_type: str) -> list[Case]:
    """Configurations of a model type, the same on every call: every partial config of its tables is in one of them."""
    columns = {name: column for name, column in TABLES[model_type].items() if column}
    count = max(LEAST_CASES, *map(len, columns.values()))
    drawn = [spread(f"{model_type}.{name}", column, count) for name, column in columns.items()]
    named = {"model_type": model_type, "architectures": [CLASS_NAMES[model_type]], "is_encoder_decoder": True}
    rows = [dict(ChainMap(named, *row)) for row in zip(*drawn, strict=True)]
    return [Case(f"{model_type}-{i}", row) for i, row in enumerate(rows)]


def target_vocabulary(config: Config) -> int:
    """How many logits a token has: two vocabularies are told apart by the key that only Marian has."""
    separate = config.get("share_encoder_decoder_embeddings") is False
    return config["decoder_vocab_size"] if separate else config["vocab_size"]
