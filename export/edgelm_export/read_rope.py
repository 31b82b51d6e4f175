"""Raw keys of rotary positions in, RopeConfig out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgelm_export.config import RopeConfig
from edgelm_export.config_reader import ConfigReader

Values = Mapping[str, Any]

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def read_rope(reader: ConfigReader, limit: int, head_dim: int) -> RopeConfig:
    """Both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (before)."""
    return rope_of(reader, rope_values(reader), limit, head_dim)


def rope_values(reader: ConfigReader) -> dict[str, Any]:
    """What the config says of its rotary positions, in the spelling of transformers 5; of two kinds, those of global layers."""
    parameters, scaling = reader.get("rope_parameters"), reader.get("rope_scaling")
    for key, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if value is not None and not isinstance(value, dict):
            reader.problem(f"{key} is {value!r}, expected an object")
    values: dict[str, Any] = {**(scaling if isinstance(scaling, dict) else {}), **_of_kind(parameters, _GLOBAL)}
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        outside = reader.get(key)
        if values.get(key) is None and outside is not None:
            values[key] = outside
    return values


def read_local_rope(reader: ConfigReader, limit: int, head_dim: int) -> RopeConfig:
    """The rotary positions of local layers.

    transformers 5 has an object of theirs; before, they had a base at most, for `rope_scaling` was that of global layers.
    """
    parameters, theta = reader.get("rope_parameters"), reader.get("rope_local_base_freq")
    usual = {"rope_theta": rope_values(reader).get("rope_theta") if theta is None else theta}
    return rope_of(
        reader, {**usual, **(_of_kind(parameters, _LOCAL) if _is_nested(parameters) else {})}, limit, head_dim
    )


def _is_nested(parameters: Any) -> bool:
    return isinstance(parameters, dict) and bool(parameters.keys() & {_GLOBAL, _LOCAL})


def _of_kind(parameters: Any, kind: str) -> dict[str, Any]:
    """Those of one kind of layers, or those of all."""
    found = parameters.get(kind) if _is_nested(parameters) else parameters
    return found if isinstance(found, dict) else {}


def rope_of(reader: ConfigReader, values: Values, limit: int, head_dim: int) -> RopeConfig:
    """One set of rotary positions from its own object, which names the base too.

    Args:
        reader: where problems go, and facts of the model type come from.
        values: the object.
        limit: the longest context, scaling included.
        head_dim: width of the heads that turn.
    """
    kind = values.get("rope_type", values.get("type")) or "default"
    kind = _OTHER_NAMES.get(kind, kind) if isinstance(kind, str) else repr(kind)
    read = _KINDS.get(kind)
    if read is None:
        reader.problem(f"rope type {kind!r} is not supported (known: {', '.join(sorted(_KINDS))})")
        read = _default
    return RopeConfig(
        rope_theta=reader.number("rope_theta", source=values),
        # "dynamic" begins to scale beyond the limit, where a package does not go.
        rope_type=kind if kind in _KINDS and kind != "dynamic" else "default",
        interleaved=reader.flag("interleaved_rotary"),
        **read(reader, values, limit, head_dim),
    )


def _default(reader: ConfigReader, values: Values, limit: int, head_dim: int) -> dict[str, Any]:
    return {"rotary_dim": _rotary_dim(reader, values, head_dim)}


def _linear(reader: ConfigReader, values: Values, limit: int, head_dim: int) -> dict[str, Any]:
    return _default(reader, values, limit, head_dim) | {"factor": reader.number("factor", source=values)}


def _llama3(reader: ConfigReader, values: Values, limit: int, head_dim: int) -> dict[str, Any]:
    names = ("factor", "low_freq_factor", "high_freq_factor")
    numbers = {name: reader.number(name, source=values) for name in names}
    return {**_default(reader, values, limit, head_dim), **numbers, **_original(reader, values, limit)}


def _yarn(reader: ConfigReader, values: Values, limit: int, head_dim: int) -> dict[str, Any]:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), with the two factors that DeepSeek added."""
    original = _original(reader, values, limit)
    before = original["original_max_position_embeddings"]
    factor = reader.number("factor", limit / before, source=values)
    if values.get("extrapolation_factor") not in (None, 1.0):
        reader.problem(f"extrapolation_factor {values['extrapolation_factor']} of YaRN is not supported (only 1)")
    whole, part = (values.get(name) for name in ("mscale_all_dim", "mscale"))
    if whole and part:
        share = yarn_mscale(factor, reader.number("mscale", source=values))
        usual = share / yarn_mscale(factor, reader.number("mscale_all_dim", source=values))
    else:
        usual = yarn_mscale(factor)
    return {
        **_default(reader, values, limit, head_dim),
        **original,
        "factor": factor,
        "attention_factor": reader.number("attention_factor", usual, source=values),
        "beta_fast": reader.number("beta_fast", 32.0, source=values),
        "beta_slow": reader.number("beta_slow", 1.0, source=values),
        "truncate": values.get("truncate") is not False,
    }


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """How much sharper attention must get where a context is stretched by `factor` (YaRN, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(reader: ConfigReader, values: Values, limit: int, head_dim: int) -> dict[str, Any]:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): a divisor for each frequency, others beyond the context of training."""
    default, original = _default(reader, values, limit, head_dim), _original(reader, values, limit)
    before = original["original_max_position_embeddings"]
    factor = reader.number("factor", limit / before, source=values)
    usual = 1.0 if factor <= 1 or before < 2 else math.sqrt(1 + math.log(factor) / math.log(before))
    pairs = (default["rotary_dim"] or head_dim) // 2
    factors = {name: _factors(reader, values, name, pairs) for name in ("short_factor", "long_factor")}
    attention_factor = reader.number("attention_factor", usual, source=values)
    return {**default, **original, **factors, "factor": factor, "attention_factor": attention_factor}


def _proportional(reader: ConfigReader, values: Values, limit: int, head_dim: int) -> dict[str, Any]:
    """All of a head by its pairs' frequencies, of which the last do not turn (Gemma 4)."""
    proportion = reader.number("partial_rotary_factor", 1.0, source=values)
    if proportion > 1:
        reader.problem(f"partial_rotary_factor is {proportion}, expected a share of at most 1")
    return {"proportion": proportion, "factor": reader.number("factor", 1.0, source=values)}


_KINDS: Mapping[str, Callable[[ConfigReader, Values, int, int], dict[str, Any]]] = {
    "default": _default,
    "dynamic": _default,
    "freq_factors": _default,
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "proportional": _proportional,
    "yarn": _yarn,
}


# As the first releases of Phi-3 call it.
_OTHER_NAMES = {"su": "longrope"}


def _original(reader: ConfigReader, values: Values, limit: int) -> dict[str, int]:
    name = "original_max_position_embeddings"
    return {name: int(reader.number(name, limit, source=values))}


def _rotary_dim(reader: ConfigReader, values: Values, head_dim: int) -> int:
    """Leading dimensions that turn, 0 for all."""
    share = reader.number("partial_rotary_factor", 1.0, source=values)
    size = int(head_dim * share)
    if share > 1 or size % 2 or size < 2:
        reader.problem(f"partial_rotary_factor {share} of head_dim {head_dim} is no even number of dimensions")
        return 0
    return 0 if size == head_dim else size


def _factors(reader: ConfigReader, values: Values, name: str, count: int) -> tuple[float, ...]:
    found = values.get(name)
    if not isinstance(found, list) or len(found) != count or not all(_is_positive(value) for value in found):
        reader.problem(f"{name} must be {count} positive numbers, one for each pair of dimensions that turn")
        return (1.0,) * count
    return tuple(float(value) for value in found)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
