"""EncoderModel: a package of an encoder, texts in and arrays, labels, spans or scores out. The loop on ids is encode.py."""

# A text is a sequence of texts to a type checker, so the overload for one text always overlaps the one for a list.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from edgelm import signature, tasks
from edgelm.embeddings import compatible, cosine_similarity, with_length_1
from edgelm.encoder_inputs import Input, count, listed, query_pairs
from edgelm.encoder_runner import Array
from edgelm.errors import InvalidOption
from edgelm.labels import Label, Ranked, label_scores, ranking
from edgelm.token_tasks import TokenTasks


class EncoderModel(TokenTasks):
    """A loaded encoder. A text's result does not depend on what else is in the call, beyond rounding.

    Wherever a method takes texts, a text may be a pair of texts as a tuple, or token ids, which are used as they are. One
    text gives one result, a list of them a list. Texts beyond `max_length` are refused, or cut with `truncate`.
    """

    def encode(
        self,
        sentences: Input | Sequence[Input],
        *,
        batch_size: int = 32,
        normalize: bool | None = None,
        dimensions: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool = False,
        **options: Any,
    ) -> Array:
        """Embeddings of texts: float32 [len(sentences), dimensions], or [dimensions] of one text.

        Args:
            sentences: a text or a list of them.
            batch_size: most texts that run together.
            normalize: bring embeddings to length 1. By default they come as the checkpoint's modules make them, and those
                of a normalizing checkpoint keep length 1 when they are cut.
            dimensions: keep only the first so many, for models trained for it (Matryoshka, arXiv:2205.13147).
            prompt: text to put before each text; pairs and token ids go without.
            prompt_name: the checkpoint's prompt of that name; by default its default prompt, if it has one.
            truncate: cut texts that are too long instead of refusing them.
            options: sentence-transformers' names normalize_embeddings, truncate_dim and show_progress_bar, and those of
                its options that ask for what is done anyway, such as convert_to_numpy=True.

        Raises:
            InvalidOption: the package is for another task, or an option is unknown or out of range.
            ContextOverflow: a text is too long and `truncate` is False.
        """
        given = compatible(options)
        self._require(tasks.EMBEDDING)
        normalize = given.get("normalize_embeddings", normalize)
        size = self._dimensions(given.get("truncate_dim", dimensions))
        prefix = self._prompt(prompt, prompt_name)
        texts, single = listed(sentences)
        rows = self._reader.rows([prefix + one if isinstance(one, str) else one for one in texts], truncate=truncate)
        label = None if given.get("show_progress_bar") is False else "Encoding"
        found = np.zeros((len(rows), size), np.float32)
        for i, vector in self._run(rows, signature.SENTENCE_EMBEDDING, batch_size, label):
            found[i] = vector[:size]
        if normalize or (normalize is None and self.facts.normalized and size < self.facts.dimensions):
            found = with_length_1(found)
        return found[0] if single else found

    def encode_query(self, sentences: Input | Sequence[Input], **options: Any) -> Array:
        """As `encode`, with the checkpoint's prompt for queries, if it has one."""
        return self.encode(sentences, **self._prompted(options, "query"))

    def encode_document(self, sentences: Input | Sequence[Input], **options: Any) -> Array:
        """As `encode`, with the checkpoint's prompt for documents, if it has one."""
        return self.encode(sentences, **self._prompted(options, "document", "passage", "corpus"))

    def similarity(self, a: ArrayLike, b: ArrayLike) -> Array:
        """Cosine of every embedding of `a` with every one of `b`: [n, size] and [m, size] -> float32 [n, m].

        Raises:
            InvalidOption: these are no embeddings, or their sizes differ.
        """
        return cosine_similarity(a, b)

    def get_sentence_embedding_dimension(self) -> int:
        """Width of an embedding, under sentence-transformers' name.

        Raises:
            InvalidOption: the package is for another task.
        """
        self._require(tasks.EMBEDDING)
        return self.facts.dimensions

    @overload
    def hidden_states(self, texts: Input, *, truncate: bool = False, batch_size: int = 32) -> Array: ...
    @overload
    def hidden_states(self, texts: Sequence[Input], *, truncate: bool = False, batch_size: int = 32) -> list[Array]: ...
    def hidden_states(
        self, texts: Input | Sequence[Input], *, truncate: bool = False, batch_size: int = 32
    ) -> Array | list[Array]:
        """The last layer's vector of each token: float32 [tokens, hidden_size] a text, special tokens included.

        Args:
            texts: a text or a list of them.
            truncate: cut texts that are too long instead of refusing them.
            batch_size: most texts that run together.

        Raises:
            InvalidOption: an option is out of range, or Optimum's graph for this task puts out no hidden states.
            ContextOverflow: a text is too long and `truncate` is False.
        """
        self._require_output(signature.LAST_HIDDEN_STATE)
        inputs, single = listed(texts)
        rows = self._reader.rows(inputs, truncate=truncate)
        found = self._collect(rows, signature.LAST_HIDDEN_STATE, batch_size, "Encoding")
        return found[0] if single else found

    @overload
    def classify(
        self, texts: Input, *, top_k: int | None = None, truncate: bool = False, batch_size: int = 32
    ) -> list[Label]: ...
    @overload
    def classify(
        self, texts: Sequence[Input], *, top_k: int | None = None, truncate: bool = False, batch_size: int = 32
    ) -> list[list[Label]]: ...
    def classify(
        self,
        texts: Input | Sequence[Input],
        *,
        top_k: int | None = None,
        truncate: bool = False,
        batch_size: int = 32,
    ) -> list[Label] | list[list[Label]]:
        """Labels with scores, best first: a list for each text.

        Args:
            texts: a text or a pair of texts, or a list of them.
            top_k: keep only the best so many.
            truncate: cut texts that are too long, the longer one of a pair first, instead of refusing them.
            batch_size: most texts that run together.

        Raises:
            InvalidOption: the package is for another task, or an option is out of range.
            ContextOverflow: a text is too long and `truncate` is False.
        """
        self._require(tasks.SEQUENCE_CLASSIFICATION, tasks.RERANKING)
        most = None if top_k is None else count("top_k", top_k)
        inputs, single = listed(texts)
        logits = self._collect(self._reader.rows(inputs, truncate=truncate), signature.LOGITS, batch_size, "Labelling")
        found = [label_scores(row, self.facts)[:most] for row in logits]
        return found[0] if single else found

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        truncate: bool = False,
        batch_size: int = 32,
    ) -> list[Ranked]:
        """Documents by how well they answer a query, best first, with the scores of sentence-transformers' CrossEncoder.

        Args:
            query: a text; it stands before each document.
            documents: texts.
            top_k: keep only the best so many.
            truncate: cut query and document where they are too long, the longer one first, instead of refusing them.
            batch_size: most documents that run together.

        Raises:
            InvalidOption: the package is for another task or has more than one label, or an option is out of range.
            ContextOverflow: query and document are too long and `truncate` is False.
        """
        self._require(tasks.RERANKING, tasks.SEQUENCE_CLASSIFICATION)
        labels = self.facts.labels
        if len(labels) != 1:
            raise InvalidOption(
                f"{self.package.path} has {len(labels)} labels and a reranker has one; classify takes pairs of texts too"
            )
        most = None if top_k is None else count("top_k", top_k)
        pairs = query_pairs(query, documents)
        logits = self._collect(self._reader.rows(pairs, truncate=truncate), signature.LOGITS, batch_size, "Ranking")
        return ranking(logits, [document for _, document in pairs], self.facts.problem_type)[:most]

    def _dimensions(self, asked: int | None) -> int:
        if asked is None:
            return self.facts.dimensions
        if count("dimensions", asked) > self.facts.dimensions:
            raise InvalidOption(f"dimensions {asked} is outside 1..{self.facts.dimensions}, the model's own")
        return asked

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """The text before each text."""
        if prompt is not None:
            return prompt
        prompts = self.facts.prompts
        name = self.facts.default_prompt if name is None else name
        if name is not None and name not in prompts:
            raise InvalidOption(f"the model has no prompt {name!r} (it has {', '.join(prompts) or 'none'})")
        return "" if name is None else prompts[name]

    def _prompted(self, options: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """The options, and the first of these prompts that the model has; no prompt at all where it has none of them."""
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return dict(options)
        known = (self.facts.prompts[name] for name in names if name in self.facts.prompts)
        return {**options, "prompt": next(known, "")}
