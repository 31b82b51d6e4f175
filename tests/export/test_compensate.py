"""Rounding that compensates: against plain rounding in the norm that counts, on grids of every kind, whatever the order of sums."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from edgelm_export.quantize import compensate
from edgelm_export.quantize.compensate import Compensation, Grid
from edgelm_export.quantize.formats import FORMATS, Format, find_format

K = 96
BLOCKS = [form for form in FORMATS.values() if form.compensates and form.fit(K) == form]


def correlated_inputs(tokens: int, seed: int = 0) -> np.ndarray:
    """A third as many directions as columns hold most of what the inputs do, and columns are of unlike size."""
    random = np.random.default_rng(seed)
    directions = random.standard_normal((K // 3, K))
    noise = 0.1 * random.standard_normal((tokens, K))
    return (random.standard_normal((tokens, K // 3)) @ directions + noise) * np.exp(random.standard_normal(K))


def moments(inputs: np.ndarray) -> np.ndarray:
    return inputs.T @ inputs / len(inputs)


def weights(n: int = 64, k: int = K) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, k)).astype(np.float32)


def output_error(form: Format, rows: np.ndarray, known: Compensation, used: Compensation | None) -> np.ndarray:
    return known.error(form.dequantize(form.quantize(rows, used), rows.shape[1]) - rows)


@pytest.mark.parametrize("form", BLOCKS, ids=lambda form: form.name)
def test_it_takes_at_least_half_of_the_error_of_correlated_inputs(form: Format) -> None:
    known = Compensation(moments(correlated_inputs(400)))
    plain, found = (output_error(form, weights(), known, used) for used in (None, known))
    assert found.sum() < 0.5 * plain.sum()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tokens", [1, 20, 400])
def test_no_row_gets_worse(tokens: int, seed: int) -> None:
    known = Compensation(moments(correlated_inputs(tokens, seed)))
    for form in BLOCKS:
        plain, found = (output_error(form, weights(), known, used) for used in (None, known))
        assert (found <= plain * (1 + 1e-9) + 1e-12).all(), form.name


def test_inputs_that_have_nothing_in_common_change_nothing() -> None:
    rows, form = weights(), find_format("int4-b32-asym")
    plain, found = form.quantize(rows), form.quantize(rows, Compensation(np.eye(K)))
    assert np.array_equal(plain.packed, found.packed)


def test_the_error_is_that_of_the_product() -> None:
    inputs, difference = correlated_inputs(300), weights(8)
    expected = np.square(inputs @ difference.T.astype(np.float64)).mean(0)
    assert Compensation(moments(inputs)).error(difference) == pytest.approx(expected)


def test_two_columns_worked_by_hand() -> None:
    # Both columns are nearly the same, and each weight is 0.4: rounded alone both become 0, together one must be 1.
    known = Compensation(np.array([[1, 0.99], [0.99, 1]]))
    grid = Grid(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32), 2, 15)
    assert known.codes(np.full((1, 2), 0.4, np.float32), grid).tolist() == [[0, 1]]


def test_the_last_block_may_be_padded() -> None:
    rows = weights(k=80)
    known = Compensation(moments(correlated_inputs(400)[:, :80]))
    form = find_format("int4-b32-asym")
    plain, found = form.quantize(rows), form.quantize(rows, known)
    assert found.packed.shape == plain.packed.shape
    assert not form.dequantize(found, K)[:, 80:].any()
    assert known.error(form.dequantize(found, 80) - rows).sum() < known.error(form.dequantize(plain, 80) - rows).sum()


def test_a_column_that_the_text_never_used_is_rounded_to_nearest() -> None:
    inputs = correlated_inputs(400)
    inputs[:, 7] = 0
    rows, form = weights(), find_format("int8-b32")
    plain, found = (form.quantize(rows, used) for used in (None, Compensation(moments(inputs))))
    assert np.array_equal(plain.packed.reshape(len(rows), -1)[:, 7], found.packed.reshape(len(rows), -1)[:, 7])


def test_rows_do_not_depend_on_the_rows_beside_them() -> None:
    known, form = Compensation(moments(correlated_inputs(400))), find_format("int4-b32")
    rows = weights()
    together, apart = form.quantize(rows, known), [form.quantize(rows[i : i + 16], known) for i in range(0, 64, 16)]
    assert np.array_equal(together.packed, np.concatenate([part.packed for part in apart]))


def test_blocks_of_any_size_pass_their_errors_on_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    known, form = Compensation(moments(correlated_inputs(400))), find_format("int4-b32-affine")
    wide = form.quantize(weights(), known)
    monkeypatch.setattr(compensate, "_BLOCK", 7)
    assert np.array_equal(wide.packed, form.quantize(weights(), known).packed)


def test_sums_in_another_order_change_no_code() -> None:
    inputs = np.rint(correlated_inputs(400) * 1000)
    rows, form = weights(), find_format("int4-b32-asym")
    first, second = (form.quantize(rows, Compensation(moments(some))) for some in (inputs, inputs[::-1]))
    assert np.array_equal(first.packed, second.packed)


_CODES = """
import hashlib
import os
import subprocess
import sys

import numpy as np
from edgelm_export.quantize.calibrate import _products
from edgelm_export.quantize.compensate import Compensation
from edgelm_export.quantize.formats import find_format

random = np.random.default_rng(0)
inputs = random.integers(-9, 10, (700, 512)).cumsum(1).astype(np.float32)
form = find_format("int4-b32-asym")
found = form.quantize(random.standard_normal((300, 512)).astype(np.float32), Compensation(_products(inputs)))
print(hashlib.sha256(found.packed.tobytes()).hexdigest())
"""


def test_the_number_of_threads_changes_no_code() -> None:
    def digest(threads: str) -> str:
        limits = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        command = [sys.executable, "-c", _CODES]
        return subprocess.run(command, env={**os.environ, **limits}, check=True, capture_output=True, text=True).stdout

    assert len(digest("1")) == 65
    assert digest("1") == digest("2")
