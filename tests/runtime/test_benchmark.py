from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import edgelm
from edgelm.benchmark import PROMPT, STEPS, Subject, Timing, Work, measure
from edgelm.errors import InvalidOption
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm.text_encoding import EncoderModel
from tests.architectures.seq2seq_checkpoints import tiny_seq2seq

WORK = Work(prompt_tokens=8, new_tokens=4, repetitions=2)


@pytest.fixture(scope="module")
def packages(package: Path, embedder: EncoderModel, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Package]:
    """One of each family."""
    folder = tmp_path_factory.mktemp("families")
    writer = edgelm.export(tiny_seq2seq(folder / "source"), folder / "package", precision="fp32", verify=False)
    return {"decoder": Package.open(package), "encoder": embedder.package, "encoder-decoder": writer}


@pytest.mark.parametrize(
    ("family", "kinds"), [("decoder", {PROMPT, STEPS}), ("encoder", {PROMPT}), ("encoder-decoder", {PROMPT, STEPS})]
)
def test_each_family_is_measured(packages: Mapping[str, Package], family: str, kinds: set[str]) -> None:
    subject = Subject(packages[family], PROVIDERS["cpu"], replace(WORK, batch=2), threads=1)
    done: list[int] = []
    measure([subject], lambda: done.append(1))
    assert subject.timings.keys() == kinds
    assert len(done) == 3 * len(kinds)  # a warm-up, and two that count
    for timing in subject.timings.values():
        assert len(timing.tokens_per_second) == 2
        assert timing.median > 0
        assert sum(timing.shares().values()) == pytest.approx(1)
        assert min(timing.shares().values()) >= 0


def test_packages_take_turns(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = [Subject(Package.open(package), PROVIDERS["cpu"], replace(WORK, prompt_tokens=0), 1) for _ in range(2)]
    order: list[Subject] = []
    write = Subject._write_tokens
    monkeypatch.setattr(Subject, "_write_tokens", lambda subject: (order.append(subject), write(subject)))
    measure(subjects)
    assert order == subjects * 3


def test_a_step_spends_its_time_in_the_graph_in_sampling_and_in_python(package: Path) -> None:
    subject = Subject(Package.open(package), PROVIDERS["cpu"], WORK, threads=1)
    measure([subject])
    assert subject.timings[STEPS].shares().keys() == {"graph", "sampling", "python"}
    assert subject.timings[STEPS].shares()["graph"] > 0


def test_rates_and_shares_of_a_timing() -> None:
    timing = Timing()
    timing.add(10, 2.0, {"graph": 1.0, "sampling": 0.5})
    timing.add(10, 1.0, {"graph": 0.5, "sampling": 0.25})
    assert timing.tokens_per_second == [5, 10]
    assert timing.median == 7.5
    assert timing.shares() == {"graph": 0.5, "sampling": 0.25, "python": 0.25}


def test_the_floor_is_what_a_step_reads_over_the_bandwidth(package: Path) -> None:
    opened = Package.open(package)
    work = Work(prompt_tokens=8, new_tokens=4, depth=3, batch=2)
    weights, cache = opened.manifest.weight_bytes_per_step, opened.manifest.kv_cache.bytes_per_token
    assert weights
    floor = Subject(opened, PROVIDERS["cpu"], work, 1).floor_seconds(1e6)
    assert floor == pytest.approx((weights + 2 * 6 * cache) / 1e6)


def test_a_package_that_does_not_say_what_a_step_reads_has_no_floor(package: Path) -> None:
    opened = Package.open(package)
    unknown = replace(opened, manifest=replace(opened.manifest, weight_bytes_per_step=None))
    assert Subject(unknown, PROVIDERS["cpu"], WORK, 1).floor_seconds(1e6) is None


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Work(prompt_tokens=-1), "prompt_tokens -1 is below 0"),
        (Work(batch=0, repetitions=0), "batch 0 is below 1; repetitions 0 is below 1"),
        (Work(prompt_tokens=0, new_tokens=0), "nothing is left to measure: give prompt tokens, new tokens or both"),
        (Work(prompt_tokens=0, depth=60, new_tokens=20), "81 positions are needed and the package has 64"),
    ],
)
def test_work_that_cannot_be_done(work: Work, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        work.check(64)
