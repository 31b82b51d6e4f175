"""Seq2SeqModel: what people call, on a tiny random encoder-decoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.decode import Decoder
from edgelm.errors import ContextOverflow, InvalidOption, ManifestError
from edgelm.logits import log_softmax
from edgelm.manifest import sealed
from edgelm.text_to_text import Seq2SeqModel
from tests.architectures.seq2seq_checkpoints import POSITIONS, VOCAB, tiny_seq2seq

SOURCES = ["the rain", "in spain stays", "a"]
SHORT = {"max_new_tokens": 8, "eos_token_id": ()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seq2seq")
    return edgelm.export(tiny_seq2seq(folder / "source"), folder / "out", precision="fp32", verify=False).path


@pytest.fixture(scope="module")
def model(package: Path) -> Seq2SeqModel:
    return edgelm.load(package, threads=1)


def with_generation(package: Path, folder: Path, **settings: Any) -> Path:
    """The package with other generation defaults."""
    shutil.copytree(package, folder)
    manifest = json.loads((folder / "edgelm.json").read_text())
    manifest["generation"] |= settings
    (folder / "edgelm.json").write_text(sealed(manifest))
    return folder


def test_one_source_gives_one_generation_and_a_list_a_list(model: Seq2SeqModel) -> None:
    assert len(model.generate("the rain", **SHORT).token_ids) == 8
    assert [len(one.token_ids) for one in model.generate(SOURCES, **SHORT)] == [8, 8, 8]
    assert model.generate([], **SHORT) == []


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_writes_what_its_sources_get_alone(model: Seq2SeqModel, num_beams: int) -> None:
    together = model.generate(SOURCES, num_beams=num_beams, **SHORT)
    alone = [model.generate(source, num_beams=num_beams, **SHORT) for source in SOURCES]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


def test_greedy_tokens_are_the_largest_teacher_forced_logits(model: Seq2SeqModel) -> None:
    ids = model.tokenizer.encode("the rain")
    tokens = model.generate(ids, **SHORT).token_ids
    logits = model.logits(ids, [1, *tokens[:-1]])
    assert logits.shape == (8, VOCAB)
    assert logits.argmax(-1).tolist() == tokens


def test_beams_find_no_worse_a_score_than_greedy(model: Seq2SeqModel) -> None:
    """Without a length penalty, for tokens of one number, the score is the log probability."""
    best = model.generate("the rain", num_beams=5, length_penalty=0.0, **SHORT)
    greedy = model.generate("the rain", **SHORT)
    assert best.score is not None
    assert best.score >= model.score("the rain", greedy.token_ids) - 1e-4
    assert model.score("the rain", best.token_ids) == pytest.approx(best.score, abs=1e-4)


def test_a_decoder_tells_log_probabilities(model: Seq2SeqModel) -> None:
    decoder: Any = model._programs.start([[5, 6, 7], [8, 9]])
    logits = decoder.step([1, 1])
    assert decoder.log_probabilities is not None
    np.testing.assert_allclose(decoder.log_probabilities, [log_softmax(row) for row in logits], atol=1e-5)


def test_a_forced_token_is_certain_in_every_score(package: Path, tmp_path: Path) -> None:
    model = edgelm.load(with_generation(package, tmp_path / "forced", forced_bos_token_id=7), threads=1)
    best = model.generate("the rain", num_beams=3, length_penalty=0.0, **SHORT)
    assert best.token_ids[0] == 7
    assert model.score("the rain", best.token_ids) == pytest.approx(best.score, abs=1e-4)
    assert model.score("the rain", "a") == model.score("the rain", [7, *model.tokenizer.encode("a"), 2])
    with pytest.raises(InvalidOption, match=r"begins with token 5 and this model always writes 7 \(.*\) first; put it"):
        model.score("the rain", [5, 6])


def test_several_results_come_best_first(model: Seq2SeqModel) -> None:
    found: Any = model.generate(SOURCES, num_beams=4, num_return_sequences=3, **SHORT)
    assert [len(one) for one in found] == [3, 3, 3]
    for results in found:
        scores = [one.score for one in results]
        assert scores == sorted(scores, reverse=True)


def test_a_stream_is_the_generation_in_pieces(model: Seq2SeqModel) -> None:
    chunks = list(model.stream("the rain", **SHORT))
    whole = model.generate("the rain", **SHORT)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].token_ids == whole.token_ids


def test_sampling_repeats_with_its_seed(model: Seq2SeqModel) -> None:
    options = {**SHORT, "temperature": 1.0}
    first, again, other = (model.generate("the rain", seed=seed, **options).token_ids for seed in (1, 1, 2))
    assert first == again != other


def test_cross_attention_is_stored_once_however_many_beams(model: Seq2SeqModel) -> None:
    decoder = model._programs.start([[5, 6, 7]])
    memory: Any = decoder._memory  # pyright: ignore[reportAttributeAccessIssue]
    before = memory.nbytes
    decoder.prefill(0, [1])
    decoder.reorder([0] * 8)
    logits = decoder.step([5] * 8)
    assert memory.nbytes == before
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[0], logits.shape))


def test_a_cache_takes_no_more_than_the_target_may(model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    monkeypatch.setattr(Decoder, "reorder", lambda decoder, parents: lengths.append(decoder.cache.max_length))
    assert len(model.generate("the rain", max_new_tokens=5, eos_token_id=()).token_ids) == 5
    assert set(lengths) == {5}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate(""), InvalidOption, "source 0 is empty; give at least one token"),
        (lambda m: m.generate(["a", []]), InvalidOption, "source 1 is empty"),
        (lambda m: m.generate([5, VOCAB]), InvalidOption, f"source 0 holds token ids outside 0..{VOCAB - 1}"),
        (
            lambda m: m.generate("a" * 200),
            ContextOverflow,
            "source 0 has 200 tokens and the model reads 64; shorten it",
        ),
        (
            lambda m: m.generate("a", target_lang="de"),
            InvalidOption,
            "target_lang 'de': the model has no language codes",
        ),
        (
            lambda m: m.generate([5, 6], source_lang="de"),
            InvalidOption,
            "source_lang 'de': the model has no language codes",
        ),
        (lambda m: m.score([5, 6], [VOCAB]), InvalidOption, "the target holds token ids outside"),
        (lambda m: m.generate("a", beams=3), InvalidOption, "unknown generation option 'beams'"),
        (lambda m: m.stream("a", num_beams=2), InvalidOption, "num_beams 2 knows its text only at the end"),
        (lambda m: m.logits([5], []), InvalidOption, "the target is empty"),
    ],
)
def test_mistakes_say_what_to_do(model: Seq2SeqModel, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(model)


def test_targets_end_where_positions_do(model: Seq2SeqModel) -> None:
    done = model.generate("the rain", max_new_tokens=500, eos_token_id=())
    assert len(done.token_ids) == POSITIONS


def test_a_package_without_a_first_token_is_refused(tmp_path: Path) -> None:
    source = tiny_seq2seq(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": None, "bos_token_id": None}))
    package = edgelm.export(source, tmp_path / "out", precision="fp32", verify=False)
    with pytest.raises(ManifestError, match="decoder_start_token_id None is no token"):
        edgelm.load(package.path)
