"""Known answers of attention: over a cache, over a whole text, to a source; and of rotary positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_export.known_answers.problems import Array, Case, Problem, Setting, softmax

Floats = NDArray[np.float64]

_HEAD = 16  # the smallest head whose positions the fused kernel turns itself
_ROOM = 12  # positions of a cache
_TOKENS = 7
_WINDOW = 3  # stands for any window, so that it ends inside of the text
_SCALES = (
    0.01,
    0.02,
)  # of a cache of 8-bit integers: between them, so that the largest values are cut off in some channels only


def group_query_attention(setting: Setting) -> Problem:
    """Attention with shared keys: of a whole text, or of a prompt, a step and another part behind a cache."""
    attributes = _few_heads(setting, "num_heads", "kv_num_heads")
    if attributes.get("local_window_size", -1) > 0:
        attributes["local_window_size"] = _WINDOW
    heads, shared = attributes["num_heads"], attributes["kv_num_heads"]
    text = _Text(np.random.default_rng(0), heads, shared, attributes, sinks=setting.has(11), bias=setting.has(10))
    if not setting.has(3):
        return Problem(attributes, [text.case(setting, 0, _TOKENS)])
    parts = [(0, 5), (5, 6), (5, _TOKENS)]
    if setting.outputs == 1:  # keys and values of the new tokens are in the cache already
        return Problem(attributes, [text.cached_case(past, total) for past, total in parts])
    return Problem(attributes, [text.case(setting, past, total) for past, total in parts])


def _few_heads(setting: Setting, queries: str, keys: str) -> dict[str, Any]:
    """The attributes with as few heads as have as many queries a key, and more than one key where there is more than one."""
    many, few = setting.attributes[queries], setting.attributes[keys]
    kept = min(few, 2)
    return {**setting.attributes, queries: many // few * kept, keys: kept}


class _Text:
    """Queries, keys and values of a text [tokens, heads, head size], and what each token makes of those it sees."""

    def __init__(
        self, rng: np.random.Generator, heads: int, shared: int, attributes: dict[str, Any], *, sinks: bool, bias: bool
    ) -> None:
        self._attributes = attributes
        self._q, self._k, self._v = (
            rng.normal(0, 1, (_TOKENS, count, _HEAD)).astype(np.float32) for count in (heads, shared, shared)
        )
        self._sinks = rng.normal(0, 1, heads).astype(np.float32) if sinks else None
        self._bias = rng.normal(0, 1, (1, heads, _TOKENS, _TOKENS)).astype(np.float32) if bias else None
        angles = np.outer(np.arange(_ROOM), 0.7 ** np.arange(_HEAD // 2))
        self._cos, self._sin = (turn(angles).astype(np.float32) for turn in (np.cos, np.sin))
        # What integers of a cache stand for, of keys and of values, channel by channel.
        self._scales = [
            rng.uniform(*_SCALES, (1, shared, 1, _HEAD)).astype(np.float32)
            if attributes.get(f"{kind}_quant_type")
            else None
            for kind in "kv"
        ]

    def case(self, setting: Setting, past: int, total: int) -> Case:
        """Tokens past..total behind a cache that holds those before them; of a setting without a cache, the first `total`."""
        new = slice(past, total)
        turns = bool(self._attributes.get("do_rotary", 0))
        q, k, v = (x.astype(np.float64) for x in (self._q, self._k, self._v))
        if turns:
            q, k = self._turned(q), self._turned(k)
        joined = [x[new].reshape(1, total - past, -1) for x in (self._q, self._k, self._v)]
        queries: list[Array | None] = [*joined]
        if not setting.has(1):
            queries = [np.concatenate(joined, axis=-1), None, None]
        codes = [_codes(x, scale) for x, scale in zip((k, v), self._scales, strict=True)]
        cache: list[Array | None] = [_buffer(x, past) for x in codes]
        tables: list[Array | None] = [self._cos, self._sin] if turns else [None, None]
        bias = None if self._bias is None else self._bias[:, :, new, :total]
        inputs = [*queries, *(cache if setting.has(3) else (None, None)), *_lengths(total), *tables, None, bias]
        k, v = (_meant(x, scale) for x, scale in zip(codes, self._scales, strict=True))
        answer = self._attended(q[new], k[:total], v[:total], past)
        return Case([*inputs, self._sinks, *self._scales], answer)

    def cached_case(self, past: int, total: int) -> Case:
        """Tokens past..total where all keys and values are in the cache."""
        new = slice(past, total)
        none = np.zeros((1, 0, self._k.shape[1] * _HEAD), np.float32)
        cache = [_buffer(x, total) for x in (self._k, self._v)]
        bias = None if self._bias is None else self._bias[:, :, new, :total]
        answer = self._attended(self._q[new].astype(np.float64), self._k[:total], self._v[:total], past)
        query = self._q[new].reshape(1, total - past, -1)
        return Case([query, none, none, *cache, *_lengths(total), None, None, None, bias, self._sinks], answer)

    def _attended(self, q: Floats, k: Array, v: Array, past: int) -> Array:
        """Queries [new, heads, size] at positions from `past` on, keys and values [total, shared heads, size] -> [1, new, ...]."""
        a = self._attributes
        repeats = q.shape[1] // k.shape[1]
        k, v = (np.repeat(x.astype(np.float64), repeats, axis=1) for x in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * a.get("scale", 1 / np.sqrt(_HEAD))
        if a.get("softcap", 0):
            scores = a["softcap"] * np.tanh(scores / a["softcap"])
        if self._bias is not None:
            scores += self._bias[0, :, past : past + len(q), : len(k)]
        at, seen = np.arange(past, past + len(q))[:, None], np.arange(len(k))
        hidden = (seen > at) if a.get("causal", 1) else np.zeros((len(q), len(k)), bool)
        if a.get("local_window_size", -1) > 0:
            hidden |= seen <= at - a["local_window_size"]
        scores[:, hidden] = -np.inf
        if self._sinks is not None:
            column = np.broadcast_to(self._sinks.astype(np.float64)[:, None, None], (*scores.shape[:2], 1))
            shares = softmax(np.concatenate([scores, column], axis=-1))[..., :-1]
        else:
            shares = softmax(scores)
        return np.einsum("hqk,khd->qhd", shares, v).reshape(1, len(q), -1)

    def _turned(self, x: Floats) -> Floats:
        return turned(x, self._cos, self._sin, interleaved=self._attributes.get("rotary_interleaved", 0))


def _buffer(x: Array, count: int) -> Array:
    """A cache [1, heads, room, size] with the first `count` tokens of x [tokens, heads, size]."""
    buffer = np.zeros((1, x.shape[1], _ROOM, _HEAD), x.dtype)
    buffer[0, :, :count] = x[:count].swapaxes(0, 1)
    return buffer


def _codes(x: Floats, scale: Array | None) -> Array:
    """What a cache holds of keys or values [tokens, heads, size]."""
    if scale is None:
        return x.astype(np.float32)
    return np.clip(np.rint(x / scale[:, :, 0]), -128, 127).astype(np.int8)


def _meant(codes: Array, scale: Array | None) -> Floats:
    """What that stands for."""
    return codes.astype(np.float64) * (1 if scale is None else scale[:, :, 0])


def _lengths(total: int) -> tuple[Array, Array]:
    return np.array([total - 1], np.int32), np.array(total, np.int32)


def turned(x: Floats, cos: Array, sin: Array, *, interleaved: int) -> Floats:
    """Heads [tokens, heads, size] with pairs turned by angles [tokens or more, size / 2]; pairs are neighbours, or halves apart."""
    cos, sin = (table[: len(x), None].astype(np.float64) for table in (cos, sin))
    pairs = (slice(0, None, 2), slice(1, None, 2))
    if not interleaved:
        half = x.shape[-1] // 2
        pairs = (slice(0, half), slice(half, None))
    first, second = (x[..., pair] for pair in pairs)
    result = np.empty_like(x)
    result[..., pairs[0]], result[..., pairs[1]] = first * cos - second * sin, second * cos + first * sin
    return result


def rotary_embedding(setting: Setting) -> Problem:
    """Heads turned by their positions, which are given one by one, or by the first of them."""
    attributes, rng, heads, tokens = dict(setting.attributes), np.random.default_rng(0), 2, 4
    partial = bool(attributes.get("rotary_embedding_dim", 0))
    size = _HEAD // 2 if partial else _HEAD
    if partial:
        attributes |= {"num_heads": heads, "rotary_embedding_dim": size}
    elif "num_heads" in attributes:
        attributes["num_heads"] = heads
    x = rng.normal(0, 1, (1, tokens, heads, _HEAD)).astype(np.float32)
    angles = np.outer(np.arange(_ROOM), 0.7 ** np.arange(size // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    cases: list[Case] = []
    for positions, rows in (([3], [3, 4, 5, 6]), ([[2, 0, 9, 1]], [2, 0, 9, 1])):
        answer = x[0].astype(np.float64)
        interleaved = attributes.get("interleaved", 0)
        answer[..., :size] = turned(answer[..., :size], cos[rows], sin[rows], interleaved=interleaved)
        inputs = [x.reshape(1, tokens, -1), np.array(positions, np.int64), cos, sin]
        cases.append(Case(inputs, answer.reshape(1, tokens, -1)))
    return Problem(attributes, cases)


def multi_head_attention(setting: Setting) -> Problem:
    """Queries of two sources, of which one is padded, to keys and values [sources, heads, source, size]."""
    rng, heads = np.random.default_rng(0), 2
    q, k, v = (rng.normal(0, 1, (2, heads, count, _HEAD)).astype(np.float32) for count in (3, 5, 5))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    scale = setting.attributes.get("scale", 1 / np.sqrt(_HEAD))
    answer = _masked(q, k, v, np.where(mask[:, None, None] == 1, 0, -np.inf), scale)
    inputs = [_joined(q), k, v, None, mask]
    return Problem({**setting.attributes, "num_heads": heads}, [Case(inputs, answer)])


def standard_attention(setting: Setting) -> Problem:
    """The standard operator on two texts, of which one is padded; what masks it is true and false, or is added."""
    attributes, rng = _few_heads(setting, "q_num_heads", "kv_num_heads"), np.random.default_rng(0)
    heads, shared = attributes["q_num_heads"], attributes["kv_num_heads"]
    q, k, v = (rng.normal(0, 1, (2, count, 5, _HEAD)).astype(np.float32) for count in (heads, shared, shared))
    attend = np.broadcast_to(np.array([[1] * 5, [1, 1, 1, 0, 0]], bool)[:, None, None], (2, 1, 5, 5)).copy()
    bias = rng.normal(0, 1, (2, heads, 5, 5)).astype(np.float32)
    scale = attributes.get("scale", 1 / np.sqrt(_HEAD))
    repeated = [np.repeat(x, heads // shared, axis=1) for x in (k, v)]
    inputs = [_joined(q), _joined(k), _joined(v)]
    cases = [
        Case([*inputs, mask], _masked(q, repeated[0], repeated[1], added, scale))
        for mask, added in ((attend, np.where(attend, 0, -np.inf)), (bias, bias))
    ]
    return Problem(attributes, cases)


def _masked(q: Array, k: Array, v: Array, added: Array, scale: float) -> Array:
    """[batch, heads, tokens, size] of each -> [batch, tokens, heads * size]."""
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) * scale + added
    return _joined(np.einsum("bhqk,bhkd->bhqd", softmax(scores), v))


def _joined(x: Array) -> Array:
    """[batch, heads, tokens, size] -> [batch, tokens, heads * size]."""
    return x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1)
