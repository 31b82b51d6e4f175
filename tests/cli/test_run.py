"""edgelm run as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgelm.cli import cli
from edgelm.text_generation import DecoderModel
from tests.export.adapters import adapt, float_tensors

SHORT = ("--max-new-tokens", "8", "--temperature", "0")


def run(*arguments: object, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


def test_raw_completes_the_input_as_it_stands(package: Path, model: DecoderModel) -> None:
    result = run("run", package, "the rain", "--raw", *SHORT)
    assert result.exit_code == 0, result.output
    assert result.stdout == model.generate("the rain", temperature=0, max_new_tokens=8).text + "\n"
    assert result.stderr == ""


def test_a_chat_template_makes_the_input_a_user_message(package: Path, model: DecoderModel) -> None:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]
    result = run("run", package, "Hi", "--system", "Be brief", *SHORT)
    assert result.stdout == model.chat(messages, temperature=0, max_new_tokens=8).text + "\n"


def test_json_prints_one_object_an_input(package: Path) -> None:
    result = run("run", package, "one", "two", "--json", *SHORT)
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert [o["input"] for o in objects] == ["one", "two"]
    assert set(objects[0]) == {"input", "text", "token_ids", "finish_reason", "metrics"}
    assert objects[0]["metrics"]["new_tokens"] == len(objects[0]["token_ids"])


def test_json_tells_log_probabilities_where_they_are_asked_for(package: Path, model: DecoderModel) -> None:
    result = run("run", package, "one", "--raw", "--json", "--logprobs", "2", "--echo", *SHORT)
    found = json.loads(result.stdout)
    done = model.generate("one", temperature=0, max_new_tokens=8, logprobs=2, echo=True)
    assert done.logprobs is not None
    assert (found["text"], found["token_ids"]) == (done.text, done.token_ids)
    assert found["logprobs"][-1] == {
        "token_id": done.token_ids[-1],
        "logprob": pytest.approx(done.logprobs[-1].logprob, abs=1e-4),
        "top": [[token, pytest.approx(value, abs=1e-4)] for token, value in done.logprobs[-1].top],
    }
    assert found["logprobs"][0] == {"token_id": done.token_ids[0], "logprob": None, "top": []}
    refused = run("run", package, "one", "--logprobs", "2", *SHORT)
    assert refused.exit_code == 2
    assert "--logprobs are shown only with --json" in refused.stderr


def test_options_with_texts_and_pairs_may_be_given_again(package: Path) -> None:
    result = run("run", package, "one", "--json", *SHORT, "--logit-bias", "44=1e5", "--logit-bias", "45=-1")
    assert set(json.loads(result.stdout)["token_ids"]) == {44}
    result = run("run", package, "one", "--json", *SHORT, "--logit-bias", "44=1e5", "--stop-token-ids", "44")
    assert json.loads(result.stdout)["finish_reason"] == "stop"


def test_lines_of_standard_input_are_inputs(package: Path) -> None:
    result = run("run", package, "--json", *SHORT, input="one\n\ntwo\n")
    assert [json.loads(line)["input"] for line in result.stdout.splitlines()] == ["one", "two"]


def test_statistics_go_to_standard_error(package: Path) -> None:
    result = run("run", package, "one", "--stats", *SHORT)
    for part in ("prompt tokens", "8 new", "TTFT", "TPOT", "prefill", "decode", "peak memory"):
        assert part in result.stderr
    assert "TTFT" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top-p", "1.5"), "top_p"),
        (("--temperature", "-1"), "temperature"),
        (("--max-new-tokens", "0"), "max_new_tokens"),
        (("--seed", "-1"), "seed"),
        (("--max-length", "100000"), "max_length 100000 is outside"),
        (("--device", "abacus"), "device 'abacus' is not known"),
    ],
)
def test_values_out_of_range_are_one_line_and_exit_code_1(
    package: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("run", package, "x", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_bytes_that_are_no_utf8_are_refused(package: Path) -> None:
    result = run("run", package, "--raw", *SHORT, input=b"\xff\xfe\n")
    assert result.exit_code == 1
    assert "standard input is not UTF-8 at byte 0" in result.stderr


def test_system_contradicts_raw(package: Path) -> None:
    assert run("run", package, "x", "--raw", "--system", "y").exit_code == 2


def test_a_folder_that_is_no_package_is_named(tmp_path: Path) -> None:
    result = run("run", tmp_path, "x")
    assert result.exit_code == 1
    assert "not an edgelm package" in result.stderr


def test_every_generation_setting_has_an_option(package: Path) -> None:
    text = run("run", "--help").stdout
    for option in (
        "--temperature",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repetition-penalty",
        "--seed",
        "--stop",
        "--max-new-tokens",
    ):
        assert option in text


def test_an_adapter_of_the_package_answers(checkpoint: Path, tmp_path: Path) -> None:
    adapt(float_tensors(checkpoint), tmp_path / "lora", r".*\.(q_proj|down_proj)")
    out = tmp_path / "out"
    options = ("--precision", "fp32", "--no-verify", "--json", "--keep-adapter", f"it={tmp_path / 'lora'}")
    assert json.loads(run("export", checkpoint, "-o", out, *options).stdout)["adapters"] == {"it": "lora"}
    plain, adapted = (run("run", out, "the rain", "--raw", *SHORT, *more) for more in ((), ("--adapter", "it")))
    assert (plain.exit_code, adapted.exit_code) == (0, 0)
    assert plain.stdout != adapted.stdout
    unknown = run("run", out, "the rain", "--adapter", "x", *SHORT)
    assert (unknown.exit_code, "adapter 'x' is not in" in unknown.stderr) == (1, True)


def test_output_is_constrained_by_options_and_files(package: Path, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "rules.lark"
    schema.write_text('{"enum": [1, 22]}')
    grammar.write_text('start: "a" | "b"')
    for arguments, texts in (
        (("--json-schema", schema), ("1", "22")),
        (("--json-schema", '{"enum": [3]}'), ("3",)),
        (("--regex", "[xy]"), ("x", "y")),
        (("--choice", "yes", "--choice", "no"), ("yes", "no")),
        (("--grammar", grammar), ("a", "b")),
        (("--grammar", 'start: "c"'), ("c",)),
    ):
        result = run("run", package, "x", "--temperature", "1", *arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout.rstrip("\n") in texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--json-schema", "absent.json"),
            "--json-schema absent.json is neither a file that can be read nor a schema",
        ),
        (
            ("--grammar", "absent.lark"),
            "--grammar absent.lark is neither a file that can be read nor a grammar",
        ),
        (("--regex", "("), "option regex: invalid regex"),
        (("--regex", "a", "--choice", "b"), "regex and choice exclude each other"),
    ],
)
def test_constraints_that_are_none_are_one_line(package: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("run", package, "x", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
