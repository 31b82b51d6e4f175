"""edgelm run of encoder packages: every task as people see it, as JSON, and in files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

import edgelm
from edgelm.cli import cli
from edgelm.cli import encode as command
from tests.architectures.encoder_goldens import golden_checkpoint

Packages = Callable[..., Path]
TEXTS = "the rain\nin spain\n\nstays mainly\n"


def run(*arguments: object, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The package of a class of BERT for a task, made once."""
    made: dict[tuple[str, str | None], Path] = {}

    def package(class_name: str, task: str | None = None) -> Path:
        key = class_name, task
        if key not in made:
            folder = tmp_path_factory.mktemp("package")
            source = golden_checkpoint("bert", class_name, folder / "source")
            made[key] = edgelm.export(source, folder / "out", precision="fp32", task=task, verify=False).path
        return made[key]

    return package


@pytest.fixture
def embedder(packages: Packages) -> Path:
    return packages("BertModel", "embedding")


def test_embeddings_are_lines_of_numbers(embedder: Path) -> None:
    result = run("run", embedder, "the rain", "in spain", "--threads", "1")
    assert result.exit_code == 0, result.output
    found = np.array([line.split() for line in result.stdout.splitlines()], np.float32)
    np.testing.assert_allclose(found, edgelm.load(embedder).encode(["the rain", "in spain"]), rtol=1e-4)
    assert result.stderr.startswith("note:") or result.stderr == ""


def test_every_line_of_a_file_counts_even_an_empty_one(embedder: Path) -> None:
    result = run("run", embedder, "--json", input=TEXTS)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["input"] for record in records] == TEXTS.split("\n")[:-1]
    assert all(set(record) == {"input", "embedding"} for record in records)


def test_a_file_goes_through_in_chunks(embedder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "_CHUNK", 3)
    assert run("run", embedder, "-o", tmp_path / "all.npy", input=TEXTS).exit_code == 0
    expected = edgelm.load(embedder).encode(TEXTS.split("\n")[:-1])
    np.testing.assert_allclose(np.load(tmp_path / "all.npy"), expected, rtol=1e-5, atol=1e-6)


