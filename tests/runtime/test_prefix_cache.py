"""What earlier requests computed is not computed again: counted tokens, equal results, for every kind of cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import edgelm
from edgelm.decode import Decoder
from edgelm.growing import GrowingDecoder
from edgelm.prefix_cache import PrefixCache, shared
from edgelm.text_generation import DecoderModel
from tests.runtime.kinds_of_cache import KINDS_OF_CACHE, package_with_cache

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8, "eos_token_id": ()}
RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 128, 60).tolist()


class Row:
    """A row that holds one number a token; `window` of them, if not all."""

    def __init__(self, ids: Sequence[int], window: int = 1000) -> None:
        self.ids = [list(ids)]
        self._window = window

    def holds(self, row: int, length: int, total: int) -> bool:
        return length == len(self.ids[row]) or len(self.ids[row]) <= self._window

    def truncate(self, row: int, length: int) -> None:
        del self.ids[row][length:]

    def copy(self, row: int, length: int) -> Row:
        return Row(self.ids[row][:length], self._window)

    def held(self, row: int) -> list[np.ndarray]:
        return [np.zeros(len(self.ids[row]), np.int8)]


def filled(*rows: Row, limit: int = 1000) -> PrefixCache:
    cache = PrefixCache(limit)
    for row in rows:
        cache.put(cast(Any, row))
    return cache


def kept(cache: PrefixCache) -> list[list[int]]:
    with cache.rows() as rows:
        return [one.row.ids[0] for one in rows]


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [([], [1], 0), ([1], [2], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 3, 4], [1, 2, 9, 4], 2), ([7] * 99, [7] * 99, 99)],
)
def test_what_two_sequences_begin_with(one: list[int], other: list[int], common: int) -> None:
    assert shared(one, other) == shared(other, one) == common


def test_a_row_that_is_gone_on_from_changes_hands() -> None:
    row = Row([1, 2, 3])
    cache = filled(row)
    assert cache.take([1, 2, 3, 4]) is row
    assert cache.take([1, 2, 3, 4]) is None


def test_the_last_token_of_a_prompt_is_fed_again() -> None:
    found = filled(Row([1, 2, 3])).take([1, 2, 3])
    assert found is not None
    assert found.ids == [[1, 2]]


def test_a_row_that_only_begins_alike_stays_and_is_copied() -> None:
    row = Row([1, 2, 3, 4])
    cache = filled(row)
    found = cache.take([1, 2, 9])
    assert found is not None
    assert (found is row, found.ids) == (False, [[1, 2]])
    assert kept(cache) == [[1, 2, 3, 4]]


def test_the_longest_beginning_is_taken_be_it_kept_or_under_way() -> None:
    cache = filled(Row([1, 2, 9]), Row([1, 2, 3, 9]))
    for under_way, expected in (([1, 2], [1, 2, 3]), ([1, 2, 3, 4, 5], [1, 2, 3, 4])):
        found = cache.take([1, 2, 3, 4, 6], under_way=cast(Any, Row(under_way)))
        assert found is not None
        assert found.ids == [expected]
    assert len(kept(cache)) == 2


def test_nothing_in_common_is_nothing() -> None:
    assert filled(Row([1, 2, 3])).take([2, 2, 3]) is None
    assert PrefixCache(10).take([1]) is None


def test_rows_that_cannot_go_back_are_passed_over() -> None:
    cache = filled(Row([1, 2, 3, 4, 5], window=3), Row([1, 2]))
    found = cache.take([1, 2, 3, 4, 6])
    assert found is not None
    assert found.ids == [[1, 2]]
    found = cache.take([1, 2, 3, 4, 5, 6])
    assert found is not None
    assert found.ids == [[1, 2, 3, 4, 5]]


def test_adapters_keep_their_rows_apart() -> None:
    cache = filled(Row([1, 2, 3]))
    cache.put(cast(Any, Row([1, 2, 3])), "tale")
    cache.put(cast(Any, Row([1, 2])), "list")
    assert len(kept(cache)) == 3
    found = cache.take([1, 2, 3, 4], "list")
    assert found is not None
    assert found.ids == [[1, 2]]
    assert cache.take([1, 2, 3, 4], "other") is None


def test_the_least_recently_used_rows_are_forgotten_first() -> None:
    cache = filled(Row([1, 1, 1]), Row([2, 2, 2]), Row([3, 3, 3]), limit=9)
    assert cache.take([1, 1, 4]) is not None
    cache.put(cast(Any, Row([4, 4, 4])))
    assert kept(cache) == [[3, 3, 3], [1, 1, 1], [4, 4, 4]]
    cache.put(cast(Any, Row([5] * 10)))
    assert kept(cache) == []


def test_what_another_row_holds_is_kept_once() -> None:
    cache = filled(Row([1, 2]), Row([3]), Row([1, 2, 3]))
    assert kept(cache) == [[3], [1, 2, 3]]
    cache.put(cast(Any, Row([3])))
    cache.put(cast(Any, Row([1])))
    assert kept(cache) == [[3], [1, 2, 3]]
    cache.put(cast(Any, Row([])))
    cache.clear()
    assert kept(cache) == []


def test_a_window_is_kept_beside_the_longer_row_that_lost_it() -> None:
    assert kept(filled(Row([1, 2], window=2), Row([1, 2, 3], window=2))) == [[1, 2], [1, 2, 3]]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens every call of a program took that was not a decode step."""
    counts: list[int] = []
    for kind in (Decoder, GrowingDecoder):
        real: Callable[..., Iterator[Any]] = kind.prefill_chunks

        def counted(self: Any, row: int, ids: Sequence[int], real: Any = real) -> Iterator[Any]:
            counts.append(len(ids))
            return real(self, row, ids)

        monkeypatch.setattr(kind, "prefill_chunks", counted)
    return counts


