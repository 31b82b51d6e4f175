"""Recorded checkpoints against what transformers said about them: logits, tokens, and every way the runtime may go through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelm import decode
from edgelm.text_generation import DecoderModel
from tests.architectures.decoder_configs import decoder_types
from tests.architectures.running import (
    FLOAT_TOLERANCE,
    GREEDY,
    Logits,
    distance,
    export_and_load,
    step_logits,
)
from tests.architectures.ways import check_padded_rows, check_ragged_batch, check_shared_batch
from tests.golden.cases import golden_cases
from tests.golden.encoder_cases import encoder_golden_cases
from tests.golden.moe_cases import moe_cases
from tests.golden.seq2seq_cases import seq2seq_golden_cases

GOLDENS = Path(__file__).parents[1] / "golden"
CASES = sorted(golden_cases())
SIZE_LIMIT = 300_000

# Root mean square error of the logits relative to their spread; unrelated logits would show 1.4. Random weights hold
# no redundancy, so these are far above what trained weights show.
QUANTIZED_TOLERANCE = {"int8": 0.1, "int8-prefill": 0.15, "int4": 0.7}

Exported = Callable[..., DecoderModel]
Expected = Mapping[str, NDArray[Any]]

every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    @cache
    def load(case: str, precision: str = "fp32") -> DecoderModel:
        return export_and_load(GOLDENS / case, tmp_path_factory.mktemp(case) / precision, precision)

    return load


@cache
def expected(case: str) -> Expected:
    with np.load(GOLDENS / case / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def prompt_of(case: str) -> list[int]:
    return expected(case)["input_ids"].tolist()


@every_case
def test_logits_equal_those_of_transformers(case: str, exported: Exported) -> None:
    assert distance(exported(case).logits(prompt_of(case)), expected(case)["logits"]) < FLOAT_TOLERANCE


@every_case
def test_greedy_tokens_equal_those_of_transformers(case: str, exported: Exported) -> None:
    tokens = expected(case)["tokens"].tolist()
    done = exported(case).generate(prompt_of(case), max_new_tokens=len(tokens), **GREEDY)
    assert done.token_ids == tokens
    assert done.finish_reason == "length"


@every_case
def test_decode_steps_equal_those_of_transformers(case: str, exported: Exported) -> None:
    tokens = expected(case)["tokens"].tolist()
    found = step_logits(exported(case), prompt_of(case), tokens[:-1])
    assert distance(found, expected(case)["step_logits"]) < FLOAT_TOLERANCE


@every_case
def test_decode_steps_equal_one_prefill(case: str, exported: Exported) -> None:
    model, ids = exported(case), prompt_of(case)
    assert distance(step_logits(model, ids[:1], ids[1:]), model.logits(ids)) < FLOAT_TOLERANCE


@every_case
@pytest.mark.parametrize("chunk", [1, 7, 39])
def test_chunked_prefill_equals_one_prefill(
    case: str, chunk: int, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = exported(case), prompt_of(case)
    whole = model.logits(ids)
    assert distance(np.concatenate(list(model.decoder(1).all_logits(0, ids, chunk))), whole) < FLOAT_TOLERANCE
    monkeypatch.setattr(decode, "PREFILL_CHUNK", chunk)
    assert distance(model.decoder(1).prefill(0, ids), whole[-1]) < FLOAT_TOLERANCE


@every_case
def test_logits_survive_the_growth_of_the_cache(case: str, exported: Exported) -> None:
    model, ids = exported(case), (prompt_of(case) * 8)[:290]
    decoder: Any = model.decoder(1)
    decoder.prefill(0, ids[:250])
    before = decoder.cache.max_length
    found = np.stack([decoder.step([token])[0].copy() for token in ids[250:]])
    assert decoder.cache.max_length > before
    assert distance(found, model.logits(ids)[250:]) < FLOAT_TOLERANCE


@every_case
def test_rows_of_a_ragged_batch_equal_single_sequences(case: str, exported: Exported) -> None:
    check_ragged_batch(exported(case), prompt_of(case), expected(case)["tokens"].tolist())


@every_case
def test_a_batch_generates_what_its_prompts_generate_alone(case: str, exported: Exported) -> None:
    check_shared_batch(exported(case), prompt_of(case))


@every_case
def test_padded_rows_equal_unpadded_ones(case: str, exported: Exported) -> None:
    check_padded_rows(exported(case), prompt_of(case))


@every_case
def test_quantized_is_close_to_float_and_more_so_with_more_bits(case: str, exported: Exported) -> None:
    ids, reference = prompt_of(case), expected(case)["logits"]
    measure = _usual_spread_error if any(case == mixture.name for mixture in moe_cases()) else _spread_error
    error = {name: measure(exported(case, name).logits(ids), reference) for name in QUANTIZED_TOLERANCE}
    assert error == {name: pytest.approx(0, abs=limit) for name, limit in QUANTIZED_TOLERANCE.items()}
    assert 0 < error["int8"] < error["int4"]


@pytest.mark.parametrize("model_type", decoder_types())
def test_every_decoder_has_a_golden(model_type: str) -> None:
    assert model_type in {golden_cases()[case].config["model_type"] for case in CASES}


def test_goldens_are_those_of_the_table() -> None:
    folders = {folder.name for folder in GOLDENS.iterdir() if (folder / "config.json").is_file()}
    assert folders == {*golden_cases(), *encoder_golden_cases(), *seq2seq_golden_cases()}


@every_case
def test_goldens_are_small(case: str) -> None:
    assert sum(file.stat().st_size for file in (GOLDENS / case).iterdir()) < SIZE_LIMIT


def _spread_error(found: Logits, reference: Logits) -> float:
    return float(np.sqrt(np.mean((found - reference) ** 2)) / reference.std())


def _usual_spread_error(found: Logits, expected: Logits) -> float:
    """The same, of the usual position: where two experts score nearly alike a rounded model may take the other, and is far off there."""
    return float(np.median(np.sqrt(np.mean((found - expected) ** 2, axis=-1))) / expected.std())
