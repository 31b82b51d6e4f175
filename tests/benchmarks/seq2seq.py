"""Who runs an encoder-decoder: our packages, CTranslate2 and PyTorch on the same checkpoint of random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contenders import EDGELM, Contender, build_in, export_package, prepare
from environments import HERE

# What divergence is taken from.
REFERENCE = "pytorch-fp32"
MODELS = ("t5-small", "marian-base")

_PYTORCH = ("torch", "transformers")
_CTRANSLATE2 = ("ctranslate2", "numpy")


@dataclass(frozen=True)
class Vocabulary:
    """Which ids a checkpoint's sources and targets are drawn from, and those that frame them."""

    start: int
    end: int
    plain: range


def checkpoint(model: str) -> Path:
    """The checkpoint of that size, made by transformers in the peers' environment where it is not yet."""
    script = HERE / "build_seq2seq_checkpoint.py"
    maker = Contender(
        model,
        "random weights",
        script.name,
        (*_PYTORCH, "tokenizers"),
        None,
        lambda source, folder: build_in("encoders", source.name, Path(model), folder),
        f"seq2seq-{model}",
        peer="encoders",
    )
    return prepare(maker, script)


def vocabulary(folder: Path) -> Vocabulary:
    """Of a checkpoint. Special tokens are the first few ids, or the last."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Vocabulary(config["decoder_start_token_id"], config["eos_token_id"], range(3, config["vocab_size"] - 1))


def translators(model: str, threads: int) -> dict[str, Contender]:
    """All of them, by name."""
    described = [
        *(_edgelm(model, precision, threads) for precision in ("int8", "int4", "fp32")),
        *_ctranslate2(model, threads),
        _pytorch(threads),
    ]
    return {contender.name: contender for contender in described}


def _edgelm(model: str, precision: str, threads: int) -> Contender:
    name = f"edgelm-{precision}"
    make = partial(export_package, precision)
    folder = f"seq2seq-{model}-{name}"
    return Contender(name, f"edgelm, {precision}", "worker_edgelm_seq2seq.py", EDGELM, threads, make, folder)


def _ctranslate2(model: str, threads: int) -> list[Contender]:
    ways = {"ctranslate2-int8": (1, threads), "ctranslate2-int8-parallel": (threads, 1)}
    return [
        Contender(
            name,
            f"CTranslate2, int8, a batch in {parts} part{'s' * (parts > 1)} on {inside} thread{'s' * (inside > 1)} each",
            "worker_ctranslate2_seq2seq.py",
            _CTRANSLATE2,
            threads,
            partial(build_in, "encoders", "build_ctranslate2_seq2seq.py"),
            f"seq2seq-{model}-ctranslate2-int8",
            peer="encoders",
            options={"batches_at_a_time": parts},
        )
        for name, (parts, inside) in ways.items()
    ]


def _pytorch(threads: int) -> Contender:
    return Contender(
        REFERENCE,
        f"PyTorch through transformers' generate, float32, {threads} threads",
        "worker_pytorch_seq2seq.py",
        _PYTORCH,
        threads,
        None,
        REFERENCE,
        peer="encoders",
    )
