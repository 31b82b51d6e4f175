"""The decoder facade: text and ids in, text out; batches, streams, limits and bad requests."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.errors import ContextOverflow, DigestError, GenerationError, InvalidOption, ManifestError, ProviderError
from edgelm.text_generation import DecoderModel, Generation

PROMPT = "the rain in Spain"
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}


def test_a_stream_joins_to_the_generation(model: DecoderModel) -> None:
    done = model.generate(PROMPT, **GREEDY)
    chunks = list(model.stream(PROMPT, **GREEDY))
    assert "".join(chunk.text for chunk in chunks) == done.text
    assert chunks[-1].token_ids == done.token_ids
    assert chunks[-1].finish_reason == done.finish_reason == "length"
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])
    assert model.tokenizer.decode(done.token_ids) == done.text


def test_text_and_its_ids_are_the_same_prompt(model: DecoderModel) -> None:
    assert (
        model.generate(model.tokenizer.encode(PROMPT), **GREEDY).token_ids == model.generate(PROMPT, **GREEDY).token_ids
    )


def test_a_list_in_gives_a_list_out_equal_to_single_runs(model: DecoderModel) -> None:
    prompts = ["a", PROMPT, "the quick brown fox jumps over the lazy dog"]
    batch = model.generate(prompts, **GREEDY)
    assert [one.token_ids for one in batch] == [model.generate(p, **GREEDY).token_ids for p in prompts]
    assert isinstance(model.generate([PROMPT], **GREEDY), list)


def test_rows_of_a_batch_may_end_at_different_times(model: DecoderModel) -> None:
    prompts = ["a", PROMPT, "xyz", "hello there"]
    alone = [model.generate(p, **GREEDY) for p in prompts]
    end = tuple(one.token_ids[2 + i] for i, one in enumerate(alone))
    options = {**GREEDY, "eos_token_id": end}
    expected = [model.generate(p, **options) for p in prompts]
    found = model.generate(prompts, **options)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert "stop" in {one.finish_reason for one in found}
    assert len({len(one.token_ids) for one in found}) > 1


@pytest.mark.parametrize(
    "options", [{"xtc_probability": 0.5, "xtc_threshold": 0.01}, {"mirostat_tau": 3.0}, {"dynatemp_range": 0.5}]
)
def test_filters_that_draw_or_remember_do_not_depend_on_the_batch(model: DecoderModel, options: dict[str, Any]) -> None:
    options = {"temperature": 1.2, "seed": 7, "max_new_tokens": 12, **options}
    alone = model.generate(PROMPT, **options)
    assert model.generate(["x", PROMPT, "y"], **options)[1].token_ids == alone.token_ids


def test_time_ends_a_generation_after_a_token(model: DecoderModel) -> None:
    done = model.generate(PROMPT, **GREEDY, max_time=0)
    assert (done.finish_reason, len(done.token_ids)) == ("time", 1)


def test_a_criterion_sees_every_token_and_ends_the_generation(model: DecoderModel) -> None:
    seen: list[tuple[int, str]] = []

    def criterion(ids: Any, text: str) -> bool:
        seen.append((ids[-1], text))
        return len(seen) == 5

    done = model.generate(PROMPT, **GREEDY, stopping_criteria=criterion)
    assert (done.finish_reason, done.token_ids) == ("criterion", [token for token, _ in seen])
    assert model.generate(PROMPT, **GREEDY).token_ids[:5] == done.token_ids
    assert done.text.startswith("".join(text for _, text in seen))


def test_what_a_caller_raises_in_a_criterion_or_processor_comes_through(model: DecoderModel) -> None:
    for name in ("stopping_criteria", "logits_processors"):
        options: dict[str, Any] = {name: lambda *_: 1 / 0}
        with pytest.raises(ZeroDivisionError):
            model.generate(PROMPT, **GREEDY, **options)


def test_own_processors_and_biases_change_what_is_chosen(model: DecoderModel) -> None:
    def only(ids: Any, logits: Any) -> Any:
        logits[:] = -np.inf
        logits[[40 + len(ids) % 2]] = 0
        return logits

    made = model.generate(PROMPT, **GREEDY, logits_processors=[only]).token_ids
    assert set(made) == {40, 41}
    assert made[:-1] != made[1:]
    assert set(model.generate(PROMPT, **GREEDY, logit_bias={44: 1e5}).token_ids) == {44}
    with pytest.raises(InvalidOption, match=r"option logit_bias names \d+, outside 0\.\."):
        model.generate(PROMPT, logit_bias={10**6: 1.0})


def test_dry_ends_a_loop_and_breakers_of_a_text_become_ids(model: DecoderModel) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 40, "logit_bias": {44: 30.0, 45: 29.0}}
    assert set(model.generate(PROMPT, **options).token_ids) == {44}
    loop = model.generate(PROMPT, **options, dry_multiplier=1.0, dry_sequence_breakers=()).token_ids
    assert max(sum(1 for _ in group) for _, group in itertools.groupby(loop)) < 8
    text = model.tokenizer.decode([44]).strip()
    assert set(model.generate(PROMPT, **options, dry_multiplier=1.0, dry_sequence_breakers=text).token_ids) == {44}
    with pytest.raises(InvalidOption, match=r"no token of the vocabulary holds 'no such text at all'; give a shorter"):
        model.generate(PROMPT, dry_multiplier=1.0, dry_sequence_breakers=["no such text at all"])


def test_a_seed_gives_the_same_tokens_whatever_shares_the_batch(model: DecoderModel) -> None:
    options = {"temperature": 1.5, "seed": 7, "max_new_tokens": 12}
    alone = model.generate(PROMPT, **options)
    assert model.generate(["x", PROMPT, "y"], **options)[1].token_ids == alone.token_ids
    assert model.generate(PROMPT, **{**options, "seed": 8}).token_ids != alone.token_ids


def test_end_tokens_stop_and_are_not_part_of_the_result(model: DecoderModel) -> None:
    ids = model.generate(PROMPT, **GREEDY).token_ids
    at = next(i for i, token in enumerate(ids) if token not in ids[:i] and i > 0)
    done = model.generate(PROMPT, **GREEDY, eos_token_id=(ids[at],))
    assert done.finish_reason == "stop"
    assert done.token_ids == ids[:at]
    assert done.metrics.new_tokens == at


def test_stop_strings_are_cut_from_the_text(model: DecoderModel) -> None:
    text = model.generate(PROMPT, **GREEDY).text
    stop = text[3:6]
    done = model.generate(PROMPT, **GREEDY, stop=(stop,))
    assert done.finish_reason == "stop"
    assert done.text == text[: text.index(stop)]


def test_metrics_count_what_happened(model: DecoderModel) -> None:
    metrics = model.generate(PROMPT, **GREEDY).metrics
    assert metrics.prompt_tokens == len(model.tokenizer.encode(PROMPT))
    assert metrics.new_tokens == 12
    for value in (metrics.ttft_ms, metrics.tpot_ms, metrics.decode_tokens_per_second, metrics.peak_memory_mib):
        assert value is not None
        assert value > 0


def test_generation_ends_where_the_context_ends(package: Path) -> None:
    model = edgelm.load(package, threads=1, max_length=20)
    ids = list(range(3, 19))
    done = model.generate(ids, temperature=0, max_new_tokens=100)
    assert done.finish_reason == "length"
    assert len(done.token_ids) == 5  # four more positions, and one token that is never fed back
    assert model.generate(list(range(3, 23)), temperature=0).finish_reason == "length"


def test_a_prompt_longer_than_the_context_is_refused(package: Path) -> None:
    model = edgelm.load(package, max_length=20)
    with pytest.raises(ContextOverflow, match=r"the prompt has 21 tokens and the context holds 20; .* allows 640"):
        model.generate(list(range(3, 24)))
    with pytest.raises(ContextOverflow):
        model.logits([3] * 21)


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        ([], "the prompt is empty"),
        ("", "the prompt is empty"),
        ([5, 128], "token id 128 is outside 0..127"),
        ([-1], "token id -1"),
    ],
)
def test_impossible_prompts_are_refused(model: DecoderModel, prompt: Any, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        model.generate(prompt)


def test_bad_options_raise_before_the_first_piece(model: DecoderModel) -> None:
    with pytest.raises(InvalidOption, match="temprature"):
        model.stream(PROMPT, temprature=1.0)
    with pytest.raises(InvalidOption, match="top_p"):
        model.generate(PROMPT, top_p=1.5)


def test_chat_applies_the_template(model: DecoderModel) -> None:
    ids = model.chat_ids([{"role": "user", "content": "Hi"}])
    assert model.tokenizer.decode(ids, skip_special_tokens=False) == "<s>user: Hi\n<s>assistant: "
    done = model.chat([{"role": "user", "content": "Hi"}], **GREEDY)
    assert isinstance(done, Generation)
    assert done.token_ids == model.generate(ids, **GREEDY).token_ids
    assert "".join(c.text for c in model.stream_chat([{"role": "user", "content": "Hi"}], **GREEDY)) == done.text


def test_chat_passes_on_what_the_template_reads(model: DecoderModel) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    ids = model.chat_ids(messages, add_generation_prompt=False)
    assert model.tokenizer.decode(ids, skip_special_tokens=False) == "<s>user: Hi\n"
    done = model.chat(messages, {"add_generation_prompt": False}, **GREEDY)
    assert done.token_ids == model.generate(ids, **GREEDY).token_ids
    with pytest.raises(InvalidOption, match="the chat template does not read enable_thinking"):
        model.chat(messages, {"enable_thinking": False})


def test_chat_without_a_template_says_so(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "chat_template", None)
    with pytest.raises(GenerationError, match="has no chat template; use generate"):
        model.chat([{"role": "user", "content": "Hi"}])


def test_logits_are_float32_of_every_position(model: DecoderModel) -> None:
    logits = model.logits([5, 6, 7])
    assert logits.shape == (3, 128)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(model.logits([5, 6]), logits[:2], rtol=0, atol=1e-4 * np.abs(logits).max())


def test_interleaved_streams_do_not_disturb_each_other(model: DecoderModel) -> None:
    first, second = model.stream(PROMPT, **GREEDY), model.stream("hello", **GREEDY)
    texts = ["", ""]
    for one, other in zip(first, second, strict=True):
        texts[0] += one.text
        texts[1] += other.text
    assert texts == [model.generate(PROMPT, **GREEDY).text, model.generate("hello", **GREEDY).text]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_length": 0}, InvalidOption, r"max_length 0 is outside 1..640"),
        ({"max_length": 641}, InvalidOption, r"max_length 641 is outside 1..640"),
        ({"threads": 0}, InvalidOption, "threads 0 is below 1"),
        ({"device": "abacus"}, ProviderError, "device 'abacus' is not known"),
    ],
)
def test_impossible_load_options_are_refused(package: Path, options: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        edgelm.load(package, **options)


def test_a_changed_byte_is_found_at_load(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    data = bytearray((copy / "decoder.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "decoder.onnx.data").write_bytes(bytes(data))
    with pytest.raises(DigestError, match=r"decoder.onnx.data was changed since the export"):
        edgelm.load(copy)


def test_a_changed_file_is_the_error_whatever_else_goes_wrong_because_of_it(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    tokenizer = bytearray((copy / "tokenizer.json").read_bytes())
    tokenizer[0] = ord("[")
    (copy / "tokenizer.json").write_bytes(bytes(tokenizer))
    with pytest.raises(DigestError, match=r"tokenizer.json was changed since the export"):
        edgelm.load(copy)


def test_a_graph_that_is_none_is_refused(package: Path, tmp_path: Path) -> None:
    import json

    from edgelm.manifest import sealed
    from edgelm_export.write import digests

    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    (copy / "decoder.onnx").write_bytes(b"not a graph")
    manifest = json.loads((copy / "edgelm.json").read_text())
    (copy / "edgelm.json").write_text(sealed(manifest | {"files": digests(copy)}))
    with pytest.raises(ProviderError, match=r"ONNX Runtime .* refuses"):
        edgelm.load(copy)


def test_a_name_that_is_no_package_lists_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ManifestError, match=r"neither a package folder nor a name of the catalogue \(.*smollm2-135m-instruct"
    ):
        edgelm.load("no-such-model")
