"""The recipe of an export together with what its formats want to know of the model: the float graph runs the calibration text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgelm import tasks
from edgelm.encode import Row
from edgelm.errors import ProviderError
from edgelm.session import Program
from edgelm.tokenizer import Tokenizer
from edgelm_export.encoder_quality import evaluation_rows
from edgelm_export.float_graph import PROVIDER, FloatGraph
from edgelm_export.model import Model
from edgelm_export.quantize.calibrate import GROUP_BYTES, Inputs, decoder_said, encoder_said
from edgelm_export.quantize.recipe import Recipe

# Of each part of the text that a decoder reads, and of the whole: more moves the divergence of SmolLM2 by less than 2 %.
_PART_TOKENS, _TEXT_TOKENS = 512, 8192


def calibrated(
    recipe: Recipe, model: Model, folder: Path, graph: FloatGraph, text: str, say: Callable[[str], None]
) -> Recipe:
    """The recipe with what its formats want, measured with the tokenizer in `folder`.

    Raises:
        ProviderError: this machine cannot run the float graph, and a format of an encoder cannot do without.
    """
    if not recipe.wants_ranges and not (recipe.wants_moments and model.family != "encoder-decoder"):
        return recipe
    lacking = graph.lacking("calibration", moments_bytes(model) if recipe.wants_moments else 0)
    if lacking is None:
        inputs = inputs_of(model, folder, graph, text)
        ranges = inputs.ranges() if recipe.wants_ranges else None
        return replace(recipe, ranges=ranges, moments=inputs.moments if recipe.wants_moments else None)
    if recipe.wants_ranges and "encoder" in model.programs:
        raise ProviderError(
            f"precision {recipe.name} is calibrated with the float graph, which needs {lacking}; "
            "--precision int8-plain needs no calibration"
        )
    say(f"note: rounded without calibration, for the float graph needs {lacking}")
    return recipe


def moments_bytes(model: Model) -> int:
    """About what the moments of a model take that are held at once; a matrix has no more rows than columns, or few have."""
    return min(GROUP_BYTES, 8 * model.checkpoint.parameters)


def inputs_of(model: Model, folder: Path, graph: FloatGraph, text: str) -> Inputs:
    """The inputs of the projections of a model's first program over the text."""
    c, tokenizer = model.config, Tokenizer.from_folder(folder)
    if "encoder" in model.programs:
        masked = model.task.name == tasks.FILL_MASK
        rows: Sequence[Row] = evaluation_rows(text, tokenizer, c.context_length, c.vocab_size, masked=masked)
        said = encoder_said(rows, c.pad_token_id)
        return Inputs(lambda: Program(graph.program("encoder"), PROVIDER), said, [len(row.ids) for row in rows])
    parts = text_parts(tokenizer, text, c.context_length, c.vocab_size)
    said = decoder_said(c.cache_geometry(PROVIDER.activation_dtype), parts)
    return Inputs(lambda: Program(graph.program("decoder"), PROVIDER), said, [len(ids) for ids in parts])


def calibration_ids(model: Model, folder: Path, text: str) -> list[int]:
    """The beginning of the text as a decoder reads it, with the tokenizer in `folder`."""
    return text_parts(Tokenizer.from_folder(folder), text, model.config.context_length, model.config.vocab_size)[0]


def text_parts(tokenizer: Tokenizer, text: str, context_length: int, vocab_size: int) -> list[list[int]]:
    """The text as token ids, in parts that a decoder reads each by itself."""
    ids = [token for token in tokenizer.encode(text) if token < vocab_size][:_TEXT_TOKENS]
    size = min(_PART_TOKENS, context_length)
    return [ids[start : start + size] for start in range(0, len(ids), size)]
