"""DecoderModel: a package of a decoder, text in and text out. The loop on ids is decode.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from edgelm.chat import ChatTemplate
from edgelm.decode import Decoder
from edgelm.errors import ContextOverflow, GenerationError, InvalidOption
from edgelm.generation_config import GenerationConfig
from edgelm.loading import length_limit, load_program
from edgelm.metrics import Metrics, Recorder
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.sampling import Sampler
from edgelm.stopping import StopState
from edgelm.tokenizer import Tokenizer

Prompt = str | Sequence[int]
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Generation:
    """A finished generation. `token_ids` are the new tokens, without prompt and end token."""

    text: str
    token_ids: list[int]
    finish_reason: str
    metrics: Metrics
    logprobs: list[float] | None = None


@dataclass(frozen=True)
class Chunk:
    """A piece of a generation as it is made; the last one carries finish_reason, token_ids and metrics."""

    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    metrics: Metrics | None = None


class DecoderModel:
    """A loaded decoder. Calls are independent of each other: each has its own cache."""

    def __init__(
        self, package: Package, provider: Provider, *, threads: int | None = None, max_length: int | None = None
    ) -> None:
        """Loads the program and the tokenizer while the files' digests are checked.

        Raises:
            InvalidOption: max_length is outside 1..context_length, or threads below 1.
            DigestError: a file of the package was changed.
        """
        self.package = package
        self.max_length = length_limit(package, max_length)
        self._program = load_program(package, "decoder", provider, threads)
        self.tokenizer = Tokenizer.from_folder(package.path)
        self.chat_template = ChatTemplate.from_folder(package.path, self.tokenizer.special_tokens)
        self.defaults = GenerationConfig.from_checkpoint(package.manifest.generation)

    @overload
    def generate(self, prompt: Prompt, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], **options: Any) -> list[Generation]: ...
    def generate(self, prompt: Prompt | list[str] | list[list[int]], **options: Any) -> Generation | list[Generation]:
        """Continues a prompt as it stands, or a list of prompts as one batch.

        Args:
            prompt: text or token ids (ids are used as they are), or a list of either.
            options: fields of GenerationConfig; the checkpoint's own settings otherwise.

        Raises:
            InvalidOption: an unknown option, a value out of range, an unknown token id, or an empty prompt.
            ContextOverflow: a prompt that leaves no room for a new token.
        """
        config = self.defaults.replace(**options)
        if isinstance(prompt, str) or not _is_batch(prompt):
            return _collect(self._run([self._encode(cast(Prompt, prompt))], config), 1)[0]
        prompts = [self._encode(one) for one in cast(Sequence[Prompt], prompt)]
        return _collect(self._run(prompts, config), len(prompts))

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Chunk]:
        """The same as `generate` for one prompt, piece by piece. Bad options raise at once, not at the first piece."""
        config, ids = self.defaults.replace(**options), self._encode(prompt)
        return (chunk for _, chunk in self._run([ids], config))

    def chat(
        self, messages: Sequence[Message], template: Mapping[str, Any] | None = None, **options: Any
    ) -> Generation:
        """Answers a conversation: the chat template turns {"role", "content"} messages into the prompt.

        Args:
            messages: the conversation so far.
            template: what else the checkpoint's template reads, such as {"enable_thinking": False} or {"tools": [...]}.
            options: as for `generate`, which says what is raised.
        """
        return self.generate(self.chat_ids(messages, **(template or {})), **options)

    def stream_chat(
        self, messages: Sequence[Message], template: Mapping[str, Any] | None = None, **options: Any
    ) -> Iterator[Chunk]:
        """The same as `chat`, piece by piece."""
        return self.stream(self.chat_ids(messages, **(template or {})), **options)

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

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits, float32 [len(token_ids), vocab_size]: row i predicts token i + 1."""
        ids = self._encode(token_ids)
        return np.concatenate(list(self.decoder(1).all_logits(0, ids)))

    def decoder(self, batch: int) -> Decoder:
        """The loop on ids with a cache of its own, for callers that bring their own loop."""
        manifest = self.package.manifest
        return Decoder(self._program, manifest.kv_cache, manifest.vocab_size, batch=batch, limit=self.max_length)

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

    def _run(self, prompts: Sequence[list[int]], config: GenerationConfig) -> Iterator[tuple[int, Chunk]]:
        """Decodes all prompts together, yielding (prompt's index, chunk); a finished row leaves the batch."""
        recorders = [Recorder(len(ids)) for ids in prompts]
        decoder = self.decoder(len(prompts))
        active: list[_Sequence] = []
        for row, ids in enumerate(prompts):
            sequence = _Sequence(row, ids, config, self, recorders[row])
            logits = decoder.prefill(row, ids)
            recorders[row].prefilled()
            active.append(sequence)
            yield row, sequence.accept(logits)
        while True:
            for row in reversed(range(len(active))):
                if active[row].finished:
                    decoder.drop(row)
                    active[row] = active[-1]
                    active.pop()
            if not active:
                return
            logits = decoder.step([sequence.ids[-1] for sequence in active])
            for row, sequence in enumerate(active):
                yield sequence.index, sequence.accept(logits[row])


class _Sequence:
    """One prompt on its way: ids so far, its own sampler, stopping and metrics, so that nothing depends on its batch mates."""

    def __init__(
        self, index: int, prompt: list[int], config: GenerationConfig, model: DecoderModel, recorder: Recorder
    ) -> None:
        self.index = index
        self.ids = list(prompt)
        self.finished = False
        self._prompt_tokens = len(prompt)
        # The last token is never fed back, so a full cache still leaves room for one.
        self._room = min(config.max_new_tokens, model.max_length - len(prompt) + 1)
        self._end_tokens = frozenset(config.eos_token_id)
        self._recorder = recorder
        self._sampler = Sampler(config, model.package.manifest.vocab_size)
        self._stop = StopState(config, model.tokenizer.stream())

    def accept(self, logits: NDArray[np.float32]) -> Chunk:
        """Draws the next token from the logits [vocab_size] and says what text that settles."""
        token = self._sampler(self.ids, logits)
        text, finish = self._stop.push(token)
        if token not in self._end_tokens:
            self.ids.append(token)
            self._recorder.token()
        reason = finish or ("length" if len(self.ids) - self._prompt_tokens >= self._room else None)
        if reason is None:
            return Chunk(text)
        self.finished = True
        text += self._stop.finish_text()
        # The held-back rest may complete a stop string after all.
        return Chunk(text, self._stop.finish or reason, self.ids[self._prompt_tokens :], self._recorder.finish())


def _is_batch(prompt: Sequence[Any]) -> bool:
    return len(prompt) > 0 and not isinstance(prompt[0], (int, np.integer))


def _collect(chunks: Iterator[tuple[int, Chunk]], count: int) -> list[Generation]:
    texts: list[list[str]] = [[] for _ in range(count)]
    done: dict[int, Generation] = {}
    for index, chunk in chunks:
        texts[index].append(chunk.text)
        if chunk.finish_reason is not None and chunk.token_ids is not None and chunk.metrics is not None:
            done[index] = Generation("".join(texts[index]), chunk.token_ids, chunk.finish_reason, chunk.metrics)
    return [done[index] for index in range(count)]
