"""Recorded encoder-decoders against what transformers said about them: states, logits, tokens, and every way to get at them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgelm
from edgelm.package import Package
from edgelm.signature import LAST_HIDDEN_STATE
from edgelm.tasks import EMBEDDING, HIDDEN_STATES, TEXT_TO_TEXT
from edgelm.text_to_text import Seq2SeqModel
from tests.architectures.encoding import export_encoder, graph, outputs, without_padding
from tests.architectures.running import FLOAT_TOLERANCE, Logits, distance
from tests.architectures.seq2seq_configs import seq2seq_types
from tests.architectures.seq2seq_goldens import GOLDENS, Recorded, golden_checkpoint, golden_config, recorded
from tests.architectures.seq2seq_running import Programs, encoder_states, forced_logits, open_programs, repeated
from tests.golden.seq2seq_cases import seq2seq_golden_cases

CASES = sorted(name for name in seq2seq_golden_cases() if (GOLDENS / name / "config.json").is_file())
SIZE_LIMIT = 80_000
SCORE_TOLERANCE = 1e-4

# Root mean square error of the logits relative to their spread; unrelated logits would show 1.4. Random weights hold
# no redundancy, so these are far above what trained weights show.
QUANTIZED_TOLERANCE = {"int8": 0.2, "int4": 0.9}

Exported = Callable[..., Package]

every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    @cache
    def export(case: str, precision: str = "fp32") -> Package:
        folder = tmp_path_factory.mktemp(case)
        return export_encoder(golden_checkpoint(case, folder / "checkpoint"), folder / "package", precision)

    return export


@pytest.fixture(scope="module")
def programs(exported: Exported) -> Callable[..., Programs]:
    return cache(lambda *case: open_programs(exported(*case)))


@pytest.fixture(scope="module")
def model(exported: Exported) -> Callable[[str], Seq2SeqModel]:
    return cache(lambda case: edgelm.load(exported(case).path, threads=1))


@every_case
def test_encoder_states_equal_those_of_transformers(case: str, programs: Callable[..., Programs]) -> None:
    expected = recorded(case)
    pair = (encoder_states(programs(case), expected.batch), expected.states)
    assert distance(*(without_padding(states, expected.batch) for states in pair)) < FLOAT_TOLERANCE


@every_case
def test_teacher_forced_logits_equal_those_of_transformers(case: str, programs: Callable[..., Programs]) -> None:
    expected = recorded(case)
    found = forced_logits(programs(case), expected.batch, expected.targets)
    assert distance(found, expected.logits) < FLOAT_TOLERANCE


@every_case
def test_decode_steps_equal_those_of_transformers(case: str, programs: Callable[..., Programs]) -> None:
    expected = recorded(case)
    found = forced_logits(programs(case), expected.batch, expected.targets, chunks=expected.targets.shape[1])
    assert distance(found, expected.logits) < FLOAT_TOLERANCE


@every_case
def test_padded_sources_equal_unpadded_ones(case: str, programs: Callable[..., Programs]) -> None:
    expected = recorded(case)
    for i, length in enumerate(expected.batch.lengths):
        alone, targets = expected.batch.row(i), expected.targets[i : i + 1]
        states, logits = encoder_states(programs(case), alone), forced_logits(programs(case), alone, targets, chunks=3)
        assert distance(states[0], expected.states[i, :length], among=expected.states) < FLOAT_TOLERANCE
        assert distance(logits[0], expected.logits[i], among=expected.logits) < FLOAT_TOLERANCE


@every_case
@pytest.mark.parametrize("steps", [False, True])
def test_beams_share_their_source(case: str, steps: bool, programs: Callable[..., Programs]) -> None:
    """Rows side by side read what is there once for their source as they read it when each has its own."""
    expected, beams = recorded(case), 4
    targets = np.repeat(expected.targets, beams, axis=0)
    targets[:, 1:] = np.stack([np.roll(row[1:], i) for i, row in enumerate(targets)])
    chunks = targets.shape[1] if steps else 1
    shared = forced_logits(programs(case), expected.batch, targets, chunks=chunks)
    alone = forced_logits(programs(case), repeated(expected.batch, beams), targets)
    assert distance(shared, alone) < FLOAT_TOLERANCE
    assert distance(shared[[0]], expected.logits[[0]], among=expected.logits) < FLOAT_TOLERANCE


@every_case
def test_quantized_is_close_to_float_and_more_so_with_more_bits(case: str, programs: Callable[..., Programs]) -> None:
    expected = recorded(case)
    error = {
        name: _spread_error(forced_logits(programs(case, name), expected.batch, expected.targets), expected.logits)
        for name in QUANTIZED_TOLERANCE
    }
    assert error == {name: pytest.approx(0, abs=limit) for name, limit in QUANTIZED_TOLERANCE.items()}
    assert 0 < error["int8"] < error["int4"]


@every_case
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_nothing_is_stored_twice(case: str, precision: str, exported: Exported) -> None:
    stored = {name: _stored(exported(case, precision).program(name)) for name in ("encoder", "decoder")}
    places = {place: content for tensors in stored.values() for place, content in tensors.items()}
    assert len(set(places.values())) == len(places)
    separate = golden_config(case).get("share_encoder_decoder_embeddings") is False or case == "bart-untied"
    shared = sum(length for _, _, length in stored["encoder"].keys() & stored["decoder"].keys())
    assert shared == 0 if separate else shared > 0


@every_case
def test_the_runtime_gives_the_same_logits(case: str, model: Callable[[str], Seq2SeqModel]) -> None:
    expected = recorded(case)
    for i, ids in enumerate(_sources(expected)):
        found = model(case).logits(ids, expected.targets[i].tolist())
        assert distance(found, expected.logits[i], among=expected.logits) < FLOAT_TOLERANCE


@every_case
def test_greedy_tokens_equal_those_of_transformers(case: str, model: Callable[[str], Seq2SeqModel]) -> None:
    """With the settings of the checkpoint, but for the beams."""
    expected = recorded(case)
    found = model(case).generate(_sources(expected), num_beams=1, temperature=0.0)
    assert [one.token_ids for one in found] == expected.greedy


@every_case
def test_beams_equal_those_of_transformers(case: str, model: Callable[[str], Seq2SeqModel]) -> None:
    """With all settings of the checkpoint."""
    expected = recorded(case)
    found: Any = model(case).generate(_sources(expected), num_return_sequences=4)
    assert [[one.token_ids for one in group] for group in found] == expected.beams
    scores = np.array([[one.score for one in group] for group in found])
    assert np.abs(scores - expected.scores).max() < SCORE_TOLERANCE


@every_case
@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_batch_writes_what_its_sources_get_alone(
    case: str, num_beams: int, model: Callable[[str], Seq2SeqModel]
) -> None:
    sources = _sources(recorded(case))
    together = model(case).generate(sources, num_beams=num_beams)
    alone = [model(case).generate(source, num_beams=num_beams) for source in sources]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


@every_case
@pytest.mark.parametrize("task", [HIDDEN_STATES, EMBEDDING])
def test_the_encoder_alone_has_the_same_states(case: str, task: str, tmp_path: Path) -> None:
    checkpoint, expected = golden_checkpoint(case, tmp_path / "checkpoint"), recorded(case)
    package = export_encoder(checkpoint, tmp_path / "package", task=task)
    assert list(package.manifest.programs) == ["encoder"]
    pair = (outputs(graph(package), expected.batch)[LAST_HIDDEN_STATE], expected.states)
    assert distance(*(without_padding(states, expected.batch) for states in pair)) < FLOAT_TOLERANCE


@every_case
def test_an_encoder_decoder_is_exported_to_write(case: str, exported: Exported) -> None:
    manifest = exported(case).manifest
    assert (manifest.family, manifest.task) == ("encoder-decoder", TEXT_TO_TEXT)


@pytest.mark.parametrize("model_type", seq2seq_types())
def test_every_encoder_decoder_has_a_golden(model_type: str) -> None:
    assert model_type in {golden_config(case)["model_type"] for case in CASES}


@every_case
def test_goldens_are_small(case: str) -> None:
    assert sum(file.stat().st_size for file in (GOLDENS / case).iterdir()) < SIZE_LIMIT


def _sources(expected: Recorded) -> list[list[int]]:
    """The ids of each source, without padding."""
    batch = expected.batch
    return [ids[:length].tolist() for ids, length in zip(batch.ids, batch.lengths, strict=True)]


def _stored(program: Path) -> dict[tuple[str, int, int], bytes]:
    """Where a graph's data lies, as (file, offset, length), and what lies there."""
    found: dict[tuple[str, int, int], bytes] = {}
    for tensor in onnx.load(str(program), load_external_data=False).graph.initializer:
        # Each side's sines are tensors of their own in some checkpoints.
        if tensor.data_location == onnx.TensorProto.EXTERNAL and "position_embeddings" not in tensor.name:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            start, length = int(entries.get("offset", 0)), int(entries["length"])
            content = (program.parent / entries["location"]).read_bytes()[start : start + length]
            found[entries["location"], start, length] = content
    return found


def _spread_error(found: Logits, reference: Logits) -> float:
    return float(np.sqrt(np.mean((found - reference) ** 2)) / reference.std())
