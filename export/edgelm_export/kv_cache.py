"""What a package's KV cache holds: activations as they are, or 8-bit integers, whose scales the float graph tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgelm.errors import InvalidOption, ProviderError
from edgelm.providers import Provider
from edgelm.session import Program
from edgelm.signature import INT8
from edgelm.tokenizer import Tokenizer
from edgelm_export.blocks.cache import cache_geometry
from edgelm_export.calibration import text_parts
from edgelm_export.float_graph import PROVIDER, FloatGraph
from edgelm_export.model import Model
from edgelm_export.quantize.cache_scales import measured_scales
from edgelm_export.quantize.recipe import Recipe


def with_kv_cache(recipe: Recipe, asked: str | None, model: Model, providers: Sequence[Provider]) -> Recipe:
    """The recipe with the dtype of the cache that was asked for, by an option or else by the recipe itself.

    Raises:
        InvalidOption: an unknown dtype, or one that the model or a provider has no cache of.
    """
    dtype = asked or recipe.kv_cache
    if dtype is None:
        return recipe
    if dtype != INT8:
        raise InvalidOption(
            f"KV cache {dtype!r} is not known (known: {INT8}); leave it out for the dtype of activations"
        )
    if model.family != "decoder":
        raise InvalidOption(
            f"a KV cache of {INT8} is for decoders, and this is exported as {model.task.name}; leave --kv-cache out"
        )
    lacking = [provider.name for provider in providers if not provider.integer_cache]
    if lacking:
        raise InvalidOption(
            f"a KV cache of {INT8} is not for packages that run on {' and '.join(lacking)}; leave --kv-cache out, or export with "
            "--device cpu"
        )
    if any(layer.latent for layer in cache_geometry(model.config, providers[0]).layers):
        raise InvalidOption(
            f"{model.config.model_type} keeps one latent a token in the place of keys and values, and no kernel reads it from "
            f"{INT8}; leave --kv-cache out"
        )
    return replace(recipe, kv_cache=dtype)


def with_cache_scales(recipe: Recipe, model: Model, folder: Path, graph: FloatGraph, text: str) -> Recipe:
    """The recipe with the scales of its cache, if that is of integers, measured with the tokenizer in `folder`.

    Raises:
        ProviderError: this machine cannot run the float graph.
    """
    if recipe.kv_cache is None:
        return recipe
    lacking = graph.lacking("calibration of the KV cache")
    if lacking is not None:
        raise ProviderError(
            f"the scales of a KV cache of {recipe.kv_cache} are measured with the float graph, which needs {lacking}; "
            "leave --kv-cache out, or export on a larger machine"
        )
    c = model.config
    parts = text_parts(Tokenizer.from_folder(folder), text, c.context_length, c.vocab_size)
    program = Program(graph.program("decoder"), PROVIDER)
    return replace(recipe, cache_scales=measured_scales(program, cache_geometry(c, PROVIDER), c.ropes, parts))
