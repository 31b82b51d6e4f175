"""Runs a float graph over the built-in text and notes how wide each column of each projection's input gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.encode import Encoder, Row
from edgelm.progress import progress
from edgelm.providers import Provider
from edgelm.session import Program
from edgelm_export.blocks.linear import INPUT_TAP

Ranges = Mapping[str, NDArray[np.float32]]


def calibrate(program: Path, provider: Provider, rows: Sequence[Row], pad_token_id: int) -> Ranges:
    """Largest absolute value of each column of each projection's input, by the projection's name.

    Args:
        program: a float graph whose projections' inputs are tapped.
        provider: where it runs.
        rows: the texts.
        pad_token_id: what the program's rows are filled up with.
    """
    loaded = Program(program, provider)
    taps = [name for name in loaded.outputs if name.startswith(INPUT_TAP)]
    encoder = Encoder(loaded, pad_token_id)
    ranges: dict[str, NDArray[np.float32]] = {}
    with progress(len(rows), "Calibrating", "text") as bar:
        for row in rows:
            for tap, values in zip(taps, encoder.outputs([row], taps), strict=True):
                name = tap.removeprefix(INPUT_TAP).split("#")[0]  # layers that share weights share their ranges
                columns = np.abs(values).reshape(-1, values.shape[-1]).max(0)
                ranges[name] = np.maximum(ranges[name], columns) if name in ranges else columns
            bar.advance()
    return ranges
