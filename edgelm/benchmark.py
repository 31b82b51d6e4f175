"""How fast packages run on this machine: tokens a second of prompts and of steps, where a step's time goes, how near it is to its floor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from edgelm.encode import Encoder, Row
from edgelm.errors import InvalidOption
from edgelm.generation_defaults import read_generation_config
from edgelm.loading import length_limit, load_encoder, load_program, physical_cores
from edgelm.manifest import Manifest
from edgelm.package import Package
from edgelm.protocols import DecoderRows
from edgelm.providers import Provider
from edgelm.rows import ENCODER, decoder_rows, seq2seq
from edgelm.sampling import Sampler
from edgelm.session import Program

PROMPT, STEPS = "prompt", "steps"


@dataclass(frozen=True)
class Work:
    """What is measured: prompts of so many tokens, then so many steps after a context of `depth`, in `batch` rows."""

    prompt_tokens: int = 512
    new_tokens: int = 128
    depth: int = 0
    batch: int = 1
    repetitions: int = 5

    def check(self, limit: int) -> None:
        """What a package with room for `limit` positions cannot do.

        Raises:
            InvalidOption: a number out of range.
        """
        lowest = {"prompt_tokens": 0, "new_tokens": 0, "depth": 0, "batch": 1, "repetitions": 1}
        given = vars(self)
        wrong = [f"{name} {given[name]} is below {least}" for name, least in lowest.items() if given[name] < least]
        if self.prompt_tokens == 0 == self.new_tokens:
            wrong.append("nothing is left to measure: give prompt tokens, new tokens or both")
        longest = max(self.prompt_tokens, self.depth + 1 + self.new_tokens)
        if longest > limit:
            wrong.append(f"{longest} positions are needed and the package has {limit}: ask for fewer tokens")
        if wrong:
            raise InvalidOption("; ".join(wrong))


@dataclass
class Timing:
    """What was measured of one kind of work: tokens a second of each repetition, and seconds by where they went."""

    tokens_per_second: list[float] = field(default_factory=list[float])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def median(self) -> float:
        """Tokens a second."""
        return statistics.median(self.tokens_per_second)

    def add(self, tokens: int, seconds: float, parts: Mapping[str, float]) -> None:
        """One more repetition."""
        self.tokens_per_second.append(tokens / seconds)
        for name, value in {**parts, "python": seconds - sum(parts.values())}.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def shares(self) -> dict[str, float]:
        """Of all the time, the parts spent in the graph, in sampling and in Python around them."""
        total = sum(self.seconds.values())
        return {name: value / total for name, value in self.seconds.items()}


class Subject:
    """A loaded package, ready to be measured again and again."""

    def __init__(self, package: Package, provider: Provider, work: Work, threads: int | None) -> None:
        """Loads the programs.

        Raises:
            InvalidOption: work that the package cannot do.
            PackageError, ProviderError: as when the package is loaded.
        """
        work.check(length_limit(package, None))
        self.package = package
        self.work = work
        self.threads = threads or physical_cores()
        self.timings: dict[str, Timing] = {}
        self._random = np.random.default_rng(0)
        manifest = package.manifest
        others = [name for name in manifest.programs if name != ENCODER]
        self._programs = {name: load_program(package, name, provider, threads) for name in others}
        encoder = load_encoder(package, provider, threads) if ENCODER in manifest.programs else None
        self._read = _reader(manifest, encoder, self._programs)
        self._config = read_generation_config(manifest.generation, start_tokens=1).replace(seed=0)

    def kinds(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """What can be measured, each with the function that measures it once more."""
        if self.work.prompt_tokens:
            yield PROMPT, self._read_prompts
        if self.work.new_tokens and self._programs:
            yield STEPS, self._write_tokens

    def floor_seconds(self, bandwidth: float) -> float | None:
        """Seconds a step takes at least where memory gives `bandwidth` bytes a second; None where its bytes are not known.

        A step of all rows reads the weights once, and each row's cache at its middle length.
        """
        manifest = self.package.manifest
        if manifest.weight_bytes_per_step is None or manifest.cache is None:
            return None
        length = self.work.depth + 1 + self.work.new_tokens / 2
        cache = manifest.cache.bytes_per_token * length + manifest.cache.window_bytes
        return (manifest.weight_bytes_per_step + self.work.batch * cache) / bandwidth

    def _read_prompts(self) -> None:
        prompts = [self._ids(self.work.prompt_tokens) for _ in range(self.work.batch)]
        before, start = self._in_graph(), time.perf_counter()
        self._read(prompts)
        seconds = time.perf_counter() - start
        graph = {"graph": self._in_graph() - before} if self._programs else {}
        self._timing(PROMPT).add(self.work.batch * self.work.prompt_tokens, seconds, graph)

    def _write_tokens(self) -> None:
        work = self.work
        rows = cast(DecoderRows, self._read([self._ids(work.depth + 1) for _ in range(work.batch)]))
        samplers = [Sampler(self._config, rows.vocab_size, number=n) for n in range(work.batch)]
        written = [[token] for token in self._ids(work.batch)]
        sampling, before, start = 0.0, self._in_graph(), time.perf_counter()
        for _ in range(work.new_tokens):
            logits = rows.step([ids[-1] for ids in written])
            since = time.perf_counter()
            for choose, ids, row in zip(samplers, written, logits, strict=True):
                ids.append(choose(ids, row))
            sampling += time.perf_counter() - since
        seconds = time.perf_counter() - start
        parts = {"graph": self._in_graph() - before, "sampling": sampling}
        self._timing(STEPS).add(work.batch * work.new_tokens, seconds, parts)

    def _timing(self, kind: str) -> Timing:
        return self.timings.setdefault(kind, Timing())

    def _in_graph(self) -> float:
        return sum(program.bound_seconds for program in self._programs.values())

    def _ids(self, count: int) -> list[int]:
        manifest = self.package.manifest
        size = manifest.vocab_size if manifest.encoder is None else manifest.encoder.vocab_size or manifest.vocab_size
        return self._random.integers(0, min(size, manifest.vocab_size), count).tolist()


def measure(subjects: Sequence[Subject], advance: Callable[[], None] = lambda: None) -> None:
    """Fills the subjects' timings: one repetition of each in turn (A B A B ...), after one that is not counted."""
    rounds = subjects[0].work.repetitions
    for number in range(rounds + 1):
        for subject in subjects:
            for kind, once in subject.kinds():
                once()
                if number == 0:
                    del subject.timings[kind]
                advance()


def _reader(
    manifest: Manifest, encoder: Encoder | None, programs: Mapping[str, Program]
) -> Callable[[Sequence[Sequence[int]]], DecoderRows | None]:
    """What reads prompts and, where the model goes on writing, gives the rows to do so."""
    limit = manifest.context_length

    def decoder(prompts: Sequence[Sequence[int]]) -> DecoderRows:
        rows = decoder_rows(manifest, programs["decoder"], batch=len(prompts), limit=limit)
        for row, ids in enumerate(prompts):
            rows.prefill(row, ids)
        return rows

    if encoder is None:
        return decoder
    if programs:
        return seq2seq(manifest, encoder, programs, limit).start

    def read(texts: Sequence[Sequence[int]]) -> None:
        for _ in encoder.run([Row(ids) for ids in texts], encoder.names[0], len(texts)):
            pass

    return read