@pytest.fixture
def fresh(package: Path) -> DecoderModel:
    """The tiny model with nothing kept."""
    return edgelm.load(package, threads=1)


def test_a_chat_of_ten_turns_reads_only_what_is_new(fresh: DecoderModel, fed: list[int]) -> None:
    ids: list[int] = []
    for turn in range(10):
        known = len(ids)
        ids += RNG.integers(3, 128, 12).tolist()
        done = fresh.generate(ids, **GREEDY)
        # The last token of an answer was chosen and not yet fed.
        assert done.metrics.cached_tokens == max(0, known - 1)
        assert fed[turn:] == [12 + (turn > 0)]
        assert (done.metrics.prompt_tokens, done.metrics.new_tokens) == (len(ids), 8)
        ids += done.token_ids
    assert sum(fed) == 10 * 12 + 9
    assert edgelm.load(fresh.package.path, threads=1).generate(ids[:-8], **GREEDY).token_ids == ids[-8:]


def test_a_system_prompt_is_read_once_however_many_chats_begin_with_it(fresh: DecoderModel, fed: list[int]) -> None:
    system = IDS[:40]
    prompts = [[*system, 3 + i, 5, 6, 7, 8] for i in range(5)]
    alone = [edgelm.load(fresh.package.path, threads=1).generate(prompt, **GREEDY).token_ids for prompt in prompts]
    fed.clear()
    found = fresh.generate(prompts, **GREEDY)
    assert fed == [45, 5, 5, 5, 5]
    assert [one.token_ids for one in found] == alone
    assert [one.metrics.cached_tokens for one in found] == [0, 40, 40, 40, 40]


def test_nothing_is_kept_where_no_memory_is_given(package: Path, fed: list[int]) -> None:
    model = edgelm.load(package, threads=1, prefix_cache_mib=0)
    for _ in range(2):
        assert model.generate([IDS[:20], IDS[5:30]], **GREEDY)[0].metrics.cached_tokens == 0
    assert fed == [20, 25] * 2


@pytest.mark.parametrize("case", [*KINDS_OF_CACHE, "qwen3-local-and-global"])
def test_every_kind_of_cache_gives_what_an_empty_one_does(case: str, tmp_path: Path) -> None:
    package = package_with_cache(case, tmp_path / "package")
    model, empty = edgelm.load(package, threads=1), edgelm.load(package, threads=1, prefix_cache_mib=0)
    cached = 0
    # Goes on, begins alike, begins alike from a longer one, goes on across the short context of the LongRoPE, repeats.
    for prompt in (IDS[:20], [*IDS[:20], 5], [*IDS[:10], 6, 7], IDS[:44], IDS[:54], IDS[:47], IDS[:54], IDS[:12]):
        found = model.generate(prompt, **GREEDY)
        assert found.token_ids == empty.generate(prompt, **GREEDY).token_ids
        cached += found.metrics.cached_tokens
    assert cached > 40


def test_an_answer_that_is_gone_on_from_is_not_copied(fresh: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    done = fresh.generate(IDS[:20], **GREEDY)
    monkeypatch.setattr(Decoder, "copy", None)
    again = fresh.generate([*IDS[:20], *done.token_ids, 5], **GREEDY)
    assert again.metrics.cached_tokens == 27
