"""edgelm run --batch: files of requests and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgelm.cli import cli
from edgelm.errors import GenerationError
from edgelm.text_generation import DecoderModel

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 6}
SHORT = ("--temperature", "0", "--max-new-tokens", "6")
HI = [{"role": "user", "content": "Hi"}]
REQUESTS: list[dict[str, Any]] = [
    {"prompt": "the rain"},
    {"prompt": "in Spain", "id": "second"},
    {"messages": HI},
    {"messages": [*HI, {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "and?"}]},
    {"prompt": "one", "choice": ["yes", "no"], "id": 5},
    {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [7]}}}},
    {"prompt": "last", "temperature": 1.0, "seed": 3, "num_return_sequences": 2},
]


def write(path: Path, requests: list[Any]) -> Path:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests), encoding="utf-8")
    return path


def run(package: Path, source: Path, output: Path, *arguments: object) -> Result:
    typed = ["run", package, "--batch", source, "-o", output, *SHORT, *arguments]
    return CliRunner().invoke(cli, [str(one) for one in typed])


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_request_has_its_answer_in_order(package: Path, model: DecoderModel, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", REQUESTS), tmp_path / "out.jsonl"
    result = run(package, source, output)
    assert (result.exit_code, result.output) == (0, "")
    found = records(output)
    assert [(one["line"], one["id"]) for one in found] == list(
        enumerate([None, "second", None, None, 5, None, None], 1)
    )
    expected = [
        model.generate("the rain", **GREEDY).token_ids,
        model.generate("in Spain", **GREEDY).token_ids,
        model.chat(HI, **GREEDY).token_ids,
        model.chat(REQUESTS[3]["messages"], **GREEDY).token_ids,
    ]
    assert [one["token_ids"] for one in found[:4]] == expected
    assert found[4]["text"] in ("yes", "no")
    assert (found[5]["text"], found[5]["finish_reason"]) == ("7", "stop")
    assert len(found[6]["results"]) == 2
    assert found[0]["metrics"]["new_tokens"] == len(expected[0])


@pytest.mark.parametrize("rows", [1, 3])
def test_the_size_of_a_batch_does_not_change_answers(package: Path, tmp_path: Path, rows: int) -> None:
    source = write(tmp_path / "in.jsonl", REQUESTS)
    run(package, source, tmp_path / "a.jsonl")
    run(package, source, tmp_path / "b.jsonl", "--batch-size", rows)
    kept = ("line", "id", "digest", "text", "token_ids")
    pairs = zip(records(tmp_path / "a.jsonl"), records(tmp_path / "b.jsonl"), strict=True)
    assert all([a.get(name) for name in kept] == [b.get(name) for name in kept] for a, b in pairs)


@pytest.mark.parametrize("left", [0, 1, 4, 7])
def test_an_interrupted_run_goes_on_after_its_last_complete_line(
    package: Path, tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write(tmp_path / "in.jsonl", REQUESTS), tmp_path / "out.jsonl"
    run(package, source, output)
    whole = output.read_bytes().splitlines(keepends=True)
    begun = b"".join(whole[:left]) + b"".join(whole[left : left + 1])[:20]
    output.write_bytes(begun)
    asked: list[Any] = []
    generate = DecoderModel.generate
    monkeypatch.setattr(
        DecoderModel, "generate", lambda self, prompt, **o: (asked.extend(prompt), generate(self, prompt, **o))[1]
    )
    assert run(package, source, output).exit_code == 0
    assert len(asked) == len(REQUESTS) - left
    assert output.read_bytes().splitlines(keepends=True)[:left] == whole[:left]
    assert [one["digest"] for one in records(output)] == [json.loads(line)["digest"] for line in whole]


def test_answers_to_other_requests_are_not_mixed(package: Path, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", REQUESTS[:2]), tmp_path / "out.jsonl"
    run(package, source, output)
    before = output.read_bytes()
    other = write(tmp_path / "other.jsonl", [REQUESTS[0], {"prompt": "something else"}])
    for result in (run(package, other, output), run(package, source, output, "--top-p", "0.5")):
        assert result.exit_code == 1
        assert "is not the answer to that request (the file, the options or the package changed)" in result.stderr
    shorter = write(tmp_path / "shorter.jsonl", REQUESTS[:1])
    assert "out.jsonl: line 2 is not the answer" in run(package, shorter, output).stderr
    assert output.read_bytes() == before
    longer = write(tmp_path / "longer.jsonl", REQUESTS[:3])
    assert run(package, longer, output).exit_code == 0
    assert len(records(output)) == 3
    output.write_text("no answer\n")
    assert "line 1 is not the answer" in run(package, source, output).stderr


def test_bad_lines_are_named_and_nothing_is_run(package: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        '{"prompt": "fine"}\n\n{"prompt": \n[1]\n{"prompt": "a", "messages": []}\n{"id": 1}\n{"prompt": ""}\n'
        '{"prompt": "a", "top_p": 7}\n{"prompt": "a", "temprature": 1}\n{"messages": []}\n{"prompt": "a", "tools": []}\n',
        encoding="utf-8",
    )
    result = run(package, source, output)
    assert result.exit_code == 1
    for part in (
        "line 3: Expecting value",
        "line 4: no JSON object",
        'line 5: give either "prompt" or "messages"',
        'line 6: give either "prompt" or "messages"',
        'line 7: "prompt" must be a text that is not empty',
        "line 8: option top_p is 7",
        "line 9: unknown generation option 'temprature'",
        "line 10: messages must be a list",
        "line 11: tools: only with messages",
        "Nothing was run",
    ):
        assert part in result.stderr
    assert result.stderr.count("\n") == 1
    assert not output.exists()


def test_a_line_that_fails_leaves_an_error_in_its_place(package: Path, model: DecoderModel, tmp_path: Path) -> None:
    requests = [{"prompt": "a"}, {"prompt": "x" * 700}, {"prompt": "b"}, {"prompt": "c", "regex": "("}]
    source, output = write(tmp_path / "in.jsonl", requests), tmp_path / "out.jsonl"
    assert run(package, source, output).exit_code == 0
    found = records(output)
    assert [sorted(one)[:2] for one in found] == [["digest", "finish_reason"], ["digest", "error"]] * 2
    assert "the context holds" in found[1]["error"]
    assert "option regex" in found[3]["error"]
    assert found[2]["token_ids"] == model.generate("b", **GREEDY).token_ids


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--batch", "in.jsonl"), 2, "--batch needs a file for the answers"),
        (
            ("--batch", "in.jsonl", "-o", "out.jsonl", "text"),
            2,
            "--inputs: only for packages that get their inputs one by one",
        ),
        (("--batch", "in.jsonl", "-o", "out.jsonl", "--raw"), 2, "--raw: only for"),
        (("--batch", "in.jsonl", "-o", "out.jsonl", "--batch-size", "0"), 2, "--batch-size 0 is below 1"),
        (("--batch", "absent.jsonl", "-o", "out.jsonl"), 1, "absent.jsonl cannot be read"),
        (("--batch", "in.jsonl", "-o", "in.jsonl"), 1, "in.jsonl holds the requests"),
        (("--batch", "in.jsonl", "-o", "nowhere/out.jsonl"), 1, "out.jsonl cannot be written"),
    ],
)
def test_usage(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", REQUESTS[:1])
    result = CliRunner().invoke(cli, ["run", str(package), *arguments])
    assert result.exit_code == code
    assert message in result.stderr


def test_an_interrupt_leaves_complete_lines(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = write(tmp_path / "in.jsonl", REQUESTS[:4]), tmp_path / "out.jsonl"
    calls: list[int] = []
    generate = DecoderModel.generate

    def interrupted(self: DecoderModel, prompt: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, prompt, **options)

    monkeypatch.setattr(DecoderModel, "generate", interrupted)
    assert run(package, source, output).exit_code == 1
    assert len(records(output)) == 2
    assert run(package, source, output).exit_code == 0
    assert [one["line"] for one in records(output)] == [1, 2, 3, 4]


def test_a_failure_of_one_row_is_not_that_of_its_batch(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write(tmp_path / "in.jsonl", REQUESTS[:2]), tmp_path / "out.jsonl"
    generate = DecoderModel.generate

    def fails(self: DecoderModel, prompt: Any, **options: Any) -> Any:
        if "in Spain" in prompt:
            raise GenerationError("no token is left")
        return generate(self, prompt, **options)

    monkeypatch.setattr(DecoderModel, "generate", fails)
    run(package, source, output)
    first, second = records(output)
    assert first["finish_reason"] in ("stop", "length")
    assert second["error"] == "no token is left"
