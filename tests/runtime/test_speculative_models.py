"""Prompt lookup and draft models on real programs: the tokens are those of plain decoding, drawn or not, for every kind of cache."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgelm
from edgelm.cli import cli
from edgelm.errors import GenerationError, InvalidOption
from edgelm.generation import Chunk
from edgelm.speculation import Pace
from edgelm.text_encoding import EncoderModel
from edgelm.text_generation import DecoderModel
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config
from tests.runtime.growing_models import decoder_package, seq2seq_package

GOLDENS = Path(__file__).parents[1] / "golden"
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 60, "eos_token_id": ()}
DRAWN: dict[str, Any] = {"temperature": 0.7, "max_new_tokens": 60, "eos_token_id": ()}
PROMPT = [5, 9, 30, 77, 5, 9, 30, 41, 5, 9]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many guesses as are allowed at every step, whatever they cost: that is test_speculation.py's."""

    def count(self: Pace, grade: int, most: int) -> int:
        return max(0, most)

    def verified(self: Pace, grade: int, drafted: int, accepted: int, seconds: float) -> None:
        assert 0 <= accepted <= drafted

    monkeypatch.setattr(Pace, "count", count)
    monkeypatch.setattr(Pace, "verified", verified)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the same shape and vocabulary with other weights."""
    config, folder = base_config("llama", hidden_size=64), tmp_path_factory.mktemp("other")
    checkpoint = write_checkpoint(folder / "checkpoint", config, random_tensors(config, seed=2))
    return edgelm.export(checkpoint, folder / "package", precision="fp32", verify=False).path


@pytest.fixture(params=["lookup", "itself", "other"])
def guessing(
    request: pytest.FixtureRequest, package: Path, other: Path
) -> Iterator[tuple[DecoderModel, dict[str, Any]]]:
    """A model and the options with which it guesses: from its prompt, by its own package, or by another one."""
    draft = {"lookup": None, "itself": package, "other": other}[request.param]
    with edgelm.load(package, threads=1, prefix_cache_mib=0, draft_model=draft) as model:
        yield model, {"prompt_lookup_num_tokens": 5} if draft is None else {"num_assistant_tokens": 5}


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        *({**DRAWN, "seed": seed} for seed in range(5)),
        {**DRAWN, "seed": 1, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {**DRAWN, "seed": 2, "xtc_probability": 0.5, "xtc_threshold": 0.05},
        {**DRAWN, "seed": 3, "mirostat_tau": 3.0},
        {**GREEDY, "repetition_penalty": 1.3, "frequency_penalty": 0.2},
        {**DRAWN, "seed": 4, "dry_multiplier": 0.8, "no_repeat_ngram_size": 3},
        {**GREEDY, "min_new_tokens": 20, "eos_token_id": tuple(range(40, 70))},
        {**GREEDY, "regex": "[a-f]{5,40}", "eos_token_id": 2},
    ],
    ids=lambda options: "-".join(str(name) for name in options if name not in GREEDY) or "greedy",
)
def test_tokens_are_those_of_plain_decoding(
    model: DecoderModel, guessing: tuple[DecoderModel, dict[str, Any]], options: dict[str, Any]
) -> None:
    guesser, guesses = guessing
    plain = model.generate(PROMPT, **options)
    found = guesser.generate(PROMPT, **options, **guesses)
    assert (found.text, found.token_ids, found.finish_reason) == (plain.text, plain.token_ids, plain.finish_reason)
    metrics = found.metrics
    assert metrics.decode_steps + metrics.accepted_tokens == plain.metrics.decode_steps
    assert metrics.drafted_tokens > 0


def test_what_guesses_itself_is_always_right_greedy_or_drawn(package: Path) -> None:
    with edgelm.load(package, threads=1, draft_model=package) as model:
        for options in (GREEDY, {**DRAWN, "seed": 1}, {**DRAWN, "seed": 2, "top_p": 0.8}, DRAWN):
            metrics = model.generate(PROMPT, **options, num_assistant_tokens=5).metrics
            assert metrics.accepted_tokens == metrics.drafted_tokens == 49
            assert metrics.decode_steps == 10  # of 6 tokens, but for the last one, after the one that the prompt gives


def test_draft_models_guess_unless_they_are_told_not_to(package: Path, other: Path) -> None:
    with edgelm.load(package, threads=1, draft_model=other) as model:
        assert model.generate(PROMPT, **GREEDY).metrics.drafted_tokens > 0
        assert model.generate(PROMPT, **GREEDY, num_assistant_tokens=0).metrics.drafted_tokens == 0
        looked_up = model.generate(PROMPT, **GREEDY, prompt_lookup_num_tokens=4)
        alone = edgelm.load(package, threads=1).generate(PROMPT, **GREEDY, prompt_lookup_num_tokens=4)
        assert looked_up.metrics.accepted_tokens == alone.metrics.accepted_tokens


def test_a_chat_that_goes_on_is_read_once_by_the_draft_model(
    package: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edgelm.load(package, threads=1, draft_model=other) as model:
        row = model._draft_model.row_after([1, 2], 3)[0]  # type: ignore[union-attr]  # pyright: ignore[reportPrivateUsage]
        fed: list[int] = []
        real = type(row).prefill_chunks

        def counted(self: Any, row: int, ids: Any) -> Any:
            fed.append(len(ids))
            return real(self, row, ids)

        ids = [5, *range(20, 60)]
        monkeypatch.setattr(type(row), "prefill_chunks", counted)
        for _ in range(3):
            ids = [*ids, *model.generate(ids, **{**GREEDY, "max_new_tokens": 8}).token_ids, 7, 8]
        assert fed[:2] == [41, 42]  # the model's, and the draft model's after the first token
        assert max(fed[2:]) < 12


@pytest.mark.parametrize("seed", range(3))
def test_drawn_tokens_have_the_distribution_of_the_model(package: Path, other: Path, seed: int) -> None:
    """Chi-square of the second token, whose distribution is known, with guesses of another model."""
    draws = 700
    with edgelm.load(package, threads=1, draft_model=other) as model:
        first = np.exp(model.logits(PROMPT)[-1].astype(np.float64))
        first /= first.sum()
        likely = np.argsort(first)[-6:]
        weights = first[likely] / first[likely].sum()
        expected = np.zeros(first.size)
        for token, weight in zip(likely.tolist(), weights, strict=True):
            second = np.exp(model.logits([*PROMPT, token])[-1].astype(np.float64))
            kept = np.argsort(second)[-6:]
            expected[kept] += weight * second[kept] / second[kept].sum()
        options: dict[str, Any] = {"temperature": 1.0, "top_k": 6, "max_new_tokens": 3, "eos_token_id": ()}
        found = np.zeros(first.size)
        accepted = 0
        for number in range(draws):
            done = model.generate(PROMPT, **options, seed=1000 * seed + number)
            found[done.token_ids[1]] += 1
            accepted += done.metrics.accepted_tokens
    assert 0 < accepted < 2 * draws
    assert not found[expected == 0].any()
    places = expected * draws >= 5
    rest = np.array([found[~places].sum()]), np.array([expected[~places].sum() * draws])
    seen, wanted = (np.concatenate(pair) for pair in ((found[places], rest[0]), (expected[places] * draws, rest[1])))
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic, freedom = float(((seen - wanted) ** 2 / wanted).sum()), len(wanted) - 1
    assert statistic < freedom + 3 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "case", ["mistral-sliding-window", "qwen3-local-and-global", "deepseek_v3", "phi3-longrope", "optimum"]
)
def test_every_kind_of_cache_forgets_what_did_not_come_true(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "optimum":
        package = decoder_package(tmp_path / "package")
    else:
        package = edgelm.export(GOLDENS / case, tmp_path / "package", precision="fp32", verify=False).path
    plain = edgelm.load(package, threads=1, prefix_cache_mib=0)
    model = edgelm.load(package, threads=1, draft_model=package)
    ids = np.random.default_rng(0).integers(3, 100, 12).tolist()
    for options in ({**GREEDY, "max_new_tokens": 50}, {**DRAWN, "max_new_tokens": 50, "seed": 1}):
        expected = plain.generate(ids, **options)
        looked_up = model.generate(ids, **options, prompt_lookup_num_tokens=6)
        drafted = model.generate(ids, **options, num_assistant_tokens=6)
        assert looked_up.token_ids == drafted.token_ids == expected.token_ids
        assert looked_up.metrics.drafted_tokens > 0
        assert drafted.metrics.accepted_tokens > 20
        again = model.generate([*ids, *expected.token_ids, 5], **options)  # goes on from the row that was cut
        assert again.token_ids == plain.generate([*ids, *expected.token_ids, 5], **options).token_ids


def test_requests_that_share_the_batch_are_answered_as_without(package: Path, model: DecoderModel) -> None:
    prompts = [PROMPT, [6, 7, 8], [9, 9, 9, 9]]
    with edgelm.load(package, threads=1, max_batch=2) as shared:
        for options in (GREEDY, {**DRAWN, "seed": 3}):
            found = shared.generate(prompts, **options, prompt_lookup_num_tokens=4)
            assert [one.token_ids for one in found] == [
                model.generate(prompt, **options).token_ids for prompt in prompts
            ]
        several = shared.generate(PROMPT, **DRAWN, seed=3, num_return_sequences=2, prompt_lookup_num_tokens=4)
        assert all(one.metrics.drafted_tokens == 0 for one in several)


def test_ends_are_found_inside_a_guess(package: Path, model: DecoderModel) -> None:
    whole = model.generate(PROMPT, **GREEDY)
    with edgelm.load(package, threads=1, draft_model=package) as guesser:
        for length in (1, 2, 3, 7):
            options = {**GREEDY, "max_new_tokens": length}
            assert guesser.generate(PROMPT, **options).token_ids == whole.token_ids[:length]
        stop = whole.text[20:24]
        found, plain = (one.generate(PROMPT, **GREEDY, stop=stop) for one in (guesser, model))
        assert (found.text, found.finish_reason) == (plain.text, "stop")
        ends = {**GREEDY, "eos_token_id": whole.token_ids[10]}
        assert guesser.generate(PROMPT, **ends).token_ids == model.generate(PROMPT, **ends).token_ids
        seen: list[int] = []
        done = guesser.generate(
            PROMPT, **GREEDY, stopping_criteria=lambda ids, text: seen.append(ids[-1]) or len(seen) == 9
        )
        assert (done.finish_reason, done.token_ids) == ("criterion", seen)
        context = list(itertools.islice(itertools.cycle(PROMPT), guesser.max_length - 3))
        assert len(guesser.generate(context, **GREEDY).token_ids) == 4


def test_pieces_and_log_probabilities_are_those_of_plain_decoding(package: Path, model: DecoderModel) -> None:
    with edgelm.load(package, threads=1, draft_model=package) as guesser:
        found, plain = (list(one.stream(PROMPT, **GREEDY, logprobs=2)) for one in (guesser, model))
    assert [chunk.text for chunk in found] == [chunk.text for chunk in plain]
    ids, values = zip(*_told(found), strict=True)
    expected_ids, expected = zip(*_told(plain), strict=True)
    assert ids == expected_ids
    np.testing.assert_allclose(values, expected, atol=1e-4)


def _told(chunks: list[Chunk]) -> list[tuple[int, float]]:
    told = [one for chunk in chunks for one in chunk.logprobs or ()]
    return [(one.token_id, one.logprob) for one in told if one.logprob is not None]


def test_a_draft_model_with_a_shorter_context_guesses_until_it_is_full(
    package: Path, other: Path, model: DecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edgelm.load(package, threads=1, draft_model=other) as guesser:
        guesser._draft_model.limit = 30  # type: ignore[union-attr]  # pyright: ignore[reportPrivateUsage]
        found = guesser.generate(PROMPT, **GREEDY)
        assert found.token_ids == model.generate(PROMPT, **GREEDY).token_ids
        assert 0 < found.metrics.drafted_tokens < 30 * 16


def test_closing_a_model_closes_its_draft_model(package: Path, other: Path) -> None:
    model = edgelm.load(package, threads=1, draft_model=other)
    draft = model._drafts
    model.close()
    with pytest.raises(GenerationError, match="closed"):
        draft.generate(PROMPT)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prompt_lookup_num_tokens": -1}, r"prompt_lookup_num_tokens is -1, but must be an integer in \[0, 64\]"),
        ({"num_assistant_tokens": 65}, r"num_assistant_tokens is 65, but must be an integer in \[0, 64\]"),
        (
            {"prompt_lookup_num_tokens": 4, "num_beams": 2},
            r"prompt_lookup_num_tokens cannot speed up a beam search \(num_beams 2\): drop prompt_lookup_num_tokens, or give num_beams 1",
        ),
        (
            {"prompt_lookup_num_tokens": 4, "num_assistant_tokens": 4},
            r"prompt_lookup_num_tokens and num_assistant_tokens are two ways to guess: give one of them",
        ),
        (
            {"num_assistant_tokens": 4},
            r"num_assistant_tokens is for a draft model, and none was loaded: load with draft_model \(--draft-model\), or give",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    model: DecoderModel, options: dict[str, Any], match: str
) -> None:
    for use in (model.generate, model.stream, model.submit):
        with pytest.raises(InvalidOption, match=match):
            use(PROMPT, **options)


def test_packages_that_cannot_guess_are_refused(package: Path, embedder: EncoderModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"draft_model .* is an encoder: only a decoder can guess for another one"):
        edgelm.load(package, threads=1, draft_model=embedder.package.path)
    with pytest.raises(InvalidOption, match=r"draft_model: only a decoder takes that, and .* is an encoder"):
        edgelm.load(embedder.package.path, threads=1, draft_model=package)
    config = base_config("llama", hidden_size=64)
    folder = write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, seed=2))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words["x"], words["y"] = words["y"], words["x"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    swapped = edgelm.export(folder, tmp_path / "package", precision="fp32", verify=False).path
    match = (
        rf"draft_model .*package has another vocabulary: the id of 'x' is {words['x']} there and {words['y']} here; "
        "give a package of the same family"
    )
    with pytest.raises(InvalidOption, match=match):
        edgelm.load(package, threads=1, draft_model=swapped)


def test_encoder_decoders_do_not_guess(tmp_path: Path) -> None:
    model = edgelm.load(seq2seq_package(tmp_path / "package"), threads=1)
    with pytest.raises(InvalidOption, match=r"prompt_lookup_num_tokens and num_assistant_tokens are for decoders"):
        model.generate([5, 6], prompt_lookup_num_tokens=3)


def test_the_command_line_guesses_and_tells_how_often_it_was_right(package: Path, model: DecoderModel) -> None:
    short = ["one one one", "--raw", "--stats", "--max-new-tokens", "40", "--temperature", "0"]
    expected = model.generate("one one one", max_new_tokens=40, temperature=0).text
    for flags in (["--draft-model", str(package)], ["--prompt-lookup-num-tokens", "4"]):
        result = CliRunner().invoke(cli, ["run", str(package), *short, *flags])
        assert result.exit_code == 0, result.output
        assert result.stdout == expected + "\n"
        assert "guessed tokens came true" in result.stderr
    assert "guessed" not in CliRunner().invoke(cli, ["run", str(package), *short]).stderr
