"""What every facade that writes text shares: prompts as ids in, a decoder driven through search.py, text and figures out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgelm import search
from edgelm.beam import BeamSearch, Hypothesis
from edgelm.constraints import Span, constraints
from edgelm.draft_model import ASSISTANT_TOKENS, DraftModel
from edgelm.errors import InvalidOption
from edgelm.generation_config import GenerationConfig
from edgelm.logprobs import TokenLogprob, token_logprob
from edgelm.metrics import Metrics, Recorder
from edgelm.protocols import Logits, Rows
from edgelm.sampling import Sampler, processors
from edgelm.search import Choice, Draft
from edgelm.speculation import PromptLookup, Speculation
from edgelm.stopping import Limits, StopState
from edgelm.tokenizer import Tokenizer


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asks for: the name of the tool, and the arguments by their names."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Generation:
    """A finished generation. `token_ids` are the new tokens, without end token; with `echo`, after those of the prompt.

    `finish_reason` is "stop" (an end token, a stop text, the end of a grammar), "length" (max_new_tokens, or the context is
    full), "time" (max_time), "criterion" (stopping_criteria), "cancelled" (somebody ended it) or "tool_calls" (a chat that was
    given tools asks for those in `tool_calls`; `text` has them as they were written). `logprobs` has an entry for each of
    `token_ids`; without the option of that name there is none.

    `score` is what beam search ranks by: the sum of the log probabilities, end token included, over their number to the
    power of length_penalty. Without beams there is none.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    metrics: Metrics
    logprobs: list[TokenLogprob] | None = None
    score: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of a generation as it is made; the last one carries finish_reason, token_ids, metrics and tool_calls.

    `logprobs` are those of the tokens that were chosen since the piece before; the text of a token may come later.
    """

    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    metrics: Metrics | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Request:
    """What one generation starts from: the ids a decoder is fed first, and those of an encoder where there is one.

    `logprobs` are those of `ids`, where they are asked for.
    """

    ids: list[int]
    source: list[int] | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])

    @property
    def answered(self) -> list[int]:
        """The ids that the user's input became."""
        return self.ids if self.source is None else self.source


def replies(
    requests: Sequence[Request],
    config: GenerationConfig,
    tokenizer: Tokenizer,
    vocab_size: int,
    limit: int,
    draft_model: DraftModel | None = None,
) -> list[Reply]:
    """What is to be generated for each request by a program of that vocabulary, in rows of at most `limit` positions.

    Raises:
        InvalidOption: a forced id that the vocabulary does not have.
    """
    job = _Job(config, tokenizer, vocab_size, limit, draft_model)
    return [Reply(job, request) for request in requests]


def generate(
    decoder: Rows, requests: Sequence[Request], config: GenerationConfig, tokenizer: Tokenizer
) -> list[list[Generation]]:
    """Generates for every request, row i of the decoder, num_return_sequences results each, best first.

    Beam search gives fewer where the settings allow no more.

    Raises:
        InvalidOption: a forced id that the vocabulary does not have.
        GenerationError: damaged logits, or settings that forbid every token.
    """
    found = replies(requests, config, tokenizer, decoder.vocab_size, decoder.limit)
    for _ in search.run(decoder, [reply.ids for reply in found], [reply.searches for reply in found]):
        pass
    return [reply.results() for reply in found]


def stream(decoder: Rows, request: Request, config: GenerationConfig, tokenizer: Tokenizer) -> Iterator[Chunk]:
    """The same for one request and one result, piece by piece.

    Raises:
        InvalidOption: settings that `check_streamable` refuses.
    """
    check_streamable(config)
    (reply,) = replies([request], config, tokenizer, decoder.vocab_size, decoder.limit)
    steps = search.run(decoder, [reply.ids], [reply.searches])
    return (one.chunk for one in steps)


def check_streamable(config: GenerationConfig) -> None:
    """There is one text, and it is known before its end.

    Raises:
        InvalidOption: otherwise.
    """
    for name, value, instead in (
        ("num_beams", config.num_beams, "knows its text only at the end"),
        ("num_return_sequences", config.num_return_sequences, "has several texts"),
    ):
        if value > 1:
            raise InvalidOption(f"{name} {value} {instead}, so it cannot be streamed: use generate, or give {name} 1")


