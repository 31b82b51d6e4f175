"""Logits at a mask in, the tokens that may stand there out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import InvalidOption
from edgelm.labels import softmax
from edgelm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prediction:
    """A token for a mask.

    Attributes:
        token: as text; a space before it is part of it where the tokenizer counts spaces to words.
        token_id: its id.
        score: its probability among all tokens of the vocabulary.
        text: the input with this mask filled, other masks left, as the tokenizer decodes it.
    """

    token: str
    token_id: int
    score: float
    text: str


@dataclass(frozen=True)
class Masks:
    """The mask token of a model."""

    token: str
    token_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Masks:
        """The mask token of a tokenizer.

        Raises:
            InvalidOption: it has none.
        """
        token = tokenizer.special_token("mask_token")
        token_id = None if token is None else tokenizer.token_id(token)
        if token is None or token_id is None:
            raise InvalidOption(
                "the tokenizer has no mask token, so there is nothing to fill; "
                "name it as mask_token in the checkpoint's tokenizer_config.json and export again"
            )
        return cls(token, token_id)

    def find(self, ids: Sequence[int], index: int) -> tuple[int, ...]:
        """Where the masks of text `index` stand.

        Raises:
            InvalidOption: it has none.
        """
        found = tuple(position for position, token_id in enumerate(ids) if token_id == self.token_id)
        if not found:
            raise InvalidOption(f"text {index} has no {self.token} to fill; put it where a token is missing")
        return found


def find_targets(targets: str | Sequence[str], tokenizer: Tokenizer, vocab_size: int) -> NDArray[np.int64]:
    """Ids of the tokens that are to be compared, each spelled as in the vocabulary or as a text of one token.

    Raises:
        InvalidOption: there are none, or one is not a single token.
    """
    ids: dict[int, None] = {}
    for target in [targets] if isinstance(targets, str) else targets:
        known = tokenizer.token_id(target)
        found = [known] if known is not None else tokenizer.encode(target, add_special_tokens=False)
        if len(found) != 1 or found[0] >= vocab_size:
            pieces = " ".join(tokenizer.token(token_id) or "" for token_id in found)
            raise InvalidOption(
                f"target {target!r} is not one token of the model but {pieces or 'none'}; choose others"
            )
        ids[found[0]] = None
    if not ids:
        raise InvalidOption("targets is empty; name at least one, or leave it out for the whole vocabulary")
    return np.array(list(ids), np.int64)


def best_tokens(
    logits: NDArray[np.float32], top_k: int, among: NDArray[np.int64] | None = None
) -> list[tuple[int, float]]:
    """Id and probability of the likeliest tokens at one mask, best first.

    Args:
        logits: [vocab_size], at the mask.
        top_k: how many; fewer where there are no more.
        among: only these ids; None allows all.
    """
    probabilities = softmax(logits)
    candidates = np.arange(len(probabilities)) if among is None else among
    best = candidates[np.argsort(-probabilities[candidates], kind="stable")[:top_k]]
    return [(token, float(probabilities[token])) for token in best.tolist()]


def filled_text(ids: Sequence[int], position: int, token_id: int, tokenizer: Tokenizer) -> str:
    """The text of an input whose mask at that position gives way to a token; no special tokens but other masks."""
    mask = ids[position]
    filled = [token_id if i == position else one for i, one in enumerate(ids)]
    shown = [one for one in filled if one not in tokenizer.special_ids or one == mask]
    return tokenizer.decode(shown, skip_special_tokens=False)
