"""Known answers of normalization over the last axis."""

from __future__ import annotations

import numpy as np

from edgelm_export.known_answers.problems import Case, Problem, Setting

_SHAPE = (2, 3, 24)


def rms_normalization(setting: Setting) -> Problem:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    x, scale = _input()
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + setting.attributes["epsilon"])
    return Problem(setting.attributes, [Case([x, scale], normed * scale)])


def layer_normalization(setting: Setting) -> Problem:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias."""
    x, scale = _input()
    bias = np.linspace(-1, 1, _SHAPE[-1], dtype=np.float32) if setting.has(2) else None
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + setting.attributes["epsilon"])
    return Problem(setting.attributes, [Case([x, scale, bias], normed * scale + (0 if bias is None else bias))])


def _input() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0.3, 1, _SHAPE).astype(np.float32), rng.uniform(0.5, 1.5, _SHAPE[-1]).astype(np.float32)