class Reply:
    """What is generated for one request: the searches that begin after its prompt, and their results.

    Attributes:
        ids: the prompt.
        searches: what a loop is to run.
        width: most rows that they take.
        several: there may be more results than one.
        positions: most positions that a row of theirs takes.
    """

    def __init__(self, job: _Job, request: Request) -> None:
        config, self.ids = job.config, request.ids
        if config.num_beams > 1:
            self.searches: Sequence[_Line | _Beams] = [_Beams(job, request)]
        else:
            self.searches = [_Line(job, request, number) for number in range(config.num_return_sequences)]
        self.width = max(config.num_beams, config.num_return_sequences)
        self.several = config.num_return_sequences > 1
        self.positions = job.span(request).end - 1  # the last token is never fed

    @property
    def draft(self) -> Draft | None:
        """Guesses tokens of the only search, if it takes one row and the settings ask for guesses."""
        line = self.searches[0]
        return line.draft if self.width == 1 and isinstance(line, _Line) and line.speculates else None

    def begin(self, cached_tokens: int) -> None:
        """The prompt is fed from now on, but for so many tokens that are in the cache."""
        for one in self.searches:
            one.begin(cached_tokens)

    def cancel(self) -> None:
        """Ends what is not over as it stands."""
        for one in self.searches:
            one.cancel()

    @property
    def chunk(self) -> Chunk:
        """The latest piece of the text, where there is one text."""
        return self.searches[0].chunk

    def results(self) -> list[Generation]:
        """All of them, best first, once every search is over."""
        return [result for one in self.searches for result in one.results()]


class _Job:
    """What all sequences of one call share."""

    def __init__(
        self,
        config: GenerationConfig,
        tokenizer: Tokenizer,
        vocab_size: int,
        limit: int,
        draft_model: DraftModel | None,
    ) -> None:
        if config.dry_multiplier:
            config = config.replace(dry_sequence_breakers=tokenizer.ids_with(config.dry_sequence_breakers))
        self.config = config
        self.grammar = None
        if config.constraints:
            from edgelm.grammar import compile_grammar

            self.grammar = compile_grammar(config, tokenizer.vocabulary).processor
            tokenizer = tokenizer.verbatim()
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self._limit = limit
        self._draft_model = draft_model

    def speculation(self, sampler: Sampler) -> Speculation | None:
        """What guesses the tokens that a sampler will choose, if anything does."""
        config = self.config
        if config.prompt_lookup_num_tokens:
            return Speculation(PromptLookup(), config.prompt_lookup_num_tokens)
        if self._draft_model is None or config.num_assistant_tokens == 0:
            return None
        return Speculation(self._draft_model.drafter(config, sampler), config.num_assistant_tokens or ASSISTANT_TOKENS)

    def span(self, request: Request) -> Span:
        """A request's bounds."""
        start = len(request.ids)
        # The last token is never fed back, so a full cache still leaves room for one.
        return Span(start, start + min(self.config.max_new_tokens, self._limit - start + 1), request.answered)


