"""What users give an encoder in, rows of token ids out: texts, pairs of texts or ids, checked against the model's limits."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgelm.encode import Row
from edgelm.errors import ContextOverflow, InvalidOption
from edgelm.tasks import EncoderFacts
from edgelm.tokenized import NONE, Tokenized, part_numbers, truncated, windows
from edgelm.tokenizer import Text, Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

Input = Text | Sequence[int] | NDArray[np.integer[Any]]  # token ids are used as they are, nothing is added

# What to do about an input that is too long.
_CUT = "truncate=True (--truncate) cuts it there, or split it"
_IDS = "token ids are never cut, split them"

# Texts that are tokenized at a time: what the library keeps about a token is many times what its id takes.
_CHUNK = 1024


def listed(inputs: Any) -> tuple[list[Any], bool]:
    """The inputs as a list, and whether there was only one: a text, a pair of texts as a tuple, or token ids.

    Raises:
        InvalidOption: neither one nor many of these.
    """
    if is_text(inputs):
        return [inputs], True
    # Bytes would pass as token ids, and a dict as its keys.
    if isinstance(inputs, (bytes, bytearray, dict)) or not _is_iterable(inputs):
        raise InvalidOption(_wrong("the input", cast("Any", inputs)))
    many = list(inputs)
    if many and isinstance(many[0], (int, np.integer)):
        return [many], True
    return many, False


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number from `least`.

    Raises:
        InvalidOption: it is none.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidOption(f"{name} {value!r} is no whole number") from error
    if number < least:
        raise InvalidOption(f"{name} {number} is below {least}")
    return number


def question_pairs(question: Any, context: Any) -> tuple[list[tuple[str, str]], bool]:
    """Pairs of questions and contexts, and whether there was only one: a lone one goes with all of the others.

    Raises:
        InvalidOption: they are no texts, or not as many questions as contexts.
    """
    single = isinstance(question, str) and isinstance(context, str)
    if not _is_iterable(question) or not _is_iterable(context):
        raise InvalidOption("question and context are no texts; answer takes texts, or lists of them")
    questions, contexts = ([given] if isinstance(given, str) else list(given) for given in (question, context))
    if isinstance(question, str):
        questions = questions * len(contexts)
    if isinstance(context, str):
        contexts = contexts * len(questions)
    if len(questions) != len(contexts):
        raise InvalidOption(f"{len(questions)} questions and {len(contexts)} contexts do not pair up; give as many")
    for i, pair in enumerate(zip(questions, contexts, strict=True)):
        if not is_text(pair):
            raise InvalidOption(f"question and context {i} are no texts; answer takes texts only")
    return list(zip(questions, contexts, strict=True)), single


def query_pairs(query: Any, documents: Any) -> list[tuple[str, str]]:
    """The query with each document.

    Raises:
        InvalidOption: they are no texts, or the documents no list.
    """
    pairs = [] if isinstance(documents, str) else [(query, document) for document in documents]
    if isinstance(documents, str) or not isinstance(query, str) or not all(map(is_text, pairs)):
        raise InvalidOption("rerank takes one query and a list of documents, all of them texts")
    return pairs


class InputReader:
    """Turns inputs into rows that the encoder can run: known ids, at least one, none too long."""

    def __init__(self, tokenizer: Tokenizer, facts: EncoderFacts, vocab_size: int, limit: int) -> None:
        """Takes the facts of a package.

        Args:
            tokenizer: the package's.
            facts: what the model takes.
            vocab_size: ids from this on have no embedding.
            limit: the most tokens of a row.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._limit = limit
        self._lowercase = facts.lowercase
        self._typed = facts.token_types and tokenizer.has_token_types

    def rows(self, inputs: Sequence[Any], *, truncate: bool = False) -> list[Row]:
        """The row of each input.

        Args:
            inputs: texts, pairs of them, or token ids, mixed at will.
            truncate: cut texts that are too long, the longer one of a pair first.

        Raises:
            InvalidOption: an input is of another kind, holds unknown ids, half a surrogate pair, or nothing at all.
            ContextOverflow: an input is too long and was not to be cut.
        """
        texts = (one for one in inputs if is_text(one))
        encodings = self._encodings([self._cased(text) for text in texts], inputs, offsets=False)
        rows: list[Row] = []
        for i, one in enumerate(inputs):
            rows.append(self._row(next(encodings), i, truncate) if is_text(one) else Row(_ids(one, i)))
            self._check(rows[-1], i, _CUT if is_text(one) else _IDS)
        return rows

    def tokenized(self, inputs: Sequence[Any]) -> list[Tokenized]:
        """The tokens of each input with their places, not cut; of a pair, those in the second text.

        Of token ids the text is what they decode to, and its special tokens are those that the tokenizer calls so.

        Raises:
            InvalidOption: as for `rows`.
        """
        encodings = self._encodings([one for one in inputs if is_text(one)], inputs, offsets=True)
        found: list[Tokenized] = []
        for i, one in enumerate(inputs):
            if not is_text(one):
                found.append(self._from_ids(_ids(one, i)))
            else:
                found.append(Tokenized.of(one if isinstance(one, str) else one[1], next(encodings)))
        return found

    def row(self, tokens: Tokenized, index: int, advice: str = _CUT) -> Row:
        """The row of tokens that input `index` was cut into; errors as for `rows`, with that advice."""
        row = Row(tokens.ids.tolist(), tokens.type_ids.tolist() if self._typed else None)
        self._check(row, index, advice)
        return row

    def cut(self, tokens: Tokenized, index: int) -> Tokenized:
        """The tokens that `truncate` leaves of input `index`."""
        self._check_room(int((tokens.parts == NONE).sum()), index)
        return tokens.take(truncated(tokens.parts, self._limit, left=self._tokenizer.truncates_left))

    def pieces(self, tokens: Tokenized, part: int, limit: int, stride: int) -> list[Tokenized]:
        """Windows of at most `limit` tokens over a part of the input; neighbours share `stride` tokens of it.

        Raises:
            ContextOverflow: what is no piece of the text leaves no room for more than the stride.
        """
        room = limit - int((tokens.parts != part).sum())
        if len(tokens.ids) > limit and room <= stride:
            raise ContextOverflow(
                f"windows of {limit} tokens have room for {max(0, room)} of a long text beside its question and special tokens, "
                f"so they cannot share {stride}; choose a smaller stride, a larger window, or shorten the question"
            )
        return [tokens.take(chosen) for chosen in windows(tokens.parts, part, limit, stride)]

    def _encodings(self, texts: Sequence[Text], inputs: Sequence[Any], *, offsets: bool) -> Iterator[Encoding]:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            try:
                yield from self._tokenizer.encode_batch(chunk, offsets=offsets)
            except InvalidOption as error:
                raise self._located(inputs, error) from error

    def _located(self, inputs: Sequence[Any], error: InvalidOption) -> InvalidOption:
        """The error with the number of the input it comes from."""
        for i, one in enumerate(inputs):
            try:
                self._tokenizer.encode_batch([one] if is_text(one) else [])
            except InvalidOption as found:
                return InvalidOption(f"text {i}: {found}")
        return error

    def _row(self, encoding: Encoding, index: int, truncate: bool) -> Row:
        types = encoding.type_ids if self._typed else None
        if not truncate or len(encoding.ids) <= self._limit:
            return Row(encoding.ids, types)
        parts = part_numbers(encoding)
        self._check_room(int((parts == NONE).sum()), index)
        chosen = truncated(parts, self._limit, left=self._tokenizer.truncates_left)
        return Row(np.array(encoding.ids)[chosen].tolist(), None if types is None else np.array(types)[chosen].tolist())

    def _from_ids(self, ids: list[int]) -> Tokenized:
        text, spans = self._tokenizer.spans(ids)
        array = np.array(ids, np.int64)
        special = np.isin(array, list(self._tokenizer.special_ids))
        return Tokenized(
            text=text,
            ids=array,
            type_ids=np.zeros_like(array),
            parts=np.where(special, NONE, 0),
            offsets=np.array(spans, np.int64).reshape(-1, 2),
            words=np.full_like(array, NONE),
        )

    def _cased(self, text: Text) -> Text:
        if not self._lowercase:
            return text
        return text.lower() if isinstance(text, str) else (text[0].lower(), text[1].lower())

    def _check(self, row: Row, index: int, advice: str) -> None:
        if not row.ids:
            raise InvalidOption(f"text {index} has no tokens; give at least one character")
        if not 0 <= min(row.ids) <= max(row.ids) < self._vocab_size:
            known = f"0..{self._vocab_size - 1}, the model's vocabulary"
            raise InvalidOption(f"text {index} holds token ids outside {known}")
        if len(row.ids) > self._limit:
            counts = f"{len(row.ids):,} tokens and the model reads {self._limit:,}"
            raise ContextOverflow(f"text {index} has {counts}; {advice}")

    def _check_room(self, special: int, index: int) -> None:
        if special > self._limit:
            raise ContextOverflow(
                f"text {index} cannot be cut to {self._limit} tokens: {special} special tokens belong to it; "
                "load with a larger max_length"
            )


def _ids(one: Any, index: int) -> list[int]:
    try:
        return [operator.index(token) for token in one]
    except TypeError as error:
        raise InvalidOption(_wrong(f"text {index}", one)) from error


def _wrong(name: str, one: Any) -> str:
    return f"{name} is a {type(one).__name__}; give text, a pair of texts as a tuple, token ids, or a list of these"


def _is_iterable(given: Any) -> bool:
    try:
        iter(given)
    except TypeError:
        return False
    return True


def is_text(one: Any) -> bool:
    """A text, or a pair of texts; anything else should be token ids."""
    if isinstance(one, tuple):
        parts = cast("tuple[Any, ...]", one)
        return len(parts) == 2 and all(isinstance(part, str) for part in parts)
    return isinstance(one, str)
