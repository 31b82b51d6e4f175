"""edgelm run of encoder-decoder packages: texts in, texts out, in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import edgelm
from edgelm.cli import cli
from edgelm.text_to_text import Seq2SeqModel
from edgelm_export import seq2seq_quality
from tests.architectures.seq2seq_checkpoints import tiny_seq2seq

SHORT = ("--max-new-tokens", "6")
TEXTS = ["the rain", "in spain", "", "stays mainly"]


def run(*arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


@pytest.fixture(scope="module")
def rewriter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seq2seq")
    return edgelm.export(tiny_seq2seq(folder / "source"), folder / "out", precision="fp32", verify=False).path


@pytest.fixture(scope="module")
def model(rewriter: Path) -> Seq2SeqModel:
    return edgelm.load(rewriter, threads=1)


def test_each_line_becomes_a_line(rewriter: Path, model: Seq2SeqModel) -> None:
    result = run("run", rewriter, *SHORT, input="\n".join(TEXTS) + "\n")
    assert result.exit_code == 0, result.output
    expected = [model.generate(text, max_new_tokens=6).text if text else "" for text in TEXTS]
    assert result.stdout == "\n".join(expected) + "\n"


def test_batches_change_nothing(rewriter: Path) -> None:
    alone, together = (
        run("run", rewriter, *SHORT, "--batch-size", size, input="\n".join(TEXTS) + "\n").stdout for size in (1, 16)
    )
    assert alone == together


def test_json_prints_one_object_an_input(rewriter: Path) -> None:
    result = run("run", rewriter, "the rain", "in spain", "--json", "--num-beams", "2", *SHORT)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["input"] for record in records] == ["the rain", "in spain"]
    assert {"text", "token_ids", "finish_reason", "score", "metrics"} <= set(records[0])


def test_several_results_are_lines_or_a_list(rewriter: Path) -> None:
    options = ("--num-beams", "3", "--num-return-sequences", "2", *SHORT)
    assert len(run("run", rewriter, "the rain", *options).stdout.splitlines()) == 2
    record = json.loads(run("run", rewriter, "the rain", "--json", *options).stdout)
    assert len(record["results"]) == 2


def test_results_may_go_to_a_file(rewriter: Path, tmp_path: Path) -> None:
    assert run("run", rewriter, "-o", tmp_path / "out.jsonl", *SHORT, input="\n".join(TEXTS) + "\n").exit_code == 0
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["input"] for record in records] == TEXTS


def test_statistics_count_texts_and_tokens(rewriter: Path) -> None:
    result = run("run", rewriter, "the rain", "--stats", *SHORT)
    assert "1 texts," in result.stderr
    assert "tokens/s; peak memory" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--source-lang", "klingon"), 1, "source_lang 'klingon': the model has no language codes"),
        (("--num-beams", "0"), 1, "num_beams is 0"),
        (("--num-beams", "2", "--temperature", "0.5"), 1, "temperature"),
        (("--batch-size", "0"), 2, "--batch-size 0 is below 1"),
        (("--question", "who?"), 2, "--question: only for packages that embed"),
        (("--raw",), 2, "--raw: only for packages that"),
    ],
)
def test_mistakes_are_named(rewriter: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run("run", rewriter, "the rain", *arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr


def test_a_source_that_is_too_long_is_refused(rewriter: Path) -> None:
    result = run("run", rewriter, "word " * 200)
    assert result.exit_code == 1
    assert "source 0 has" in result.stderr
    assert "shorten it, or split it" in result.stderr


def test_export_prints_what_the_package_writes_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq_quality, "SOURCES", 8)
    result = run("export", tiny_seq2seq(tmp_path / "source"), "-o", tmp_path / "out", "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert "for text-to-text" in result.stdout
    assert "character error rate" in result.stdout
