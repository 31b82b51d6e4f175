"""What encoder workers share: the timed part, and for peers the way from texts to arrays that a careful user would write.

A task: {"mode": "speed" | "embed", "batch_size": n, "orders": ["given", "sorted"], "mixes": {name: [text, ..]}, "repeats": n} for speed,
{.., "texts": [..], "embeddings_file": path} to embed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from protocol import answer, rate_key, waiting_share
from tokenizers import Tokenizer

# Of all-MiniLM-L6-v2; longer texts are cut. Only the probe's e-mails are.
LONGEST = 256

Encode = Callable[[list[str]], Any]


def serve(task: dict[str, Any], load_s: float, encode: Callable[[list[str], str], Any]) -> None:
    """Answers the task.

    Args:
        task: see the module.
        load_s: seconds that loading took.
        encode: (texts, order) -> normalized embeddings, float32 [len(texts), dim], in the order of the texts.
    """
    if task["mode"] == "embed":
        np.save(task["embeddings_file"], np.asarray(encode(task["texts"], task["orders"][0]), np.float32))
        answer({"load_s": load_s})
    runs = [(rate_key(mix, order), texts, order) for mix, texts in task["mixes"].items() for order in task["orders"]]
    for _, texts, order in runs:
        encode(texts, order)
    rates: dict[str, list[float]] = {key: [] for key, _, _ in runs}

    def repeat() -> None:
        for _ in range(task["repeats"]):
            for key, texts, order in runs:
                start = time.perf_counter()
                encode(texts, order)
                rates[key].append(len(texts) / (time.perf_counter() - start))

    share = waiting_share(repeat)
    answer({"load_s": load_s, **rates, "waiting_share": share})


def in_batches(task: dict[str, Any], encode: Encode, at_a_time: int = 1) -> Callable[[list[str], str], Any]:
    """Cuts texts into batches for a peer that encodes one batch; "sorted" puts texts of like length together first.

    Args:
        task: "batch_size".
        encode: one batch, texts to embeddings.
        at_a_time: batches that run in parallel, each in a thread.
    """
    size = task["batch_size"]
    pool = ThreadPoolExecutor(at_a_time) if at_a_time > 1 else None

    def encode_all(texts: list[str], order: str) -> Any:
        rows = sorted(range(len(texts)), key=lambda i: -len(texts[i])) if order == "sorted" else range(len(texts))
        batches = [[texts[i] for i in rows[start : start + size]] for start in range(0, len(texts), size)]
        parts = list(pool.map(encode, batches) if pool else map(encode, batches))
        embeddings = np.empty((len(texts), parts[0].shape[1]), np.float32)
        embeddings[np.asarray(rows)] = np.concatenate(parts)
        return embeddings

    return encode_all


def load_tokenizer(folder: Path) -> Tokenizer:
    """The checkpoint's tokenizer, set to pad to the longest text of a batch."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    return tokenizer


def token_arrays(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """What a BERT graph takes, each int64 [len(texts), longest]."""
    found = tokenizer.encode_batch_fast(list(texts))
    ids = np.array([row.ids for row in found], np.int64)
    mask = np.array([row.attention_mask for row in found], np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def mean_pool(hidden: Any, mask: Any) -> Any:
    """Mean over a text's tokens, scaled to length 1: [batch, tokens, dim] and [batch, tokens] to [batch, dim]."""
    total = (mask[:, None, :].astype(np.float32) @ hidden)[:, 0]  # the length cancels out
    return total / np.linalg.norm(total, axis=1, keepdims=True)