def test_errors_of_a_later_chunk_say_where_it_begins(embedder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_CHUNK", 2)
    result = run("run", embedder, input="a\nb\nc\n" + "word " * 500 + "\n")
    assert result.exit_code == 1
    assert "among the inputs from number 2 on (the first is 0), text 1 has" in result.stderr


def test_results_may_go_to_a_file_of_lines(packages: Packages, tmp_path: Path) -> None:
    package = packages("BertForSequenceClassification")
    result = run("run", package, "-o", tmp_path / "labels.jsonl", "--top-k", "1", input=TEXTS)
    assert (result.exit_code, result.stdout) == (0, "")
    records = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert len(records) == 4
    assert [set(label) for label in records[0]["labels"]] == [{"label", "score"}]


def test_parquet_without_pyarrow_names_what_to_install(
    embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("run", embedder, "x", "-o", tmp_path / "a.parquet")
    assert result.exit_code == 1
    assert "pip install pyarrow" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_parquet_holds_inputs_and_results(embedder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    assert run("run", embedder, "-o", tmp_path / "a.parquet", input=TEXTS).exit_code == 0
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["input"] for row in table] == TEXTS.split("\n")[:-1]
    assert len(table[0]["embedding"]) == 32


def test_a_failed_run_leaves_no_file(embedder: Path, tmp_path: Path) -> None:
    result = run("run", embedder, "-o", tmp_path / "a.jsonl", input=TEXTS + "word " * 500 + "\n")
    assert result.exit_code == 1
    assert "--truncate" in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert run("run", embedder, "-o", tmp_path / "a.jsonl", "--truncate", input="word " * 500).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "a.csv"), "the output must end in .npy, .jsonl, .parquet"),
        (("-o", "no/such/folder/a.npy"), "cannot be written: No such file or directory; choose another file with -o"),
        (("--dimensions", "33"), "dimensions 33 is"),
        (("--batch-size", "0"), "batch_size"),
        (("--prompt-name", "query"), "no prompt 'query'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(embedder: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("run", embedder, "x", *arguments)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_array_holds_embeddings_only(packages: Packages, tmp_path: Path) -> None:
    result = run("run", packages("BertForSequenceClassification"), "x", "-o", tmp_path / "a.npy")
    assert result.exit_code == 1
    assert ".npy holds embeddings only, not labels; write them to .jsonl" in result.stderr


def test_options_of_another_task_are_refused(embedder: Path, packages: Packages, package: Path) -> None:
    for arguments, message in (
        ((embedder, "--temperature", "1"), "--temperature: only for packages that generate text"),
        ((embedder, "--raw"), "--raw: only for packages that generate text"),
        ((embedder, "--top-k", "3"), "--top-k: not for a package exported for embedding"),
        ((package, "--question", "who?"), "--question: only for packages that encode"),
        ((packages("BertForQuestionAnswering"),), "needs --question"),
    ):
        result = run("run", *arguments, "x")
        assert result.exit_code == 2
        assert message in result.stderr


def test_tokens_answers_and_predictions_are_tables(packages: Packages) -> None:
    tagged = run("run", packages("BertForTokenClassification"), "the rain", "--aggregation", "none")
    assert all(len(line.split("\t")) == 5 for line in tagged.stdout.splitlines())
    answered = run("run", packages("BertForQuestionAnswering"), "the rain in spain", "--question", "where")
    assert len(answered.stdout.splitlines()[0].split("\t")) == 4
    filled = run("run", packages("BertForMaskedLM"), "the <mask> in spain", "--top-k", "3")
    assert [len(line.split("\t")) for line in filled.stdout.splitlines()] == [3, 3, 3]


@pytest.mark.parametrize(
    ("class_name", "arguments", "key"),
    [
        ("BertForTokenClassification", (), "entities"),
        ("BertForQuestionAnswering", ("--question", "where"), "answers"),
        ("BertForMaskedLM", ("--top-k", "2"), "predictions"),
        ("BertModel", (), "hidden_states"),
    ],
)
def test_json_names_what_a_task_gives(
    packages: Packages, class_name: str, arguments: tuple[str, ...], key: str
) -> None:
    result = run("run", packages(class_name), "the <mask> in spain", "--json", *arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert set(record) == {"input", key}
    assert isinstance(record[key], list)


def test_a_ranking_is_printed_best_first(tmp_path: Path) -> None:
    source = golden_checkpoint("bert", "BertForSequenceClassification", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0"}
    (source / "config.json").write_text(json.dumps(config))
    tensors = load_file(source / "model.safetensors")
    tensors |= {name: tensors[name][:1] for name in ("classifier.weight", "classifier.bias")}
    save_file(tensors, source / "model.safetensors")
    package = edgelm.export(source, tmp_path / "out", precision="fp32", verify=False)
    assert package.manifest.task == "reranking"
    result = run("run", package.path, "the rain", "in spain", "stays mainly", "--query", "weather")
    scores = [float(line.split("\t")[0]) for line in result.stdout.splitlines()]
    assert scores == sorted(scores, reverse=True)
    shown = run("run", package.path, "the rain", "in spain", "--query", "weather", "--top-k", "1", "--json")
    assert set(json.loads(shown.stdout)) == {"input", "rank"}


def test_statistics_count_texts(embedder: Path) -> None:
    result = run("run", embedder, "one", "two", "--stats")
    assert "2 texts in" in result.stderr
    assert "texts/s; peak memory" in result.stderr


def test_bytes_that_are_no_utf8_are_named_with_their_line(embedder: Path, tmp_path: Path) -> None:
    result = run("run", embedder, "-o", tmp_path / "a.npy", input=b"good\nbad \xff\n")
    assert result.exit_code == 1
    assert "standard input is not UTF-8 at byte 4 of line 2" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_export_takes_a_task_and_a_pooling(tmp_path: Path) -> None:
    source = golden_checkpoint("bert", "BertForMaskedLM", tmp_path / "source")
    arguments = (
        "export",
        source,
        "-o",
        tmp_path / "out",
        "--task",
        "embedding",
        "--pooling",
        "cls",
        "--precision",
        "int8",
    )
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "bert for embedding" in result.stdout
    assert "cosine mean" in result.stdout
    facts = json.loads(run("inspect", tmp_path / "out", "--json").stdout)
    assert facts["pooling"] == ["cls"]
    assert facts["quality"]["outputs"]["worst_cosine"] > 0.9


def test_encoders_need_nothing_of_the_exporter(embedder: Path) -> None:
    script = (
        "import sys\nfor name in ('onnx', 'onnx_ir', 'edgelm_export', 'rich', 'huggingface_hub'): sys.modules[name] = None\n"
        f"from edgelm.cli import main\nmain(['run', {str(embedder)!r}, 'x'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, len(done.stdout.split())) == (0, 32), done.stderr
