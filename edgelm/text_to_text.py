"""Seq2SeqModel: a package of an encoder-decoder, a text in and another text out. The loops on ids are encode.py and search.py."""

# A text is a sequence of texts to a type checker, so the overload for one text always overlaps the one for a list.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from edgelm import generation
from edgelm.errors import ContextOverflow, InvalidOption
from edgelm.generation import Chunk, Generation, Request
from edgelm.generation_config import GenerationConfig
from edgelm.generation_defaults import read_generation_config
from edgelm.languages import Languages
from edgelm.loading import device_facts, length_limit, load_encoder, load_program
from edgelm.logprobs import log_probabilities
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.rows import DECODER, ENCODER, seq2seq
from edgelm.tokenizer import Tokenizer

Source = str | Sequence[int]  # token ids are used as they are, nothing is added


class Seq2SeqModel:
    """A loaded encoder-decoder. Calls are independent of each other: each has its own cache."""

    def __init__(
        self, package: Package, provider: Provider, *, threads: int | None = None, max_length: int | None = None
    ) -> None:
        """Loads the programs and the tokenizer while the files' digests are checked.

        Raises:
            InvalidOption: max_length is outside 1..context_length, or threads below 1.
            DigestError: a file of the package was changed.
            ManifestError: the package does not say which token a target begins with.
        """
        manifest = package.manifest
        self.package = package
        self.max_length = length_limit(package, max_length)
        encoder = load_encoder(package, provider, threads)
        others = [name for name in manifest.programs if name != ENCODER]
        programs = {name: load_program(package, name, provider, threads) for name in others}
        self.device = device_facts(programs[DECODER])
        self._source_vocab_size = manifest.encoder_facts.vocab_size or manifest.vocab_size
        self._programs = seq2seq(manifest, encoder, programs, self.max_length)
        self.tokenizer = Tokenizer.from_folder(package.path)
        self._languages = Languages.from_folder(
            package.path, self.tokenizer, manifest.architecture, manifest.vocab_size, manifest.generation
        )
        self.defaults = read_generation_config(manifest.generation, start_tokens=1)
        self._start = manifest.start_token

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes that source_lang and target_lang may be; empty where there is nothing to choose."""
        return self._languages.codes

    @overload
    def generate(self, source: str | list[int], **options: Any) -> Generation: ...
    @overload
    def generate(self, source: Sequence[str] | Sequence[list[int]], **options: Any) -> list[Generation]: ...
    def generate(
        self,
        source: Source | Sequence[Source],
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        **options: Any,
    ) -> Any:
        """Writes the text that belongs to a source, or to each of a list of sources, which run as one batch.

        Args:
            source: text or token ids (ids are used as they are), or a list of either.
            source_lang: language code of the source, for models that know several.
            target_lang: language code of the text to write.
            options: fields of GenerationConfig; the checkpoint's own settings otherwise.

        Returns:
            A Generation, or one for each source of a list. With num_return_sequences above 1, a list of Generations in
            the place of each, best first.

        Raises:
            InvalidOption: an unknown option or language, a value out of range, an unknown token id, or an empty source.
            ContextOverflow: a source that is longer than the model reads.
        """
        sources, single = _listed(source)
        config, start = self._settings(target_lang, options)
        requests = [Request([start], self._encode(one, i, source_lang, target_lang)) for i, one in enumerate(sources)]
        if not requests:
            return []
        # The last token is not fed back, which leaves room for the one that targets start with.
        decoder = self._programs.start([request.answered for request in requests], config.max_new_tokens)
        found = generation.generate(decoder, requests, config, self._languages.writer)
        results = found if config.num_return_sequences > 1 else [one for (one,) in found]
        return results[0] if single else results

    def stream(
        self, source: Source, *, source_lang: str | None = None, target_lang: str | None = None, **options: Any
    ) -> Iterator[Chunk]:
        """The same as `generate` for one source and one result, piece by piece. Bad options raise at once.

        Raises:
            InvalidOption: beams, whose text is known only at the end; and as for `generate`.
        """
        config, start = self._settings(target_lang, options)
        ids = self._encode(source, 0, source_lang, target_lang)
        decoder = self._programs.start([ids], config.max_new_tokens)
        return generation.stream(decoder, Request([start], ids), config, self._languages.writer)

    def logits(self, source_ids: Sequence[int], target_ids: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits, float32 [len(target_ids), vocab_size]: row i predicts target token i + 1.

        `target_ids` begin with the token that targets start with.
        """
        source = self._checked(source_ids, "the source", self._source_vocab_size)
        target = self._checked(target_ids, "the target", self._programs.vocab_size)
        return self._programs.logits(source, target)

    def score(
        self, source: Source, target: Source, *, source_lang: str | None = None, target_lang: str | None = None
    ) -> float:
        """Log probability of a target text (or ids), its end included, after a source.

        A token that is forced to come first, such as the code of the language to write, is certain and counts nothing: this is the
        score of the same tokens in a beam search, times their number to the power of length_penalty.

        Raises:
            InvalidOption: target ids that do not begin with the token that is forced; otherwise as for `generate`.
            ContextOverflow: as for `generate`.
        """
        ids = self._encode(source, 0, source_lang, target_lang)
        config, start = self._settings(target_lang, {})
        forced = config.forced_bos_token_id
        wanted = self._target(target, target_lang, forced)
        (chosen,) = log_probabilities(wanted, [self.logits(ids, [start, *wanted[:-1]])])
        return float(chosen[forced is not None :].sum())

    def _target(self, target: Source, target_lang: str | None, forced: int | None) -> list[int]:
        """Ids of a target after the token that targets start with; the one that is forced comes first."""
        if isinstance(target, str):
            ids = self._languages.target(target, target_lang)
            return ids if forced is None or ids[:1] == [forced] else [forced, *ids]
        ids = self._checked(target, "the target", self._programs.vocab_size)
        if forced is not None and ids[0] != forced:
            raise InvalidOption(
                f"the target begins with token {ids[0]} and this model always writes {forced} "
                f"({self._languages.writer.token(forced)}) first; put it there"
            )
        return ids

    def _settings(self, target_lang: str | None, options: dict[str, Any]) -> tuple[GenerationConfig, int]:
        """Generation settings, and the token that targets start with."""
        forced, start = self._languages.beginning(target_lang)
        given = options if forced is None else {"forced_bos_token_id": forced, **options}
        config = self.defaults.replace(**given)
        if config.echo:
            raise InvalidOption("echo is for decoders: what an encoder-decoder writes does not begin with its source")
        if config.prompt_lookup_num_tokens or config.num_assistant_tokens:
            raise InvalidOption("prompt_lookup_num_tokens and num_assistant_tokens are for decoders: drop them")
        return config, self._start if start is None else start

    def _encode(self, source: Source, index: int, source_lang: str | None, target_lang: str | None) -> list[int]:
        if not isinstance(source, str):
            self._languages.check(source_lang, target_lang)
            return self._checked(source, f"source {index}", self._source_vocab_size)
        return self._checked(
            self._languages.source(source, source_lang, target_lang), f"source {index}", self._source_vocab_size
        )

    def _checked(self, ids: Sequence[int], what: str, vocab_size: int) -> list[int]:
        tokens = [int(token) for token in ids]
        if not tokens:
            raise InvalidOption(f"{what} is empty; give at least one token")
        if not 0 <= min(tokens) <= max(tokens) < vocab_size:
            raise InvalidOption(f"{what} holds token ids outside 0..{vocab_size - 1}, the model's vocabulary")
        if len(tokens) > self.max_length:
            raise ContextOverflow(
                f"{what} has {len(tokens):,} tokens and the model reads {self.max_length}; shorten it, or split it"
            )
        return tokens


def _listed(source: Any) -> tuple[list[Any], bool]:
    """The sources as a list, and whether there was only one."""
    if isinstance(source, str):
        return [source], True
    listed = list(cast("Sequence[Any]", source))
    single = bool(listed) and isinstance(listed[0], (int, np.integer))
    return ([listed] if single else listed), single
