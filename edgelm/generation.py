"""What every facade that writes text shares: prompts as ids in, a decoder driven through search.py, text and figures out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgelm import search
from edgelm.beam import BeamSearch, Hypothesis
from edgelm.constraints import Span, constraints
from edgelm.errors import InvalidOption
from edgelm.generation_config import GenerationConfig
from edgelm.metrics import Metrics, Recorder
from edgelm.sampling import Sampler, processors
from edgelm.search import Choice, Logits, Rows
from edgelm.stopping import StopState
from edgelm.tokenizer import Tokenizer


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asks for: the name of the tool, and the arguments by their names."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Generation:
    """A finished generation. `token_ids` are the new tokens, without prompt and end token.

    `finish_reason` is "stop" (an end token, a stop text, the end of a grammar), "length" (max_new_tokens, or the context is
    full) or "tool_calls" (a chat that was given tools asks for those in `tool_calls`; `text` has them as they were written).

    `score` is what beam search ranks by: the sum of the log probabilities, end token included, over their number to the
    power of length_penalty. Without beams there is none.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    metrics: Metrics
    logprobs: list[float] | None = None
    score: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of a generation as it is made; the last one carries finish_reason, token_ids, metrics and tool_calls."""

    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    metrics: Metrics | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Request:
    """What one generation starts from: the ids a decoder is fed first, and those of an encoder where there is one."""

    ids: list[int]
    source: list[int] | None = None

    @property
    def answered(self) -> list[int]:
        """The ids that the user's input became."""
        return self.ids if self.source is None else self.source


def generate(
    decoder: Rows, requests: Sequence[Request], config: GenerationConfig, tokenizer: Tokenizer
) -> list[list[Generation]]:
    """Generates for every request, row i of the decoder, num_return_sequences results each, best first.

    Beam search gives fewer where the settings allow no more.

    Raises:
        InvalidOption: a forced id that the vocabulary does not have.
        GenerationError: damaged logits, or settings that forbid every token.
    """
    job = _Job(decoder, config, tokenizer)
    prompts = [request.ids for request in requests]
    if config.num_beams > 1:
        beams = [[_Beams(job, request)] for request in requests]
        for _ in search.run(decoder, prompts, beams):
            pass
        return [one.results() for (one,) in beams]
    lines = [[_Line(job, request, number) for number in range(config.num_return_sequences)] for request in requests]
    for line in search.run(decoder, prompts, lines):
        line.texts.append(line.chunk.text)
    return [[line.result() for line in group] for group in lines]


def stream(decoder: Rows, request: Request, config: GenerationConfig, tokenizer: Tokenizer) -> Iterator[Chunk]:
    """The same for one request and one result, piece by piece.

    Raises:
        InvalidOption: settings under which the text is known only at the end, or there are several.
    """
    for name, value, instead in (
        ("num_beams", config.num_beams, "knows its text only at the end"),
        ("num_return_sequences", config.num_return_sequences, "has several texts"),
    ):
        if value > 1:
            raise InvalidOption(f"{name} {value} {instead}, so it cannot be streamed: use generate, or give {name} 1")
    lines = [[_Line(_Job(decoder, config, tokenizer), request, 0)]]
    return (line.chunk for line in search.run(decoder, [request.ids], lines))


class _Job:
    """What all sequences of one call share."""

    def __init__(self, decoder: Rows, config: GenerationConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.grammar = None
        if config.constraints:
            from edgelm.grammar import compile_grammar

            self.grammar = compile_grammar(config, tokenizer.vocabulary).processor
            tokenizer = tokenizer.verbatim()
        self.tokenizer = tokenizer
        self.vocab_size = decoder.vocab_size
        self._limit = decoder.limit

    def span(self, request: Request) -> Span:
        """A request's bounds."""
        start = len(request.ids)
        # The last token is never fed back, so a full cache still leaves room for one.
        return Span(start, start + min(self.config.max_new_tokens, self._limit - start + 1), request.answered)


class _Line:
    """One sequence on its way: ids so far, its own sampler, stopping and metrics, so that nothing depends on its batch mates."""

    def __init__(self, job: _Job, request: Request, number: int) -> None:
        span = job.span(request)
        self.texts: list[str] = []
        self.chunk = Chunk("")
        self._ids = list(request.ids)
        self._span = span
        self._end_tokens = frozenset(job.config.eos_token_id)
        self._recorder = Recorder(len(request.answered))
        self._prefilled = False
        limits = constraints(job.config, span, job.vocab_size, job.grammar)
        self._sampler = Sampler(job.config, job.vocab_size, limits, number)
        self._stop = StopState(job.config, job.tokenizer.stream())

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        """Draws the next token from the logits [1, vocab_size]; `chunk` is the text that this settles."""
        if not self._prefilled:
            self._recorder.prefilled()
            self._prefilled = True
        token = self._sampler(self._ids, logits[0])
        text, finish = self._stop.push(token)
        if token not in self._end_tokens:
            self._ids.append(token)
            self._recorder.token()
        reason = finish or ("length" if len(self._ids) >= self._span.end else None)
        if reason is None:
            self.chunk = Chunk(text)
            return Choice((0,), (token,))
        text += self._stop.finish_text()
        # The held-back rest may complete a stop string after all.
        new = self._ids[self._span.start :]
        self.chunk = Chunk(text, self._stop.finish or reason, new, self._recorder.finish())
        return Choice()

    def result(self) -> Generation:
        """The whole, when it is over."""
        last: Any = self.chunk
        return Generation("".join(self.texts), last.token_ids, last.finish_reason, last.metrics)


class _Beams:
    """One prompt's beam search with what is told about its results."""

    def __init__(self, job: _Job, request: Request) -> None:
        span, self._job = job.span(request), job
        limits = constraints(job.config, span, job.vocab_size, job.grammar)
        changes = [*limits, *processors(job.config, drawing=False)]
        self._search = BeamSearch(job.config, request.ids, span.room, changes)
        self._recorders = [Recorder(len(request.answered)) for _ in range(job.config.num_return_sequences)]
        self._steps = 0
        self._results: list[Generation] = []

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        """Passes on; the results are made when the search is over, for the clock runs."""
        if not self._steps:
            for recorder in self._recorders:
                recorder.prefilled()
        choice = self._search.accept(logits, log_probabilities)
        self._steps += 1
        if self._steps == 1:
            for recorder in self._recorders:
                recorder.token()
        if not choice.tokens:
            pairs = zip(self._search.found, self._recorders, strict=False)
            self._results = [self._result(hypothesis, recorder) for hypothesis, recorder in pairs]
        return choice

    def results(self) -> list[Generation]:
        """The best sequences, best first."""
        return self._results

    def _result(self, hypothesis: Hypothesis, recorder: Recorder) -> Generation:
        # Steps that a longer, worse sequence took are time spent on this one's tokens.
        for _ in hypothesis.tokens[1:]:
            recorder.token()
        metrics = recorder.finish()
        if not hypothesis.tokens:
            metrics = dataclasses.replace(metrics, new_tokens=0, ttft_ms=None)
        text = self._job.tokenizer.decode(hypothesis.tokens)
        return Generation(text, hypothesis.tokens, hypothesis.finish_reason, metrics, score=hypothesis.score)
