"""Runs a fresh package against the float graph of the same checkpoint, when memory and disk allow both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgelm import signature, tasks
from edgelm.decode import DecoderRows
from edgelm.encode import Encoder, Row
from edgelm.errors import ProviderError
from edgelm.generation_config import GenerationConfig
from edgelm.package import Package
from edgelm.progress import progress
from edgelm.providers import Provider
from edgelm.rows import ENCODER, decoder_rows, seq2seq
from edgelm.session import Program
from edgelm.tokenizer import Tokenizer
from edgelm_export.encoder_quality import evaluation_rows, measure_encoder, require_padding_harmless
from edgelm_export.float_graph import PROVIDER, FloatGraph
from edgelm_export.model import Model
from edgelm_export.quality import STEP_TOKENS, TEXT_TOKENS, evaluation_text, measure, require_consistent
from edgelm_export.quantize.calibrate import calibrate
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.seq2seq_quality import Writer, clauses, measure_seq2seq


def calibrated(recipe: Recipe, model: Model, folder: Path, graph: FloatGraph) -> Recipe:
    """The recipe with the ranges its formats want, measured with the tokenizer in `folder`.

    Raises:
        ProviderError: this machine cannot run the float graph.
    """
    if not recipe.wants_ranges or "encoder" not in model.programs:
        return recipe
    lacking = graph.lacking("calibration")
    if lacking is not None:
        raise ProviderError(
            f"precision {recipe.name} is calibrated with the float graph, which needs {lacking}; "
            "--precision int8-plain needs no calibration"
        )
    c = model.config
    rows = _rows(Tokenizer.from_folder(folder), model.task.name, c.context_length, c.vocab_size)
    return replace(recipe, ranges=calibrate(graph.program("encoder"), PROVIDER, rows, c.pad_token_id))


def verify(
    package: Package, model: Model, provider: Provider, graph: FloatGraph, say: Callable[[str], None]
) -> dict[str, Any]:
    """Quality figures for the manifest, or why there are none.

    Raises:
        VerificationError: NaN anywhere, or a float package that disagrees with itself.
    """
    lacking = graph.lacking("verification", package.size)
    if lacking is not None:
        reason = f"skipped: the float graph needs {lacking}"
        say(f"verification {reason}")
        return {"skipped": reason}
    candidates = {name: Program(package.program(name), provider) for name in model.programs}
    # A float package: one copy in memory serves both sides.
    references = candidates
    if package.manifest.precision != "fp32":
        references = {name: Program(graph.program(name), PROVIDER) for name in model.programs}
    return measure_programs(package, references, candidates)


Programs = Mapping[str, Program]


def measure_programs(package: Package, references: Programs, candidates: Programs) -> dict[str, Any]:
    """Quality figures of a package's programs against float ones of the same inputs and outputs.

    Raises:
        VerificationError: NaN anywhere, or a float package (both are the same programs) that disagrees with itself.
    """
    measures = {"decoder": _measure_decoder, "encoder": _measure_encoder, "encoder-decoder": _measure_seq2seq}
    return measures[package.manifest.family](package, references, candidates)


def _measure_decoder(package: Package, references: Programs, candidates: Programs) -> dict[str, Any]:
    manifest = package.manifest
    reference, candidate = references["decoder"], candidates["decoder"]
    ids = evaluation_ids(package)

    def decoder(program: Program) -> DecoderRows:
        return decoder_rows(manifest, program, batch=1, limit=manifest.context_length)

    with progress(len(ids) + STEP_TOKENS, "Verifying", "token") as bar:
        quality = measure(lambda: decoder(reference), lambda: decoder(candidate), ids, bar.advance)
    if reference is candidate:
        require_consistent(quality)
    return quality


def evaluation_ids(package: Package) -> list[int]:
    """The beginning of the built-in text as the package's tokenizer reads it."""
    m = package.manifest
    ids = Tokenizer.from_folder(package.path).encode(evaluation_text())
    return [token for token in ids if token < m.vocab_size][: min(TEXT_TOKENS, m.context_length)]


def _measure_seq2seq(package: Package, references: Programs, candidates: Programs) -> dict[str, Any]:
    manifest, limit = package.manifest, package.manifest.context_length
    tokenizer, facts = Tokenizer.from_folder(package.path), package.manifest.encoder_facts
    settings = GenerationConfig.from_checkpoint(manifest.generation)
    start = manifest.generation.get("decoder_start_token_id", facts.pad_token_id)

    def writer(programs: Programs) -> Writer:
        both = seq2seq(manifest, Encoder(programs[ENCODER], facts.pad_token_id), programs, limit)
        return Writer(both, tokenizer, start, frozenset(settings.eos_token_id))

    sources = clauses(tokenizer, limit, facts.vocab_size or manifest.vocab_size)
    with progress(len(sources), "Verifying", "text") as bar:
        return measure_seq2seq(writer(references), writer(candidates), sources, bar.advance)


def _measure_encoder(package: Package, references: Programs, candidates: Programs) -> dict[str, Any]:
    m = package.manifest
    facts = m.encoder_facts
    reference, candidate = (Encoder(programs[ENCODER], facts.pad_token_id) for programs in (references, candidates))
    rows = text_rows(package)
    with progress(len(rows), "Verifying", "text") as bar:
        quality = measure_encoder(m.task, reference, candidate, rows, bar.advance)
    if references is candidates and not facts.alone:
        require_padding_harmless(candidate, rows, signature.LAST_HIDDEN_STATE)
    return quality


def text_rows(package: Package) -> Sequence[Row]:
    """The built-in texts as rows for an encoder's package."""
    m = package.manifest
    return _rows(
        Tokenizer.from_folder(package.path), m.task, m.context_length, m.encoder_facts.vocab_size or m.vocab_size
    )


def _rows(tokenizer: Tokenizer, task: str, context_length: int, vocab_size: int) -> Sequence[Row]:
    return evaluation_rows(tokenizer, context_length, vocab_size, masked=task == tasks.FILL_MASK)
