"""DecoderModel: a package of a decoder, text in and text out. The loop on ids is decode.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast, overload

import numpy as np
from numpy.typing import NDArray

from edgelm import generation
from edgelm.adapters import Adapters
from edgelm.cache import check_room
from edgelm.chat import ChatTemplate
from edgelm.decode import PREFILL_CHUNK
from edgelm.draft_model import DraftModel, check_vocabulary
from edgelm.errors import ContextOverflow, GenerationError, InvalidOption
from edgelm.generation import Chunk, Generation, Request
from edgelm.generation_config import GenerationConfig
from edgelm.generation_defaults import read_generation_config
from edgelm.handle import Delivery, GenerationHandle
from edgelm.loading import check_least, device_facts, length_limit, load_program
from edgelm.logprobs import TokenLogprob, log_probabilities, token_logprobs
from edgelm.long_chat import Message, recent_turns
from edgelm.package import Package
from edgelm.prefix_cache import PrefixCache
from edgelm.protocols import DecoderRows
from edgelm.providers import Provider
from edgelm.rows import decoder_rows
from edgelm.scheduler import CLOSED, Scheduler
from edgelm.session import Program
from edgelm.state_file import read_state, write_state
from edgelm.tokenizer import Tokenizer
from edgelm.tools import Wish, find_dialect, read_wish

MAX_BATCH = 8
PREFIX_CACHE_MIB = 512

Prompt = str | Sequence[int]

# Logits of one chunk of a text that is scored: 64 MiB.
_CHUNK_LOGITS = 2**24


class DecoderModel:
    """A loaded decoder. Any thread may call it: all requests share one queue and one running batch (scheduler.py).

    A request's tokens do not depend on the others. What earlier requests computed is kept, so a prompt that begins like one
    of them, or goes on from its answer, is only read from there on.
    """

    def __init__(
        self,
        package: Package,
        provider: Provider,
        *,
        threads: int | None = None,
        max_length: int | None = None,
        max_batch: int = MAX_BATCH,
        prefix_cache_mib: int = PREFIX_CACHE_MIB,
        draft_model: DecoderModel | None = None,
    ) -> None:
        """Loads the program and the tokenizer while the files' digests are checked.

        Raises:
            InvalidOption: max_length is outside 1..context_length, threads or max_batch below 1, prefix_cache_mib below 0, or
                the draft model has another vocabulary.
            DigestError: a file of the package was changed.
        """
        self.package = package
        self.max_length = length_limit(package, max_length)
        check_least("max_batch", max_batch, 1)
        check_least("prefix_cache_mib", prefix_cache_mib, 0)
        program = load_program(package, "decoder", provider, threads)
        self.device = device_facts(program)
        self._loaded: Program | None = program
        self._adapters = Adapters(package, program)
        self._prefixes = PrefixCache(prefix_cache_mib * 2**20)
        self._scheduler = Scheduler(self._new_row, self.max_length, max_batch=max_batch, prefixes=self._prefixes)
        self.tokenizer = Tokenizer.from_folder(package.path)
        self.chat_template = ChatTemplate.from_folder(package.path, self.tokenizer.special_tokens)
        self.defaults = read_generation_config(package.manifest.generation)
        self._drafts = draft_model
        self._draft_model: DraftModel | None = None
        if draft_model is not None:
            check_vocabulary(self.tokenizer, draft_model.tokenizer, str(draft_model.package.path))
            sizes = (draft_model.package.manifest.vocab_size, package.manifest.vocab_size)
            self._draft_model = DraftModel(lambda: draft_model.decoder(1), draft_model.max_length, sizes)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that were kept apart at the export; each call may name one."""
        return self._adapters.names

    @overload
    def generate(
        self, prompt: Prompt | list[str] | list[list[int]], *, num_return_sequences: int, **options: Any
    ) -> Any: ...
    @overload
    def generate(self, prompt: Prompt, *, adapter: str | None = None, **options: Any) -> Generation: ...
    @overload
    def generate(
        self, prompt: list[str] | list[list[int]], *, adapter: str | None = None, **options: Any
    ) -> list[Generation]: ...
    def generate(
        self, prompt: Prompt | list[str] | list[list[int]], *, adapter: str | None = None, **options: Any
    ) -> Any:
        """Continues a prompt as it stands, or each of a list of prompts, which are answered side by side.

        Args:
            prompt: text or token ids (ids are used as they are), or a list of either.
            adapter: one of `adapters`, for all prompts; None for the model as it is.
            options: fields of GenerationConfig; the checkpoint's own settings otherwise.

        Returns:
            A Generation, or one for each prompt of a list. With num_return_sequences above 1, a list of Generations in
            the place of each, best first when beams search for them.

        Raises:
            InvalidOption: an unknown option, a value out of range, options that contradict each other, an unknown token
                id or adapter, or an empty prompt.
            ContextOverflow: a prompt that leaves no room for a new token.
            GenerationError: damaged logits, settings that forbid every token, or a model that was closed.
        """
        single = isinstance(prompt, str) or not _is_batch(prompt)
        prompts = [cast(Prompt, prompt)] if single else cast(Sequence[Prompt], prompt)
        handles = self._submit(prompts, adapter, options)
        try:
            results = [handle.result() for handle in handles]
        finally:  # an error of one, or Ctrl-C, ends all
            for handle in handles:
                handle.cancel()
        return results[0] if single else results

    def submit(self, prompt: Prompt, *, adapter: str | None = None, **options: Any) -> GenerationHandle:
        """Puts the request of `generate` for one prompt into the queue and returns at once.

        Raises:
            as for `generate`.
        """
        (handle,) = self._submit([prompt], adapter, options)
        return handle

    def stream(self, prompt: Prompt, *, adapter: str | None = None, **options: Any) -> Iterator[Chunk]:
        """The same as `generate` for one prompt and one result, piece by piece. Bad options raise at once.

        Work begins with the first piece that is asked for, and goes on while the caller does something else. Closing the
        iterator cancels the rest.

        Raises:
            InvalidOption: beams, whose text is known only at the end; and as for `generate`.
        """
        config = self._settings(options)
        generation.check_streamable(config)
        (delivery,) = self._deliveries([prompt], adapter, config)
        return self._stream(delivery)

    @overload
    def chat(
        self, messages: Sequence[Message], template: Mapping[str, Any] | None = None, **options: Any
    ) -> Generation: ...
    @overload
    def chat(
        self, messages: Sequence[Sequence[Message]], template: Mapping[str, Any] | None = None, **options: Any
    ) -> list[Generation]: ...
    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        template: Mapping[str, Any] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Answers a conversation: the chat template turns {"role", "content"} messages into the prompt.

        Args:
            messages: the conversation so far, or a list of conversations, which are one batch.
            template: what else the checkpoint's template reads, such as {"enable_thinking": False}.
            tools: what the model may call: {"type": "function", "function": {"name", "description", "parameters"}} each,
                which the template must read. Calls are found in the answer, and in `tool_calls` of the result.
            tool_choice: "auto", "none", "required" or {"type": "function", "function": {"name"}}. The last two allow
                nothing but a call whose arguments meet the tool's schema.
            response_format: {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema"}} allow nothing
                but such JSON.
            options: as for `generate`, which says what is returned and raised.
        """
        wish = self._wish(tools, tool_choice, response_format)
        several = isinstance(messages, list) and bool(messages) and isinstance(messages[0], list)
        asked = cast("Sequence[Sequence[Message]]", messages if several else [messages])
        prompts = [self._wished_ids(one, template, wish) for one in asked]
        found = [wish.read(one) for one in self.generate(prompts, **wish.combined(options))]
        return found if several else found[0]

    def stream_chat(
        self,
        messages: Sequence[Message],
        template: Mapping[str, Any] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[Chunk]:
        """The same as `chat`, piece by piece; the last piece has the calls of tools."""
        wish = self._wish(tools, tool_choice, response_format)
        chunks = self.stream(self._wished_ids(messages, template, wish), **wish.combined(options))
        return wish.follow(chunks) if wish.names else chunks

    def fit_chat(
        self, messages: Sequence[Message], template: Mapping[str, Any] | None = None, **options: Any
    ) -> list[Message]:
        """A conversation without its oldest turns where it leaves no room for an answer; nothing else ever drops any.

        The system message and the last turn stay. What is dropped is more than has to be (long_chat.py), so that the next
        turns of the chat are read from the prefix cache.

        Args:
            messages: the conversation so far.
            template: as for `chat`.
            options: as for `generate`; max_new_tokens is the room for an answer, at most a quarter of the context.

        Raises:
            as for `chat_ids`.
        """
        answer = min(self.defaults.replace(**options).max_new_tokens, self.max_length // 4)
        return recent_turns(
            messages, lambda some: len(self.chat_ids(some, **(template or {}))), self.max_length - answer
        )

    def chat_ids(self, messages: Sequence[Message], **template: Any) -> list[int]:
        """The token ids a conversation becomes.

        Raises:
            InvalidOption: a variable that the template does not read.
            GenerationError: the package has no chat template, or the template refuses the messages.
        """
        if self.chat_template is None:
            raise GenerationError(
                f"{self.package.path} has no chat template; use generate (or --raw) with a prompt of your own"
            )
        return self.tokenizer.encode(self.chat_template.render(messages, **template), add_special_tokens=False)

    def logits(self, token_ids: Sequence[int], *, adapter: str | None = None) -> NDArray[np.float32]:
        """Teacher-forced logits, float32 [len(token_ids), vocab_size]: row i predicts token i + 1."""
        ids = self._encode(token_ids)
        return np.concatenate(list(self.decoder(1, adapter).all_logits(0, ids)))

    def logprobs(self, text: Prompt, top: int = 0) -> list[TokenLogprob]:
        """Log probabilities of a text (or ids), token by token, each after all before it; the first has none.

        Args:
            text: is taken as it stands, with the special tokens that its tokenizer adds.
            top: how many of the likeliest tokens to tell at each place.
        """
        ids = self._encode(text)
        return token_logprobs(ids, self._all_logits(ids), top)

    def score(self, text: Prompt) -> float:
        """Log probability of a text (or ids): of all tokens but the first, which nothing comes before.

        Raises:
            InvalidOption: a text of one token; otherwise as for `generate`.
        """
        return self._scored(text)[0]

    def perplexity(self, text: Prompt) -> float:
        """exp(-score / number of tokens that count); 1 is certainty, vocab_size a guess. Raises as `score` does."""
        total, count = self._scored(text)
        return math.exp(-total / count)

    def decoder(self, batch: int, adapter: str | None = None) -> DecoderRows:
        """The loop on ids with a cache of its own, for callers that bring their own loop."""
        return self._rows(batch, self.max_length, adapter)

    def save_state(self, path: str | Path) -> None:
        """Writes what is kept of earlier requests into a file, so that another process can go on from there.

        Raises:
            StateError: the file cannot be written.
        """
        with self._prefixes.rows() as rows:
            write_state(Path(path), self.package.digest, rows)

    def load_state(self, path: str | Path) -> None:
        """Takes over what `save_state` wrote with the same package, as if the requests had been made here, just now.

        Raises:
            StateError: the file cannot be read, is damaged, or was written with another package.
            ContextOverflow: it holds a longer sequence than the model was loaded for.
        """
        manifest = self.package.manifest
        for kept in read_state(Path(path), self.package.digest, manifest.vocab_size, self._new_row):
            self._prefixes.put(kept.row, kept.adapter)

    def close(self) -> None:
        """Cancels all requests, and frees the program and what was kept; every later call is an error.

        The model may be used in a `with` statement instead, which closes it at the end.
        """
        self._scheduler.close()
        self._prefixes.clear()
        self._loaded = self._draft_model = None
        if self._drafts is not None:
            self._drafts.close()

    def __enter__(self) -> Self:
        """The model itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes it."""
        self.close()

    @property
    def _program(self) -> Program:
        if self._loaded is None:
            raise GenerationError(CLOSED)
        return self._loaded

    def _rows(self, batch: int, limit: int, adapter: str | None) -> DecoderRows:
        factors = None if adapter is None else self._adapters.factors(adapter)
        return decoder_rows(self.package.manifest, self._program, batch=batch, limit=limit, adapter=factors)

    def _new_row(self, positions: int, adapter: str | None) -> DecoderRows:
        check_room(positions, self.max_length)
        return self._rows(1, positions, adapter)

    def _submit(
        self, prompts: Sequence[Prompt], adapter: str | None, options: Mapping[str, Any]
    ) -> list[GenerationHandle]:
        deliveries = self._deliveries(prompts, adapter, self._settings(options))
        self._scheduler.submit(deliveries)
        return [GenerationHandle(delivery, self._scheduler.cancel) for delivery in deliveries]

    def _settings(self, options: Mapping[str, Any]) -> GenerationConfig:
        config = self.defaults.replace(**options)
        if config.num_assistant_tokens and self._drafts is None:
            raise InvalidOption(
                "num_assistant_tokens is for a draft model, and none was loaded: load with draft_model (--draft-model), "
                "or give prompt_lookup_num_tokens"
            )
        return config

    def _deliveries(self, prompts: Sequence[Prompt], adapter: str | None, config: GenerationConfig) -> list[Delivery]:
        if adapter is not None:
            self._adapters.factors(adapter)  # which says at once if there is none of that name
        requests = [self._request(one, config, adapter) for one in prompts]
        vocab_size = self.package.manifest.vocab_size
        replies = generation.replies(requests, config, self.tokenizer, vocab_size, self.max_length, self._draft_model)
        return [Delivery(reply, adapter) for reply in replies]

    def _stream(self, delivery: Delivery) -> Iterator[Chunk]:
        self._scheduler.submit([delivery])
        try:
            yield from GenerationHandle(delivery, self._scheduler.cancel)
        finally:
            self._scheduler.cancel(delivery)

    def _wish(self, tools: Any, tool_choice: Any, response_format: Any) -> Wish:
        source = "" if self.chat_template is None else self.chat_template.tool_source
        return read_wish(
            find_dialect(source),
            lambda text: self.tokenizer.token_id(text) in self.tokenizer.special_ids,
            tools=tools,
            tool_choice=tool_choice,
            response_format=response_format,
        )

    def _wished_ids(self, messages: Sequence[Message], template: Mapping[str, Any] | None, wish: Wish) -> list[int]:
        return self.chat_ids(messages, **{**(template or {}), **wish.template})

    def _request(self, prompt: Prompt, config: GenerationConfig, adapter: str | None) -> Request:
        ids = self._encode(prompt)
        if not config.echo or config.logprobs is None:
            return Request(ids)
        return Request(ids, logprobs=token_logprobs(ids, self._all_logits(ids, adapter), config.logprobs))

    def _scored(self, text: Prompt) -> tuple[float, int]:
        ids = self._encode(text)
        if len(ids) < 2:
            raise InvalidOption("the text is one token, which nothing comes before; give a longer one to score")
        return sum(float(part.sum()) for part in log_probabilities(ids[1:], self._all_logits(ids))), len(ids) - 1

    def _all_logits(self, ids: Sequence[int], adapter: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Logits of every position, a chunk at a time."""
        chunk = max(1, min(PREFILL_CHUNK, _CHUNK_LOGITS // self.package.manifest.vocab_size))
        return self.decoder(1, adapter).all_logits(0, ids, chunk)

    def _encode(self, prompt: Prompt) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        vocab_size = self.package.manifest.vocab_size
        if not ids:
            raise InvalidOption("the prompt is empty; give at least one token")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise InvalidOption(
                f"token id {min(ids) if min(ids) < 0 else max(ids)} is outside 0..{vocab_size - 1}, the model's vocabulary"
            )
        if len(ids) > self.max_length:
            raise ContextOverflow(
                f"the prompt has {len(ids)} tokens and the context holds {self.max_length}; shorten it, or load with a larger max_length "
                f"(the package allows {self.package.manifest.context_length})"
            )
        return ids


def _is_batch(prompt: Sequence[Any]) -> bool:
    return len(prompt) > 0 and not isinstance(prompt[0], (int, np.integer))
