"""MODEL OUT: an encoder-decoder of a well-known size with random weights, as transformers saves it. Runs inside .venv-bench-encoders."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SEED = 0


def t5_small() -> tuple[PreTrainedModel, dict[str, int]]:
    """The sizes of google-t5/t5-small (T5 1.0: relu, tied head)."""
    config = T5Config(
        vocab_size=32128,
        d_model=512,
        d_kv=64,
        d_ff=2048,
        num_layers=6,
        num_heads=8,
        feed_forward_proj="relu",
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config), {"pad": 0, "eos": 1, "unk": 2}


def marian_base() -> tuple[PreTrainedModel, dict[str, int]]:
    """The sizes of Helsinki-NLP/opus-mt-en-de."""
    sides = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", 6), ("attention_heads", 8), ("ffn_dim", 2048))
    }
    config = MarianConfig(
        vocab_size=58101,
        d_model=512,
        max_position_embeddings=512,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=58100,
        decoder_start_token_id=58100,
        eos_token_id=0,
        forced_eos_token_id=None,
        **sides,
    )
    return MarianMTModel(config), {"pad": 58100, "eos": 0, "unk": 1}


MODELS = {"t5-small": t5_small, "marian-base": marian_base}


def write(name: str, out: Path) -> None:
    torch.manual_seed(SEED)
    model, special = MODELS[name]()
    model.eval().save_pretrained(out)
    tokenizer = Tokenizer(BPE(_vocabulary(model.config.vocab_size, special), []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(out)


def _vocabulary(size: int, special: dict[str, int]) -> dict[str, int]:
    """A token for each byte, so that text becomes something; the rest is there to be counted."""
    places = {place: f"<{token}>" for token, place in special.items()}
    spare = [*ByteLevel.alphabet(), *(f"token{i}" for i in range(size))]
    return {places.get(i) or spare.pop(0): i for i in range(size)}


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
