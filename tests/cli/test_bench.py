from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgelm.bandwidth import read_bandwidth
from edgelm.cli import cli

FEW = ("-p", "8", "-n", "4", "-r", "2", "-t", "1")


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


def test_a_table_with_a_line_for_each_test(package: Path) -> None:
    result = bench(package, *FEW)
    assert result.exit_code == 0
    head, prompt, steps, _, footer = result.stdout.splitlines()
    assert " ".join(head.split()) == "package MB KLD top-1 test tokens/s graph sampling Python of floor"
    assert " pp8 " in prompt
    assert " tg4 " in steps
    assert steps.endswith("%")
    assert footer.startswith("1 threads; memory reads at ")


def test_two_packages_side_by_side_in_markdown(package: Path) -> None:
    result = bench(package, package, *FEW, "--md", "--batch", "2", "-d", "3")
    head, rule, *rows = result.stdout.splitlines()
    assert "| x first |" in head
    assert set(rule) <= set("|- ")
    assert [row.split(" | ")[4] for row in rows] == ["pp8 x 2", "tg4 x 2 @ d3"] * 2
    assert [row.split(" | ")[6] for row in rows[:2]] == ["1.00", "1.00"]


def test_json_holds_every_repetition(package: Path) -> None:
    values = json.loads(bench(package, *FEW, "--json").stdout)
    assert values["memory_bytes_per_second"] > 0
    (measured,) = values["packages"]
    assert measured["tests"].keys() == {"pp8", "tg4"}
    assert len(measured["tests"]["tg4"]["tokens_per_second"]) == 2
    assert measured["tests"]["tg4"]["share_of_floor"] > 0
    assert "share_of_floor" not in measured["tests"]["pp8"]


def test_nothing_to_measure_is_one_line(package: Path) -> None:
    result = bench(package, "-p", "0", "-n", "0")
    assert result.exit_code == 1
    assert result.stderr == "edgelm: nothing is left to measure: give prompt tokens, new tokens or both\n"


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_is_that_of_no_disk_and_no_register(threads: int) -> None:
    assert 1e8 < read_bandwidth(threads) < 1e13
