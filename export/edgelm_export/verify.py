"""Runs a fresh package against the float graph of the same checkpoint, when memory and disk allow both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgelm import signature, tasks
from edgelm.encode import Encoder, Row
from edgelm.errors import InvalidOption
from edgelm.generation_defaults import read_generation_config
from edgelm.manifest import Manifest
from edgelm.package import Package
from edgelm.progress import progress
from edgelm.protocols import DecoderRows
from edgelm.providers import Provider
from edgelm.recorded_run import record
from edgelm.rows import DECODER, ENCODER, decoder_rows, seq2seq
from edgelm.session import Program
from edgelm.tokenizer import Tokenizer
from edgelm_export.blocks.cache import cache_geometry
from edgelm_export.encoder_quality import evaluation_rows, measure_encoder, require_padding_harmless
from edgelm_export.evaluation import EvaluationText
from edgelm_export.float_graph import PROVIDER, FloatGraph
from edgelm_export.layer_errors import Graphs, worst_layers
from edgelm_export.model import Model
from edgelm_export.quality import STEP_TOKENS, TEXT_TOKENS, measure, require_consistent
from edgelm_export.seq2seq_quality import Writer, clauses, measure_seq2seq


@dataclass(frozen=True)
class Side:
    """One of two that are compared: programs in memory, and the manifest that says how they are fed."""

    manifest: Manifest
    programs: Mapping[str, Program]


def verify(
    package: Package,
    model: Model,
    provider: Provider,
    graph: FloatGraph,
    text: EvaluationText,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The quality card for the manifest, or why there is none.

    Args:
        package: opened in the form that is measured.
        model: what it was made of.
        provider: what runs it, as `loading.computing` gives it.
        graph: the float graph to compare with.
        text: what both read.
        say: told what should be known meanwhile.

    Raises:
        InvalidOption: the text is too short to compare anything.
        VerificationError: NaN anywhere, or a float package that disagrees with itself.
    """
    m = package.manifest
    lacking = graph.lacking("verification", loaded_bytes(package))
    if lacking is not None:
        reason = f"skipped: the float graph needs {lacking}"
        say(f"verification {reason}")
        return {"skipped": reason}
    borrowed = {} if provider.name == m.device else {"ran_on": provider.name}
    candidates = Graphs(m.cache, {name: (package.program(name), provider) for name in model.programs})
    loaded = Side(m, candidates.loaded())
    if _is_float(m):  # one copy in memory serves both sides
        return {**borrowed, **measure_programs(package, loaded, loaded, text)}
    cache = None if m.cache is None else cache_geometry(model.config, PROVIDER)
    references = Graphs(cache, {name: (graph.program(name), PROVIDER) for name in model.programs})
    quality = measure_programs(package, Side(replace(m, cache=cache), references.loaded()), loaded, text)
    del loaded  # its memory is needed for what comes now
    layers = worst_layers(references, candidates, evaluation_ids(package, text))
    return {**borrowed, **quality, "layers": layers}


def _is_float(m: Manifest) -> bool:
    """Whether a package's programs are the float graph itself."""
    held = "float32" if m.cache is None else m.cache.dtype
    return m.precision == "fp32" and m.activations == held == "float32"


def loaded_bytes(package: Package) -> int:
    """About what a package's programs take in memory: kernels of the CPU widen activations of 16 bits, and with them float weights."""
    return package.size * (1 if package.manifest.activations == "float32" else 3)


def recorded_run(package: Package, provider: Provider, text: EvaluationText) -> dict[str, Any]:
    """A short run of a fresh package for its manifest, which `edgelm verify` repeats."""
    programs = {name: Program(package.program(name), provider) for name in package.manifest.programs}
    return record(package.manifest, programs, evaluation_ids(package, text))


def measure_programs(package: Package, reference: Side, candidate: Side, text: EvaluationText) -> dict[str, Any]:
    """Quality figures of a package's programs against float ones of the same inputs and outputs.

    Raises:
        InvalidOption: the text is too short to compare anything.
        VerificationError: NaN anywhere, or a float package (both are the same programs) that disagrees with itself.
    """
    measures = {"decoder": _measure_decoder, "encoder": _measure_encoder, "encoder-decoder": _measure_seq2seq}
    figures = measures[package.manifest.family](package, reference, candidate, text)
    return {"text": text.as_manifest(), **figures}


def _measure_decoder(package: Package, reference: Side, candidate: Side, text: EvaluationText) -> dict[str, Any]:
    ids = evaluation_ids(package, text)

    def decoder(side: Side) -> DecoderRows:
        return decoder_rows(side.manifest, side.programs[DECODER], batch=1, limit=side.manifest.context_length)

    with progress(len(ids) + STEP_TOKENS, "Verifying", "token") as bar:
        quality = measure(lambda: decoder(reference), lambda: decoder(candidate), ids, bar.advance)
    if reference.programs is candidate.programs:
        require_consistent(quality)
    return quality


def evaluation_ids(package: Package, text: EvaluationText) -> list[int]:
    """The beginning of the text as the package's tokenizer reads it.

    Raises:
        InvalidOption: it is a single token, which nothing follows, or none.
    """
    m = package.manifest
    read = m.vocab_size if m.encoder is None else m.encoder.vocab_size or m.vocab_size
    ids = Tokenizer.from_folder(package.path).encode(text.text)
    ids = [token for token in ids if token < read][: min(TEXT_TOKENS, m.context_length)]
    if len(ids) < 2:
        raise InvalidOption(f"evaluation text {text.name} is too short to compare anything; take a few pages")
    return ids


def _measure_seq2seq(package: Package, reference: Side, candidate: Side, text: EvaluationText) -> dict[str, Any]:
    manifest, limit = package.manifest, package.manifest.context_length
    tokenizer, facts = Tokenizer.from_folder(package.path), package.manifest.encoder_facts
    settings = read_generation_config(manifest.generation)

    def writer(side: Side) -> Writer:
        both = seq2seq(side.manifest, Encoder(side.programs[ENCODER], facts.pad_token_id), side.programs, limit)
        return Writer(both, tokenizer, manifest.start_token, frozenset(settings.eos_token_id))

    sources = clauses(text.text, tokenizer, limit, facts.vocab_size or manifest.vocab_size)
    with progress(len(sources), "Verifying", "text") as bar:
        return measure_seq2seq(writer(reference), writer(candidate), sources, bar.advance)


def _measure_encoder(package: Package, reference: Side, candidate: Side, text: EvaluationText) -> dict[str, Any]:
    m = package.manifest
    facts = m.encoder_facts
    expected, found = (Encoder(side.programs[ENCODER], facts.pad_token_id) for side in (reference, candidate))
    rows = text_rows(package, text)
    with progress(len(rows), "Verifying", "text") as bar:
        quality = measure_encoder(m.task, expected, found, rows, bar.advance)
    if reference.programs is candidate.programs and not facts.alone:
        require_padding_harmless(found, rows, signature.LAST_HIDDEN_STATE)
    return quality


def text_rows(package: Package, text: EvaluationText) -> Sequence[Row]:
    """Pieces of the text as rows for an encoder's package."""
    m, tokenizer = package.manifest, Tokenizer.from_folder(package.path)
    vocab_size = m.encoder_facts.vocab_size or m.vocab_size
    return evaluation_rows(text.text, tokenizer, m.context_length, vocab_size, masked=m.task == tasks.FILL_MASK)
