"""Recipes: which weight gets which format. Ordered rules of glob -> format on the names of (joined) projections; the first match wins.

Names are layers.{i}.qkv_proj, .o_proj, .gate_up_proj, .down_proj, lm_head and embed_tokens (a tied table goes by lm_head); of a
mixture of experts layers.{i}.router, .experts, .shared.gate_up_proj, .shared.down_proj and .shared_gate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import InvalidOption
from edgelm_export.quantize.compensate import Compensation, Wide
from edgelm_export.quantize.formats import Format, find_format, with_block_size

PRECISIONS = (
    "fp32",
    "fp16",
    "int8",
    "int8-plain",
    "int8-rows",
    "int8-prefill",
    "int4",
    "int4-plain",
    "keep",
    "keep-fast",
)
DEFAULT_PRECISION: Mapping[str, str] = {"decoder": "int4", "encoder": "int8", "encoder-decoder": "int8"}

Rule = tuple[str, str]


@dataclass(frozen=True)
class Recipe:
    """Ordered rules (glob, format name). It remembers which rules decided, so that one that never did can be reported.

    Args:
        optional: how many of the last rules may go unused: those a preset added, not the user.
        compensates: whether blocks of integers are rounded for the error of the product, not of the weights.
        ranges: largest value of each column of a projection's input, by its name, measured on the float graph (calibrate.py).
        moments: the same of their second moments, for rounding that compensates; a function, for they are large.
        kv_cache: dtype of the KV cache, where it is not that of activations.
        cache_scales: what its integers stand for, [num_key_value_heads, head_dim] by the name of the buffer's input (cache_scales.py).
    """

    name: str
    rules: tuple[Rule, ...]
    optional: int = 0
    compensates: bool = False
    ranges: Mapping[str, NDArray[np.float32]] | None = field(default=None, repr=False, compare=False)
    moments: Callable[[str], Wide | None] | None = field(default=None, repr=False, compare=False)
    kv_cache: str | None = None
    cache_scales: Mapping[str, NDArray[np.float32]] | None = field(default=None, repr=False, compare=False)
    _decided: set[int] = field(default_factory=set[int], repr=False, compare=False)

    def format_for(self, name: str) -> Format:
        """The format of the weight called `name`.

        Raises:
            InvalidOption: no rule matches, or the rule names a format that does not exist.
        """
        for i, (pattern, form) in enumerate(self.rules):
            if fnmatchcase(name, pattern):
                self._decided.add(i)
                return find_format(form)
        raise InvalidOption(f"recipe {self.name} has no rule for {name}; end it with a rule for '*'")

    @property
    def wants_ranges(self) -> bool:
        """Whether a format is among the rules whose error depends on the input."""
        return any(find_format(form).input_scale for _, form in self.rules)

    @property
    def wants_moments(self) -> bool:
        """Whether a format is among the rules whose codes may be chosen by what the inputs look like."""
        return self.compensates and any(find_format(form).compensates for _, form in self.rules)

    def compensation(self, name: str, form: Format) -> Compensation | None:
        """What the rounding of the weight called `name` may make up for its errors with; None where nothing is known."""
        moments = None if self.moments is None or not form.compensates else self.moments(name)
        return None if moments is None else Compensation(moments)

    def cache_scale(self, port: str, shape: Sequence[int]) -> Iterable[NDArray[np.float32]]:
        """The scales of a cache buffer in that shape, as a store takes them."""
        if self.cache_scales is None:
            raise TypeError("the scales of the KV cache have not been measured")
        return [self.cache_scales[port].reshape(shape)]

    @property
    def rounds_inputs(self) -> bool:
        """Whether a format is among the rules that makes the kernel round its input."""
        return any(find_format(form).bits < 16 for _, form in self.rules)

    @property
    def keeps(self) -> bool:
        """Whether a format is among the rules that takes the checkpoint's own integers."""
        return any(find_format(form).keeps for _, form in self.rules)

    def with_forms(self, forms: Mapping[str, str]) -> Recipe:
        """The same with other formats for some weights, by their names."""
        return replace(self, rules=(*forms.items(), *self.rules), _decided=set[int]())

    def without_block_sums(self) -> Recipe:
        """The same with whole zero points in the place of fractional ones, whose inputs are wider than their weights."""
        return replace(self, rules=tuple((glob, form.replace("-affine", "-asym")) for glob, form in self.rules))

    def unused_rules(self) -> tuple[Rule, ...]:
        """The rules that have decided nothing so far and should have."""
        required = self.rules[: len(self.rules) - self.optional]
        return tuple(rule for i, rule in enumerate(required) if i not in self._decided)

    def check_used(self) -> None:
        """Called once every weight has asked for its format.

        Raises:
            InvalidOption: a rule decided nothing; all such rules are listed.
        """
        unused = ", ".join(repr(pattern) for pattern, _ in self.unused_rules())
        if unused:
            raise InvalidOption(
                f"recipe {self.name}: {unused} decided the format of no weight: misspelt, or an earlier rule takes all it matches "
                "(names are like layers.0.qkv_proj, layers.0.o_proj, layers.0.gate_up_proj, layers.0.down_proj, lm_head)"
            )

    def used(self) -> Recipe:
        """The recipe without the rules that decided nothing."""
        return replace(self, rules=tuple(rule for i, rule in enumerate(self.rules) if i in self._decided), optional=0)

    def as_manifest(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        calibrated = {"calibrated": True} if self.moments is not None else {}
        cache = {} if self.kv_cache is None else {"kv_cache": self.kv_cache}
        return {"name": self.name, **calibrated, **cache, "rules": [list(rule) for rule in self.rules]}


def preset(precision: str, num_hidden_layers: int, block_size: int | None = None, family: str = "decoder") -> Recipe:
    """The recipe a precision stands for.

    Args:
        block_size: weights that share a scale, in place of the preset's own; for int4 that of the 4-bit weights. What int8 stores
            with one scale a row gets blocks instead.

    Raises:
        InvalidOption: unknown precision, or a block size that kernels lack.
    """
    presets = {
        "fp32": lambda: [("*", "float32")],
        "fp16": lambda: [("*", "float16")],
        "int8": lambda: [*_ROUTERS, *_INTEGER_PRODUCTS[family], ("*", "int8-b128")],
        "int8-plain": lambda: [*_ROUTERS, ("*", "int8-b128")],
        "int8-rows": lambda: [
            *_ROUTERS,
            ("*.experts", "int8-b128"),
            ("*layers.*", "int8-rows"),
            _HEAD,
            ("*", "int8-b128"),
        ],
        "int8-prefill": lambda: [*_ROUTERS, *(_INTEGER_PRODUCTS[family] or _PREFILL), ("*", "int8-b128")],
        "int4": lambda: _int4_target() if family == "encoder-decoder" else _int4(num_hidden_layers),
        "int4-plain": lambda: [*_ROUTERS, ("*layers.*", "int4-b32"), ("*", "int8-b128")],
        "keep": lambda: [("*", "keep")],
        "keep-fast": lambda: [*_ROUTERS, ("*", "keep-fast")],
    }
    if precision not in presets:
        raise InvalidOption(f"precision {precision!r} is not known (known: {', '.join(PRECISIONS)})")
    rules = presets[precision]()
    if block_size is not None:
        rules = [(glob, _resized(form, precision, block_size)) for glob, form in rules]
    return Recipe(precision, tuple(rules), optional=len(rules))


def recipe_of(name: str, forms: Mapping[str, str], known: Recipe) -> Recipe:
    """The recipe that gives each weight of a decoder its own format, in few rules; what `forms` does not name goes by the presets.

    Args:
        name: of the recipe.
        forms: format by the name of the weight.
        known: what the recipe knows of the model besides.
    """
    kinds: dict[str, Counter[str]] = {}
    for weight, form in forms.items():
        kinds.setdefault(_kind(weight), Counter())[form] += 1
    usual = {kind: counted.most_common(1)[0][0] for kind, counted in kinds.items()}
    odd = [(weight, form) for weight, form in forms.items() if form != usual[_kind(weight)]]
    rest = [*_ROUTERS, _EXPERTS, ("*", "int8-b128")]
    rules = (*odd, *usual.items(), *rest)
    return replace(known, name=name, rules=rules, optional=len(usual) + len(rest), _decided=set[int]())


def _kind(weight: str) -> str:
    """The pattern of all layers' weights of that name."""
    return re.sub(r"\d+", "*", weight)


# A rounded router sends tokens elsewhere; and it is small.
_ROUTERS: tuple[Rule, ...] = (("*.router", "float32"), ("*.shared_gate", "float32"))

# Experts go without zero points: QMoE takes 12 to 20 % longer with them, and they take a normal weight's error from 0.082 of
# its spread to 0.078 (Q4_0: 0.086).
_EXPERTS: Rule = ("layers.*.experts", "int4-b32")

# One scale for the whole input costs an encoder 3 to 6 % less time than one a row.
_WHOLE_TEXTS: tuple[Rule, ...] = (("layers.*", "int8-dynamic"), ("encoder.layers.*", "int8-dynamic"))

# Steps of a T5-small, CPU time with int8-b128 over that with int8-rows (ONNX Runtime 1.31, AVX2): 1.0 for one row, 1.3 for 4, 1.6 for
# 16, 1.8 for 64, with the same divergence. In its encoder int8-dynamic has 11 times the divergence.
_HEAD: Rule = ("lm_head", "int8-rows")
_INTEGER_PRODUCTS: Mapping[str, tuple[Rule, ...]] = {
    "decoder": (),
    "encoder": _WHOLE_TEXTS,
    "encoder-decoder": (("encoder.layers.*", "int8-rows"), ("decoder.layers.*", "int8-rows"), _HEAD),
}

# Of a decoder, where down_proj's input is what one scale a row does not suit: SmolLM2's divergence is 0.019 with whole rows there too,
# and 0.009 with blocks there, as with blocks everywhere.
_PREFILL: tuple[Rule, ...] = (
    ("layers.*.experts", "int8-b128"),
    ("layers.*.down_proj", "int8-b128"),
    ("layers.*", "int8-rows"),
)


def _int4_target() -> list[Rule]:
    """Of an encoder-decoder only the decoder's steps wait for weights, so only they get four bits."""
    source = [("encoder.layers.*", "int8-rows"), ("*.kv_proj", "int8-rows")]
    steps = [("decoder.layers.*.qkv_proj", "int8-b128"), ("decoder.layers.*", "int4-b32-asym")]
    return [*source, *steps, _HEAD, ("*", "int8-b128")]


def _int4(num_hidden_layers: int) -> list[Rule]:
    """Eight bits where a byte buys most, a fractional zero point in the widest projection, a whole one in the others.

    Eight bits for qkv_proj, and for down_proj in the first and last layers and every third between. Measured on
    SmolLM2-135M with weights off any 4-bit grid: the mean KL divergence that four bits add for each MB they save is 0.018
    for qkv_proj, 0.008 for down_proj (most of it in few layers), 0.003 for gate_up_proj and o_proj. On the Q4_1 file of
    that model, read with the built-in text, the block sums of gate_up_proj take the divergence from 0.089 to 0.032 for 2 %
    of a decode step; those of o_proj and down_proj would take it to 0.009 for another 5 to 10 %.

    """
    rules = [*_ROUTERS, _EXPERTS, ("layers.*.qkv_proj", "int8-b128")]
    rules += [(f"layers.{i}.down_proj", "int8-b128") for i in _favoured(num_hidden_layers)]
    return [*rules, ("layers.*.gate_up_proj", "int4-b32-affine"), ("layers.*", "int4-b32-asym"), ("*", "int8-b128")]


def _favoured(num_hidden_layers: int) -> Iterable[int]:
    edge = num_hidden_layers // 8
    for i in range(num_hidden_layers):
        if i < edge or i >= num_hidden_layers - edge or (i - edge) % 3 == 2:
            yield i


def _resized(form: str, precision: str, block_size: int) -> str:
    form = "int8-b128" if form == "int8-rows" and precision == "int8" else form
    with_size = with_block_size(form, block_size)
    return with_size if precision == "int8" or form.startswith("int4") else form
