"""Logits processors that forbid tokens or force them: what a sequence must not repeat, how short it may be, how it begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import GenerationError, InvalidOption
from edgelm.generation_config import GenerationConfig
from edgelm.logits import Logits, Processor


@dataclass(frozen=True)
class Span:
    """Where a sequence begins and must end, in tokens; both count the prompt.

    `start` tokens are given and `end` is the most there may be. `source` are the ids that the sequence answers: those of
    an encoder, or the prompt.
    """

    start: int
    end: int
    source: Sequence[int] = ()

    @property
    def room(self) -> int:
        """Most tokens to generate."""
        return self.end - self.start


def constraints(
    config: GenerationConfig, span: Span, vocab_size: int, grammar: Callable[[int], Processor] | None = None
) -> list[Processor]:
    """The processors that the settings ask for, in the order of transformers' `_get_logits_processor`.

    `grammar` makes the processor that keeps to one, given how many ids are not its own; it has the last word.

    Raises:
        InvalidOption: a forced id that the vocabulary does not have.
    """
    c, chosen, start = config, list[Processor](), span.start
    if c.no_repeat_ngram_size:
        chosen.append(no_repeat_ngram(c.no_repeat_ngram_size))
    if c.encoder_no_repeat_ngram_size and span.source:
        chosen.append(no_repeat_ngram(c.encoder_no_repeat_ngram_size, span.source))
    if words := [word for word in c.bad_words_ids if word not in [(end,) for end in c.eos_token_id]]:
        chosen.append(bad_words(words))
    shortest = start + c.min_new_tokens if c.min_new_tokens else c.min_length
    if shortest > start and c.end_token_ids:
        chosen.append(suppress_until(shortest, c.end_token_ids))
    if c.forced_bos_token_id is not None:
        chosen.append(force_at(1, _known("forced_bos_token_id", (c.forced_bos_token_id,), vocab_size)))
    if c.forced_eos_token_id and grammar is None:  # the end is the grammar's to allow
        chosen.append(force_at(span.end - 1, _known("forced_eos_token_id", c.forced_eos_token_id, vocab_size)))
    if c.suppress_tokens:
        chosen.append(suppress_until(span.end, c.suppress_tokens))
    # A forced second token is not yet the text's beginning.
    begin = start + 1 if start == 1 and c.forced_bos_token_id is not None else start
    if c.begin_suppress_tokens:
        chosen.append(suppress_at(begin, c.begin_suppress_tokens))
    if grammar is not None:
        chosen.append(grammar(begin))
    return chosen


def no_repeat_ngram(size: int, source: Sequence[int] | None = None) -> Processor:
    """Forbid what would complete a sequence of `size` tokens that is in `source`, or in the ids so far (arXiv 1705.04304)."""
    fixed = None if source is None else list(source)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        if len(ids) >= size - 1:
            prefix = list(ids[len(ids) - size + 1 :])
            followers = _followers(list(ids) if fixed is None else fixed, prefix)
            _forbid(logits, np.array(followers, np.intp))
        return logits

    return process


def bad_words(words: Sequence[Sequence[int]]) -> Processor:
    """Forbid the last token of each sequence where the others stand before it."""
    single = np.array([word[0] for word in words if len(word) == 1], np.intp)
    longer = [(list(word[:-1]), word[-1]) for word in words if len(word) > 1]

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        last = [token for prefix, token in longer if list(ids[-len(prefix) :]) == prefix]
        return _forbid(_forbid(logits, single), np.array(last, np.intp))

    return process


def suppress_until(length: int, tokens: Sequence[int]) -> Processor:
    """Forbid tokens as long as there are fewer than `length` ids."""
    index = np.array(tokens, np.intp)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        return _forbid(logits, index) if len(ids) < length else logits

    return process


def suppress_at(length: int, tokens: Sequence[int]) -> Processor:
    """Forbid tokens when there are exactly `length` ids."""
    index = np.array(tokens, np.intp)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        return _forbid(logits, index) if len(ids) == length else logits

    return process


def force_at(length: int, tokens: Sequence[int]) -> Processor:
    """Forbid all but these tokens, which become equally likely, when there are exactly `length` ids."""
    index = np.array(tokens, np.intp)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        if len(ids) == length:
            logits.fill(-np.inf)
            logits[index] = 0
        return logits

    return process


def something_left(ids: Sequence[int], logits: Logits) -> Logits:
    """Checks that the processors before it left a token.

    Raises:
        GenerationError: they did not, or logits are NaN or infinite now.
    """
    best = logits.max()
    if best == -np.inf:
        raise GenerationError(nothing_left(len(ids)))
    if not best < np.inf:
        raise GenerationError(
            f"after {len(ids)} tokens processors made logits that hold {best}; lower logit_bias and penalties, and "
            "look at logits_processors, where only -inf may remove a token"
        )
    return logits


def nothing_left(length: int) -> str:
    """What to say when all tokens are forbidden after `length` ids."""
    return (
        f"after {length} tokens the settings forbid every token; relax no_repeat_ngram_size, suppress_tokens, "
        "bad_words_ids, min_new_tokens or logits_processors, or the schema, regex, choice or grammar"
    )


def _forbid(logits: Logits, tokens: NDArray[np.intp]) -> Logits:
    # A vocabulary may be larger than what the model can put out.
    logits[tokens[tokens < logits.size]] = -np.inf
    return logits


def _followers(text: list[int], prefix: list[int]) -> list[int]:
    """The tokens that come after `prefix` in `text`."""
    width = len(prefix)
    if not width:
        return text
    found: list[int] = []
    at = width - 2
    try:
        while True:
            at = text.index(prefix[-1], at + 1, len(text) - 1)
            if text[at - width + 1 : at + 1] == prefix:
                found.append(text[at + 1])
    except ValueError:
        return found


def _known(name: str, tokens: Sequence[int], vocab_size: int) -> Sequence[int]:
    if max(tokens) >= vocab_size:
        raise InvalidOption(f"option {name} is {max(tokens)}, outside 0..{vocab_size - 1}, the model's vocabulary")
    return tokens
