"""Ways through a decoder that must lead to the same, whatever its cache holds."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from edgelm import signature
from edgelm.text_generation import DecoderModel
from tests.architectures.running import FLOAT_TOLERANCE, GREEDY, Logits, distance, prefill_feeds, step_logits


def check_ragged_batch(model: DecoderModel, ids: list[int], tokens: list[int]) -> None:
    """Rows of different lengths in one batch have the logits of single sequences."""
    prompts = [ids[:3], ids, ids[5:22]]
    decoder = model.decoder(len(prompts))
    batch = [np.stack([decoder.prefill(row, prompt).copy() for row, prompt in enumerate(prompts)])]
    batch += [decoder.step([token] * len(prompts)).copy() for token in tokens]
    for row, prompt in enumerate(prompts):
        found = np.stack([step[row] for step in batch])
        assert distance(found, step_logits(model, prompt, tokens)) < FLOAT_TOLERANCE


def check_shared_batch(model: DecoderModel, ids: list[int]) -> None:
    """Prompts that are answered side by side get what each gets alone."""
    prompts = [ids[:3], ids, ids[5:22]]
    free = [model.generate(prompt, max_new_tokens=16, eos_token_id=(), **GREEDY).token_ids for prompt in prompts]
    # Ending tokens that the first two rows reach at different steps, so that rows leave the batch and others move up.
    options = {"max_new_tokens": 16, "eos_token_id": [free[0][2], free[1][7]], **GREEDY}
    alone = [model.generate(prompt, **options).token_ids for prompt in prompts]
    assert len({len(tokens) for tokens in alone}) > 1
    assert [done.token_ids for done in model.generate(prompts, **options)] == alone


def check_padded_rows(model: DecoderModel, ids: list[int]) -> None:
    """Short rows that are padded on the right have the logits of unpadded ones."""
    prompts = [ids[:9], ids]
    if any(layer.window for layer in model.package.manifest.kv_cache.layers):  # the kernel wants such rows fed alone
        with pytest.raises(Exception, match="too small for sequence_length"):
            padded_prefill(model, prompts)
        return
    found = padded_prefill(model, prompts)
    for row, prompt in enumerate(prompts):
        assert distance(found[row, : len(prompt)], model.logits(prompt)) < FLOAT_TOLERANCE


def padded_prefill(model: DecoderModel, prompts: list[list[int]]) -> Logits:
    """One call of the graph itself with short rows padded on the right: logits [rows, longest, vocab_size]."""
    feeds = prefill_feeds(model.package.manifest.kv_cache, prompts)
    session = onnxruntime.InferenceSession(model.package.program("decoder"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([signature.LOGITS], feeds)[0])
