"""Runs a fresh package against the float graph of the same checkpoint, when memory and disk allow both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgelm import signature, tasks
from edgelm.decode import Decoder
from edgelm.encode import Encoder, Row
from edgelm.errors import ProviderError
from edgelm.generation_config import GenerationConfig
from edgelm.package import Package
from edgelm.progress import progress
from edgelm.providers import Provider
from edgelm.seq2seq import Seq2Seq
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
    rows = _rows(model, Tokenizer.from_folder(folder))
    return replace(recipe, ranges=calibrate(graph.program("encoder"), PROVIDER, rows, model.config.pad_token_id))


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
    measures = {"decoder": _measure_decoder, "encoder": _measure_encoder, "encoder-decoder": _measure_seq2seq}
    candidates = {name: Program(package.program(name), provider) for name in model.programs}
    # A float package: one copy in memory serves both sides.
    references = candidates
    if package.manifest.precision != "fp32":
        references = {name: Program(graph.program(name), PROVIDER) for name in model.programs}
    return measures[model.family](package, model, references, candidates)


Programs = Mapping[str, Program]


def _measure_decoder(package: Package, model: Model, references: Programs, candidates: Programs) -> dict[str, Any]:
    manifest, c = package.manifest, model.config
    reference, candidate = references["decoder"], candidates["decoder"]
    ids = Tokenizer.from_folder(package.path).encode(evaluation_text())
    ids = [token for token in ids if token < c.vocab_size][: min(TEXT_TOKENS, c.context_length)]

    def decoder(program: Program) -> Decoder:
        return Decoder(program, manifest.kv_cache, c.vocab_size, batch=1, limit=c.context_length)

    with progress(len(ids) + STEP_TOKENS, "Verifying", "token") as bar:
        quality = measure(lambda: decoder(reference), lambda: decoder(candidate), ids, bar.advance)
    if reference is candidate:
        require_consistent(quality)
    return quality


def _measure_seq2seq(package: Package, model: Model, references: Programs, candidates: Programs) -> dict[str, Any]:
    manifest, c = package.manifest, model.config
    tokenizer = Tokenizer.from_folder(package.path)
    settings = GenerationConfig.from_checkpoint(manifest.generation)
    start = manifest.generation.get("decoder_start_token_id", c.pad_token_id)

    def writer(programs: Programs) -> Writer:
        encoder = Encoder(programs["encoder"], c.pad_token_id)
        both = Seq2Seq(encoder, programs["decoder"], manifest.kv_cache, manifest.vocab_size, c.context_length)
        return Writer(both, tokenizer, start, frozenset(settings.eos_token_id))

    sources = clauses(tokenizer, c.context_length, c.vocab_size)
    with progress(len(sources), "Verifying", "text") as bar:
        return measure_seq2seq(writer(references), writer(candidates), sources, bar.advance)


def _measure_encoder(package: Package, model: Model, references: Programs, candidates: Programs) -> dict[str, Any]:
    pad, task = model.config.pad_token_id, model.task.name
    reference, candidate = references["encoder"], candidates["encoder"]
    rows = _rows(model, Tokenizer.from_folder(package.path))
    with progress(len(rows), "Verifying", "text") as bar:
        quality = measure_encoder(task, Encoder(reference, pad), Encoder(candidate, pad), rows, bar.advance)
    if reference is candidate:
        require_padding_harmless(Encoder(candidate, pad), rows, signature.LAST_HIDDEN_STATE)
    return quality


def _rows(model: Model, tokenizer: Tokenizer) -> Sequence[Row]:
    c = model.config
    return evaluation_rows(tokenizer, c.context_length, c.vocab_size, masked=model.task.name == tasks.FILL_MASK)
