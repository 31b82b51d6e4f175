"""Weight formats: packing against ONNX Runtime's own kernels, a block worked by hand, searches against plain rounding."""

from __future__ import annotations

import gguf
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgelm.errors import InvalidOption
from edgelm_export import workers
from edgelm_export.quantize import rounding
from edgelm_export.quantize.formats import FORMATS, Format, Quantized, find_format, with_block_size

INTEGERS = [form for form in FORMATS.values() if form.block_size]  # int8-dynamic has tests of its own
SMALL = [form for form in INTEGERS if form.block_size <= 64]


def weights(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def round_trip(form: Format, rows: np.ndarray) -> np.ndarray:
    return form.dequantize(form.quantize(rows), rows.shape[1])


def squared_error(form: Format, rows: np.ndarray) -> float:
    return float(np.square(round_trip(form, rows) - rows, dtype=np.float64).sum())


def round_to(blocks: np.ndarray, scale: np.ndarray, zero: np.ndarray | float = 8) -> rounding.Rounded:
    """Plain rounding to the nearest of 16 codes on a grid whose scale is a float16."""
    scale = scale.astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(blocks / scale + zero), 0, 15).astype(np.float32)
    return rounding.Rounded(scale, np.broadcast_to(zero, scale.shape).astype(np.float32), codes)


def block_errors(blocks: np.ndarray, found: rounding.Rounded) -> np.ndarray:
    """Squared error of each block."""
    return np.square((found.codes - found.zero) * found.scale - blocks, dtype=np.float64).sum(0)


def stored_inputs(stored: Quantized, packed_shape: tuple[int, ...]) -> list[ir.Value]:
    arrays = {"packed": stored.packed.reshape(packed_shape), "scales": stored.scales}
    if stored.zero_points is not None:
        arrays["zero_points"] = stored.zero_points
    return [ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]


def run_kernel(op: str, x: np.ndarray, stored: list[ir.Value], attributes: dict[str, int]) -> np.ndarray:
    data = ir.val("x", dtype=ir.DataType.from_numpy(x.dtype), shape=list(x.shape))
    cast = ir.node("Cast", [stored[1]], {"to": ir.DataType.FLOAT})
    first, second = (data, stored[0]) if op == "MatMulNBits" else (stored[0], data)
    node = ir.node(op, [first, second, cast.outputs[0], *stored[2:]], attributes, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [data],
        node.outputs,
        nodes=[cast, node],
        initializers=stored,
        opset_imports={"": 21, "com.microsoft": 1},
        name="g",
    )
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def matmul(form: Format, x: np.ndarray, stored: Quantized, accuracy_level: int) -> np.ndarray:
    n, k = len(stored.packed), x.shape[1]
    if form.block_sums:
        sums = x.reshape(len(x), -1, form.block_size).sum(-1)
        x = np.concatenate([x, sums], axis=1)
    attributes = {"K": form.columns(k), "N": n, "bits": form.bits, "block_size": form.block_size}
    return run_kernel(
        "MatMulNBits",
        np.ascontiguousarray(x),
        stored_inputs(stored, stored.packed.shape),
        attributes | {"accuracy_level": accuracy_level},
    )


# bytes and shapes


def test_a_symmetric_block_worked_by_hand() -> None:
    form = find_format("int4-b16")
    block = np.array([[-8, 7, 0, 1, -1, 2, 3, 4, 5, 6, -2, -3, -4, -5, -6, -7]], np.float32) * np.float32(0.5)
    stored = form.quantize(block)
    # codes are value / 0.5 + 8: 0 15 8 9 7 10 11 12 13 14 6 5 4 3 2 1; the first of a pair is the low nibble
    assert stored.packed.tolist() == [[[0xF0, 0x98, 0xA7, 0xCB, 0xED, 0x56, 0x34, 0x12]]]
    assert stored.scales.tolist() == [[0.5]]
    assert stored.zero_points is None


def test_an_asymmetric_block_worked_by_hand() -> None:
    form = find_format("int4-b16-asym")
    block = (np.arange(16, dtype=np.float32)[None] - 3) * np.float32(0.25)  # from -0.75 to 3: zero point 3
    stored = form.quantize(np.concatenate([block, -block], axis=1))
    assert stored.packed[0, 0].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert stored.scales.tolist() == [[0.25, 0.25]]
    assert stored.zero_points is not None
    assert stored.zero_points.tolist() == [[3 | 12 << 4]]


