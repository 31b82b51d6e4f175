"""DecoderModel: a package of a decoder, text in and text out. The loop on ids is decode.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from edgelm import generation
from edgelm.chat import ChatTemplate
from edgelm.decode import DecoderRows
from edgelm.errors import ContextOverflow, GenerationError, InvalidOption
from edgelm.generation import Chunk, Generation, Request
from edgelm.generation_config import GenerationConfig
from edgelm.loading import device_facts, length_limit, load_program
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.rows import decoder_rows
from edgelm.tokenizer import Tokenizer

Prompt = str | Sequence[int]
Message = Mapping[str, Any]


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
        self.device = device_facts(self._program)
        self.tokenizer = Tokenizer.from_folder(package.path)
        self.chat_template = ChatTemplate.from_folder(package.path, self.tokenizer.special_tokens)
        self.defaults = GenerationConfig.from_checkpoint(package.manifest.generation)

    @overload
    def generate(
        self, prompt: Prompt | list[str] | list[list[int]], *, num_return_sequences: int, **options: Any
    ) -> Any: ...
    @overload
    def generate(self, prompt: Prompt, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], **options: Any) -> list[Generation]: ...
    def generate(self, prompt: Prompt | list[str] | list[list[int]], **options: Any) -> Any:
        """Continues a prompt as it stands, or a list of prompts as one batch.

        Args:
            prompt: text or token ids (ids are used as they are), or a list of either.
            options: fields of GenerationConfig; the checkpoint's own settings otherwise.

        Returns:
            A Generation, or one for each prompt of a list. With num_return_sequences above 1, a list of Generations in
            the place of each, best first when beams search for them.

        Raises:
            InvalidOption: an unknown option, a value out of range, options that contradict each other, an unknown token
                id, or an empty prompt.
            ContextOverflow: a prompt that leaves no room for a new token.
        """
        config = self.defaults.replace(**options)
        single = isinstance(prompt, str) or not _is_batch(prompt)
        prompts = [cast(Prompt, prompt)] if single else cast(Sequence[Prompt], prompt)
        requests = [Request(self._encode(one)) for one in prompts]
        found = generation.generate(self.decoder(len(requests)), requests, config, self.tokenizer)
        results = found if config.num_return_sequences > 1 else [one for (one,) in found]
        return results[0] if single else results

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Chunk]:
        """The same as `generate` for one prompt and one result, piece by piece. Bad options raise at once.

        Raises:
            InvalidOption: beams, whose text is known only at the end; and as for `generate`.
        """
        config, ids = self.defaults.replace(**options), self._encode(prompt)
        return generation.stream(self.decoder(1), Request(ids), config, self.tokenizer)

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

    def decoder(self, batch: int) -> DecoderRows:
        """The loop on ids with a cache of its own, for callers that bring their own loop."""
        return decoder_rows(self.package.manifest, self._program, batch=batch, limit=self.max_length)

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