class _Line:
    """One sequence on its way: ids so far, its own sampler, stopping and metrics, so that nothing depends on its batch mates."""

    def __init__(self, job: _Job, request: Request, number: int) -> None:
        span = job.span(request)
        self.chunk = Chunk("")
        self._chunks: list[Chunk] = []
        self._ids = list(request.ids)
        self._config = job.config
        self._end_tokens = frozenset(job.config.end_token_ids)
        self._recorder = Recorder(len(request.answered))
        self._prefilled = False
        limits = constraints(job.config, span, job.vocab_size, job.grammar)
        self._sampler = Sampler(job.config, job.vocab_size, limits, number)
        self._speculation = job.speculation(self._sampler)
        self._longest = span.end
        stream = job.tokenizer.stream()
        # The prompt passes the stream, so that the text is that of all ids; no stop string begins in it.
        self._echoed = "".join([stream.push(token) for token in request.ids]) if job.config.echo else ""
        self._begin = 0 if job.config.echo else span.start
        self._told = list(request.logprobs)
        self._stop = StopState(job.config, stream)
        self._limits = Limits(job.config, span.end)

    def begin(self, cached_tokens: int) -> None:
        """Notes when the prompt is fed."""
        self._recorder.begin(cached_tokens)

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        """Draws the next token from the logits [1, vocab_size]; `chunk` is the text that this settles."""
        if not self._prefilled:
            self._recorder.prefilled()
            self._prefilled = True
        token = self._sampler(self._ids, logits[0])
        self._recorder.chosen(accepted=self._speculation is not None and self._speculation.chosen(token))
        text, finish = self._stop.push(token)
        if token not in self._end_tokens:
            self._ids.append(token)
            self._recorder.token()
            if self._config.logprobs is not None:
                self._told.append(token_logprob(logits[0], token, self._config.logprobs))
        reason = finish or self._limits.reached(self._ids, text)
        if reason is not None:
            self._end(text, reason)
            return Choice()
        self._add(Chunk(text))
        return Choice((0,), (token,))

    @property
    def speculates(self) -> bool:
        """Whether there are guesses at what it will choose."""
        return self._speculation is not None

    def draft(self, most: int) -> Sequence[int]:
        """What it may choose next, `most` tokens at most, and none that it could not choose before its end."""
        if self._speculation is None:
            return ()
        found = self._speculation.draft(self._ids, min(most, self._longest - len(self._ids) - 1))
        self._recorder.drafted(len(found))
        return found

    def cancel(self) -> None:
        """Ends it as it stands, if it is not over."""
        if self.chunk.finish_reason is None:
            self._end("", "cancelled")

    def results(self) -> list[Generation]:
        """The one there is, when it is over."""
        last: Any = self.chunk
        text = "".join([chunk.text for chunk in self._chunks])
        told = [one for chunk in self._chunks for one in chunk.logprobs or ()]
        logprobs = None if self._config.logprobs is None else told
        return [Generation(text, last.token_ids, last.finish_reason, last.metrics, logprobs)]

    def _end(self, text: str, reason: str) -> None:
        text += self._stop.finish_text()
        # The held-back rest may complete a stop string after all.
        self._add(Chunk(text, self._stop.finish or reason, self._ids[self._begin :], self._recorder.finish()))

    def _add(self, chunk: Chunk) -> None:
        """A piece, with the prompt before the first one where it is wanted, and what is told of its tokens."""
        told, self._told = self._told if self._config.logprobs is not None else None, []
        self.chunk = replace(chunk, text=self._echoed + chunk.text, logprobs=told)
        self._echoed = ""
        self._chunks.append(self.chunk)


class _Beams:
    """One prompt's beam search with what is told about its results."""

    def __init__(self, job: _Job, request: Request) -> None:
        span, self._job = job.span(request), job
        self.chunk = Chunk("")  # nothing is known before the end
        limits = constraints(job.config, span, job.vocab_size, job.grammar)
        changes = processors(job.config, job.vocab_size, limits)
        self._search = BeamSearch(job.config, request.ids, span.room, changes)
        self._recorders = [Recorder(len(request.answered)) for _ in range(job.config.num_return_sequences)]
        self._steps = 0
        self._results: list[Generation] = []

    def begin(self, cached_tokens: int) -> None:
        """Notes when the prompt is fed."""
        for recorder in self._recorders:
            recorder.begin(cached_tokens)

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        """Passes on; the results are made when the search is over, for the clock runs."""
        if not self._steps:
            for recorder in self._recorders:
                recorder.prefilled()
        choice = self._search.accept(logits, log_probabilities)
        for recorder in self._recorders:
            recorder.chosen()
        self._steps += 1
        if self._steps == 1:
            for recorder in self._recorders:
                recorder.token()
        if not choice.tokens:
            self._finish()
        return choice

    def cancel(self) -> None:
        """Ends it as it stands, if it is not over."""
        if not self._results:
            self._search.cancel()
            self._finish()

    def results(self) -> list[Generation]:
        """The best sequences, best first."""
        return self._results

    def _finish(self) -> None:
        pairs = zip(self._search.found, self._recorders, strict=False)
        self._results = [self._result(hypothesis, recorder) for hypothesis, recorder in pairs]

    def _result(self, hypothesis: Hypothesis, recorder: Recorder) -> Generation:
        # Steps that a longer, worse sequence took are time spent on this one's tokens.
        for _ in hypothesis.tokens[1:]:
            recorder.token()
        metrics = recorder.finish()
        if not hypothesis.tokens:
            metrics = replace(metrics, new_tokens=0, ttft_ms=None)
        text = self._job.tokenizer.decode(hypothesis.tokens)
        return Generation(text, hypothesis.tokens, hypothesis.finish_reason, metrics, score=hypothesis.score)
