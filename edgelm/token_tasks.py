"""What an encoder says about single tokens: their labels, an answer's first and last one, the token behind a mask."""

# A text is a sequence of texts to a type checker, so the overload for one text always overlaps the one for a list.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from edgelm import signature, tasks
from edgelm.answers import CONTEXT, Answer, AnswerOptions, find_answers
from edgelm.encode import Row
from edgelm.encoder_inputs import Input, count, is_text, listed, question_pairs
from edgelm.encoder_runner import Array, EncoderRunner
from edgelm.entities import (
    Aggregation,
    Entity,
    choose_aggregation,
    find_entities,
    read_pieces,
    replaced_tokens,
    without_overlaps,
)
from edgelm.errors import InvalidOption
from edgelm.labels import softmax
from edgelm.mask_filling import Masks, Prediction, best_tokens, filled_text, find_targets
from edgelm.tokenized import Tokenized

# What transformers' question answering pipeline reads at a time, and how much of it neighbours share.
_WINDOW, _STRIDE = 384, 128
_TEXT = 0  # the part of a lone text
_TOO_LONG = "for a text, stride reads it in windows and truncate=True (--truncate) cuts it; token ids are never cut"


class TokenTasks(EncoderRunner):
    """The tasks of EncoderModel that look at tokens."""

    @overload
    def classify_tokens(
        self, texts: Input, *, aggregation: Aggregation | None = None, ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None, truncate: bool = False, batch_size: int = 32,
    ) -> list[Entity]: ...  # fmt: skip
    @overload
    def classify_tokens(
        self, texts: Sequence[Input], *, aggregation: Aggregation | None = None, ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None, truncate: bool = False, batch_size: int = 32,
    ) -> list[list[Entity]]: ...  # fmt: skip
    def classify_tokens(
        self,
        texts: Input | Sequence[Input],
        *,
        aggregation: Aggregation | None = None,
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        truncate: bool = False,
        batch_size: int = 32,
    ) -> list[Entity] | list[list[Entity]]:
        """Spans of a text that have a label, in its order: a list for each text. No pairs.

        Of ELECTRA's discriminator every token, with the probability that it was replaced. Of token ids the spans count in
        the text that they decode to, and tokens that the tokenizer calls special are left out.

        Args:
            texts: texts or token ids.
            aggregation: "none" gives every token; "simple", the default, joins neighbours of one label; "first",
                "average" and "max" give all tokens of a word one label before.
            ignore_labels: labels that are left out.
            stride: read a text that is too long in windows that share so many tokens.
            truncate: cut texts that are too long instead of refusing them.
            batch_size: most texts, or windows, that run together.

        Raises:
            InvalidOption: the package is for another task, or an option is unknown or out of range.
            ContextOverflow: a text is too long, and neither stride nor truncate says what to do.
        """
        task = self._require(tasks.TOKEN_CLASSIFICATION, tasks.REPLACED_TOKEN_DETECTION)
        labelled = task == tasks.TOKEN_CLASSIFICATION
        ignored = (ignore_labels,) if isinstance(ignore_labels, str) else ignore_labels
        chosen = choose_aggregation(aggregation, labelled=labelled, windows=stride is not None)
        shared = None if stride is None else count("stride", stride, least=0)
        inputs, single = listed(texts)
        windows = [
            self._windows(tokens, i, shared, truncate) if is_text(inputs[i]) else [tokens]
            for i, tokens in enumerate(self._reader.tokenized(_lone(inputs)))
        ]
        rows = [self._reader.row(w, i, _TOO_LONG) for i, many in enumerate(windows) for w in many]
        logits = iter(self._collect(rows, signature.LOGITS, batch_size, "Tagging"))
        found: list[list[Entity]] = []
        for many in windows:
            entities = [e for w in many for e in self._entities(w, next(logits), chosen, ignored)]
            found.append(without_overlaps(entities) if len(many) > 1 else entities)
        return found[0] if single else found

    @overload
    def answer(
        self, question: str, context: str, *, top_k: int = 1, max_answer_length: int = 15, no_answer: bool = False,
        window: int | None = None, stride: int | None = None, batch_size: int = 32,
    ) -> list[Answer]: ...  # fmt: skip
    @overload
    def answer(
        self, question: str | Sequence[str], context: str | Sequence[str], *, top_k: int = 1,
        max_answer_length: int = 15, no_answer: bool = False,
        window: int | None = None, stride: int | None = None, batch_size: int = 32,
    ) -> list[list[Answer]]: ...  # fmt: skip
    def answer(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        max_answer_length: int = 15,
        no_answer: bool = False,
        window: int | None = None,
        stride: int | None = None,
        batch_size: int = 32,
    ) -> list[Answer] | list[list[Answer]]:
        """Spans of a context that answer a question, best first; a list of questions or contexts gives a list for each.

        A context of any length will do: it is read in windows behind the question, which is never cut.

        Args:
            question: a text, or one for each context.
            context: a text, or one for each question.
            top_k: how many answers; fewer where there are no more.
            max_answer_length: most tokens of an answer.
            no_answer: let an empty answer compete, which says that there is none.
            window: most tokens of question and context that are read at a time; by default 384, or all the model reads.
            stride: tokens that neighbouring windows share; by default 128, or half a window.
            batch_size: most windows that run together.

        Raises:
            InvalidOption: the package is for another task, an option is out of range, or there are not as many questions
                as contexts.
            ContextOverflow: a question leaves too little of the window to its context.
        """
        self._require(tasks.QUESTION_ANSWERING)
        options = AnswerOptions(count("top_k", top_k), count("max_answer_length", max_answer_length), no_answer)
        pairs, single = question_pairs(question, context)
        limit = min(self.max_length, _WINDOW) if window is None else count("window", window)
        if limit > self.max_length:
            raise InvalidOption(f"window {limit} is more than the {self.max_length} tokens that the model reads")
        shared = min(limit // 2, _STRIDE) if stride is None else count("stride", stride, least=0)
        windows = [self._reader.pieces(tokens, CONTEXT, limit, shared) for tokens in self._reader.tokenized(pairs)]
        rows = [self._reader.row(piece, i) for i, many in enumerate(windows) for piece in many]
        logits = iter(self._collect(rows, signature.LOGITS, batch_size, "Answering"))
        cls = self.tokenizer.special_token("cls_token")
        cls_token_id = None if cls is None else self.tokenizer.token_id(cls)
        found = [find_answers([(piece, next(logits)) for piece in many], options, cls_token_id) for many in windows]
        return found[0] if single else found

    @overload
    def fill_mask(
        self, texts: Input, *, top_k: int = 5, targets: str | Sequence[str] | None = None, truncate: bool = False,
        batch_size: int = 32,
    ) -> list[list[Prediction]]: ...  # fmt: skip
    @overload
    def fill_mask(
        self, texts: Sequence[Input], *, top_k: int = 5, targets: str | Sequence[str] | None = None,
        truncate: bool = False, batch_size: int = 32,
    ) -> list[list[list[Prediction]]]: ...  # fmt: skip
    def fill_mask(
        self,
        texts: Input | Sequence[Input],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        truncate: bool = False,
        batch_size: int = 32,
    ) -> list[list[Prediction]] | list[list[list[Prediction]]]:
        """Tokens that may stand at the masks of a text, best first: for each text a list for each of its masks.

        Args:
            texts: texts with the model's mask token, such as [MASK] or <mask>.
            top_k: how many tokens a mask; fewer where there are no more.
            targets: compare only these tokens; scores stay those among the whole vocabulary.
            truncate: cut texts that are too long instead of refusing them.
            batch_size: most texts that run together.

        Raises:
            InvalidOption: the package is for another task or its tokenizer has no mask token, a text has no mask, a
                target is no single token, or an option is out of range.
            ContextOverflow: a text is too long and `truncate` is False.
        """
        self._require(tasks.FILL_MASK)
        most, masks = count("top_k", top_k), Masks.of(self.tokenizer)
        vocab_size = self.package.manifest.vocab_size
        among = None if targets is None else find_targets(targets, self.tokenizer, vocab_size)
        inputs, single = listed(texts)
        plain = self._reader.rows(inputs, truncate=truncate)
        rows = [Row(row.ids, row.type_ids, masks.find(row.ids, i)) for i, row in enumerate(plain)]
        found: list[list[list[Prediction]]] = [[] for _ in rows]
        # Logits of a whole vocabulary are large, so those of a text are dropped as soon as they are read.
        for i, logits in self._run(rows, signature.LOGITS, batch_size, "Filling"):
            found[i] = [
                self._predictions(best_tokens(values, most, among), rows[i], position)
                for position, values in zip(rows[i].positions, logits, strict=True)
            ]
        return found[0] if single else found

    def _windows(self, tokens: Tokenized, index: int, stride: int | None, truncate: bool) -> list[Tokenized]:
        if stride is not None:
            return self._reader.pieces(tokens, _TEXT, self.max_length, stride)
        return [self._reader.cut(tokens, index) if truncate else tokens]

    def _entities(self, tokens: Tokenized, logits: Array, aggregation: str, ignored: Sequence[str]) -> list[Entity]:
        if self.package.manifest.task == tasks.REPLACED_TOKEN_DETECTION:
            return replaced_tokens(tokens, logits, self.facts.labels[-1])
        pieces = read_pieces(tokens, softmax(logits), self.tokenizer)
        return find_entities(pieces, tokens.text, self.facts.labels, aggregation, ignored)

    def _predictions(self, best: Sequence[tuple[int, float]], row: Row, position: int) -> list[Prediction]:
        tokenizer = self.tokenizer
        return [
            Prediction(
                tokenizer.decode([token], skip_special_tokens=False),
                token,
                score,
                filled_text(row.ids, position, token, tokenizer),
            )
            for token, score in best
        ]


def _lone(inputs: Sequence[Any]) -> Sequence[Any]:
    """The inputs, none of which may be a pair."""
    for i, one in enumerate(inputs):
        if isinstance(one, tuple) and is_text(one):
            raise InvalidOption(f"text {i} is a pair of texts, and tokens are labelled in one text at a time")
    return inputs
