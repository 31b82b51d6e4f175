"""Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344), Pegasus (1912.08777) and M2M-100 (2010.11125), NLLB's too: BART with sines."""

from __future__ import annotations

from dataclasses import replace

from edgelm_export.architectures.bart import BART, PRE_NORM

_SINES = {"positions": "sinusoidal", "logits_bias": True}

MARIAN = replace(
    BART,
    family="marian",
    model_types={
        "marian": {**_SINES, "separate_vocabularies": True},
        "pegasus": {**_SINES, **PRE_NORM},
        "m2m_100": {**PRE_NORM, "positions": "counted", "scale_embedding": True, "activation_function": "relu"},
    },
    ignored={**BART.ignored, "*.embed_positions.weights": "computed in the graph"},
)