def test_an_affine_block_worked_by_hand() -> None:
    form = find_format("int4-b16-affine")
    block = (np.arange(16, dtype=np.float32)[None] - 3.25) * np.float32(
        0.25
    )  # zero point 3.25 = 3 and a rest of -0.0625
    stored = form.quantize(block)
    assert stored.packed[0, 0].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert stored.packed[0, 1].tolist() == [0x80] + [0x88] * 7  # column 16: code 0 = -8 * scale; the padding is 0
    assert stored.scales.tolist() == [[0.25, 0.0625 / 8]]
    assert stored.zero_points is not None
    assert stored.zero_points.tolist() == [[3 | 8 << 4]]
    assert form.dequantize(stored, 16).tolist() == block.tolist()


def test_eight_bits_worked_by_hand() -> None:
    form = find_format("int8-b16")
    block = np.array([[127, -127, 0, 1, -1, *range(11)]], np.float32) * np.float32(0.125)
    stored = form.quantize(block)
    assert stored.packed.tolist() == [[[255, 1, 128, 129, 127, *range(128, 139)]]]
    assert stored.scales.tolist() == [[0.125]]


@pytest.mark.parametrize("form", INTEGERS, ids=lambda form: form.name)
@pytest.mark.parametrize("k", [48, 96, 512, 576])
def test_sizes_are_those_of_the_arrays(form: Format, k: int) -> None:
    form = form.fit(k)
    stored = form.quantize(weights(3, k))
    blocks = form.blocks(k)
    assert stored.packed.shape == (3, blocks, form.block_size * form.bits // 8)
    assert stored.scales.shape == (3, blocks)
    assert stored.scales.dtype == form.scale_dtype
    arrays = [stored.packed, stored.scales]
    if not form.symmetric:
        assert stored.zero_points is not None
        assert stored.zero_points.shape == (3, -(-blocks * form.bits // 8))
        arrays.append(stored.zero_points)
    assert form.nbytes(3, k) == sum(array.nbytes for array in arrays)


# against ONNX Runtime


@pytest.mark.parametrize("form", SMALL, ids=lambda form: form.name)
@pytest.mark.parametrize("k", [64, 192])
def test_matmul_kernel_computes_with_the_dequantized_weight(form: Format, k: int) -> None:
    rows, x = weights(24, k), weights(3, k, seed=1)
    stored = form.quantize(rows)
    expected = x @ form.dequantize(stored, k).T
    np.testing.assert_allclose(matmul(form, x, stored, 0), expected, atol=2e-4)
    # int8 activations: a rounding error of 1/254 of the block's largest value for each
    np.testing.assert_allclose(matmul(form, x, stored, 4), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["int4-b32", "int4-b32-asym", "int8-b32"])
@pytest.mark.parametrize("k", [40, 72, 100])
def test_a_last_block_that_is_not_full_is_padded(name: str, k: int) -> None:
    form = find_format(name)
    rows, x = weights(8, k), weights(2, k, seed=1)
    stored = form.quantize(rows)
    np.testing.assert_allclose(matmul(form, x, stored, 0), x @ form.dequantize(stored, k).T, atol=2e-4)


@pytest.mark.parametrize("form", [form for form in SMALL if not form.block_sums], ids=lambda form: form.name)
def test_gather_reads_the_bytes_of_the_matmul(form: Format) -> None:
    rows = weights(10, 192)
    stored = form.quantize(rows)
    attributes = {"bits": form.bits, "block_size": form.block_size, "gather_axis": 0, "quantize_axis": 1}
    inputs = stored_inputs(stored, (10, 192 * form.bits // 8))
    ids = np.array([[7, 0, 7]], np.int64)
    found = run_kernel("GatherBlockQuantized", ids, inputs, attributes)
    assert np.array_equal(found, form.dequantize(stored, 192)[ids])


# accuracy


@pytest.mark.parametrize("form", INTEGERS, ids=lambda form: form.name)
def test_round_trip_is_within_half_a_step(form: Format) -> None:
    rows = weights(4, 256)
    span = np.repeat(np.ptp(rows.reshape(4, -1, form.block_size), axis=-1), form.block_size, axis=1)
    # a search may give up the ends of a block, but never more than it gains in the sum of squares
    assert np.sqrt(np.mean(np.square((round_trip(form, rows) - rows) / span))) < 0.6 / (2**form.bits - 1) * 2


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_more_freedom_means_less_error(block_size: int) -> None:
    rows = weights(16, 512)
    kinds = [find_format(f"int4-b{block_size}{kind}") for kind in ("", "-asym", "-affine")]
    errors = [squared_error(form, rows) for form in kinds]
    assert errors[0] > errors[1] > errors[2] > squared_error(find_format(f"int8-b{block_size}"), rows)


@pytest.mark.parametrize("shape", ["normal", "skewed", "outlier", "positive"])
def test_search_is_never_worse_than_plain_rounding(shape: str) -> None:
    blocks = weights(32, 200)
    if shape == "skewed":
        blocks = np.exp(blocks).astype(np.float32) - 1
    if shape == "outlier":
        blocks[0] *= 20
    if shape == "positive":
        blocks = np.abs(blocks) + 1

    def errors(found: rounding.Rounded) -> np.ndarray:
        return block_errors(blocks, found)

    slack = 1.0001  # candidates are compared by sums in float32
    plain = round_to(blocks, -np.take_along_axis(blocks, np.abs(blocks).argmax(0)[None], 0)[0] / 8)
    assert (errors(rounding.symmetric(blocks, 4)) <= errors(plain) * slack).all()
    low, high = np.minimum(blocks.min(0), 0), np.maximum(blocks.max(0), 0)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float32)
    plain = round_to(blocks, scale, np.rint(-low / scale))
    assert (errors(rounding.asymmetric(blocks, 4)) <= errors(plain) * slack).all()
    plain = round_to(blocks, scale, -low / scale)
    assert (errors(rounding.affine(blocks, 4)) <= errors(plain) * slack).all()


@pytest.mark.parametrize(
    ("kind", "name", "bound"),
    [("Q4_0", "int4-b32", 0.0), ("Q8_0", "int8-b32", 0.0), ("Q4_1", "int4-b32-affine", 1 / 16)],
)
def test_integers_of_a_quantized_checkpoint_are_kept(kind: str, name: str, bound: float) -> None:
    which = gguf.GGMLQuantizationType[kind]
    rows = gguf.dequantize(gguf.quantize(weights(8, 256), which), which)
    step = np.ptp(rows.reshape(8, -1, 32), axis=-1) / 15
    error = np.abs(round_trip(find_format(name), rows) - rows).reshape(8, -1, 32)
    # codes are kept exactly, a Q4_1 offset to within a sixteenth of the row's largest step
    assert (error <= bound * step.max() + 1e-6).all()


@pytest.mark.parametrize("codes", [(0, 15), (0, 14), (1, 14), (2, 15)])
def test_evenly_spaced_values_with_empty_levels_at_the_ends_are_kept(codes: tuple[int, int]) -> None:
    # as in Q4_K, whose blocks need not reach code 0 or 15, and whose scales are no float16 numbers
    levels = np.random.default_rng(0).integers(codes[0], codes[1] + 1, (32, 300)).astype(np.float32)
    levels[:2] = np.array(codes)[:, None]
    blocks = levels * np.float32(0.0123) - np.linspace(0.03, 0.14, 300, dtype=np.float32)
    assert np.sqrt(block_errors(blocks, rounding.affine(blocks, 4)) / 32).max() < 0.0123 / 500


# rows, pieces, odd values


@pytest.mark.parametrize("form", INTEGERS, ids=lambda form: form.name)
def test_a_row_does_not_depend_on_its_neighbours(form: Format) -> None:
    rows = weights(2100, 256)  # more than one piece of the search
    whole = form.quantize(rows)
    for start, stop in ((0, 1), (1, 700), (1023, 1026), (700, 2100)):
        part = form.quantize(rows[start:stop])
        assert np.array_equal(part.packed, whole.packed[start:stop])
        assert np.array_equal(part.scales, whole.scales[start:stop])
        if whole.zero_points is not None:
            assert part.zero_points is not None
            assert np.array_equal(part.zero_points, whole.zero_points[start:stop])


@pytest.mark.parametrize("name", ["int8-b128", "int4-b32", "int4-b32-asym", "int4-b32-affine"])
def test_threads_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form, rows = find_format(name), weights(2500, 512)
    found: list[Quantized] = []
    for count in (1, 3):
        monkeypatch.setattr(workers, "threads", lambda count=count: count)
        found.append(form.quantize(rows))
    one, three = found
    assert np.array_equal(one.packed, three.packed)
    assert np.array_equal(one.scales, three.scales)


@pytest.mark.parametrize("zero", [0.0, 8.0, 7.3])
def test_the_error_of_a_grid_follows_from_three_sums(zero: float) -> None:
    blocks = weights(32, 50)
    scale = np.linspace(0.1, 0.5, 50, dtype=np.float32)
    tried = rounding.Blocks(blocks, 4)
    fit = tried.fit(scale, np.full(50, zero, np.float32))
    np.testing.assert_allclose(fit.error, block_errors(blocks, tried.rounded(fit)), rtol=1e-4)


@pytest.mark.parametrize("form", INTEGERS, ids=lambda form: form.name)
def test_zeros_stay_zeros(form: Format) -> None:
    rows = np.zeros((2, 256), np.float32)
    stored = form.quantize(rows)
    assert not round_trip(form, rows).any()
    assert not matmul(form, weights(2, 256), stored, 4).any()


@pytest.mark.parametrize("form", INTEGERS, ids=lambda form: form.name)
@pytest.mark.parametrize("value", [0.3, -0.3])
def test_a_constant_block_is_kept(form: Format, value: float) -> None:
    rows = np.full((2, 256), value, np.float32)
    assert np.allclose(round_trip(form, rows), rows, rtol=1e-3)


@pytest.mark.parametrize("form", INTEGERS, ids=lambda form: form.name)
@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-6, 1e-4, 4e5])
def test_tiny_and_huge_values_lose_no_more_than_float16_scales_do(form: Format, size: float) -> None:
    rows = np.clip(weights(4, 256), -1, 1) * np.float32(size)
    assert form.flaw(rows) is None
    error = np.abs(round_trip(form, rows) - rows)
    assert np.isfinite(error).all()
    # the spacing of the smallest float16 numbers is 6e-8, and a code is at most 127 of them away from zero
    assert error.max() <= max(0.15 * size, 127 * 6e-8)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_flaws(form: Format, value: float) -> None:
    rows = weights(2, 256)
    assert form.flaw(rows) is None
    rows[1, 7] = value
    assert form.flaw(rows) == "holds NaN or infinity"


@pytest.mark.parametrize(
    ("name", "value"), [("float16", 7e4), ("int4-b32", -5e5), ("int4-b32-affine", 5e5), ("int8-b64", 1e7)]
)
def test_values_beyond_float16_scales_are_flaws(name: str, value: float) -> None:
    form = find_format(name)
    flaw = form.flaw(np.full((1, 64), value, np.float32))
    assert flaw is not None
    assert f"holds values up to {abs(value):.3g}, and {name} reaches" in flaw


def test_no_rows_are_no_flaw() -> None:
    assert find_format("int4-b32").flaw(np.zeros((0, 64), np.float32)) is None


# names


def test_every_format_goes_by_its_name() -> None:
    assert [find_format(name).name for name in FORMATS] == list(FORMATS)


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(
        InvalidOption,
        match=r"weight format 'int3-b32' is not known \(known: float32, float16, bfloat16, int8-b16, .*int4-b32-affine",
    ):
        find_format("int3-b32")


@pytest.mark.parametrize(
    ("name", "k", "fitted"),
    [
        ("int8-b128", 2048, "int8-b128"),
        ("int8-b128", 576, "int8-b64"),
        ("int4-b32-affine", 576, "int4-b32-affine"),
        ("int4-b32-affine", 48, "int4-b16-affine"),
        ("int4-b32-affine", 40, "int4-b32-asym"),
        ("int4-b128", 40, "int4-b32"),
        ("float16", 40, "float16"),
    ],
)
def test_a_format_fits_itself_to_the_columns(name: str, k: int, fitted: str) -> None:
    assert find_format(name).fit(k) == find_format(fitted)


def test_a_table_that_is_looked_up_has_no_block_sums() -> None:
    assert find_format("int4-b32-affine").fit(576, gathered=True).name == "int4-b32-asym"


def test_block_size_is_replaced_in_the_name() -> None:
    assert with_block_size("int4-b32-affine", 64) == "int4-b64-affine"
    assert with_block_size("float16", 64) == "float16"


def test_an_unknown_block_size_names_the_known_ones() -> None:
    with pytest.raises(InvalidOption, match="block size 48 is not one of 16, 32, 64, 128, 256"):
        with_block_size("int4-b32", 48)
