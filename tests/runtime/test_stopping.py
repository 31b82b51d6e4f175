from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.generation_config import GenerationConfig
from edgelm.stopping import Limits, StopState

EOS = 0


class Pieces:
    """A stream over fixed pieces of text: id i is the i-th piece; `rest` is what only `finish` gives away."""

    def __init__(self, pieces: Sequence[str], rest: str = "") -> None:
        self.pieces = pieces
        self.rest = rest

    def push(self, token_id: int, /) -> str:
        return self.pieces[token_id - 1]

    def finish(self) -> str:
        return self.rest


def run(pieces: Sequence[str], *stop: str, rest: str = "", eos: bool = False) -> tuple[list[str], str | None]:
    """Every piece of text that comes out, the last of them from finish_text, and how it ended."""
    state = StopState(GenerationConfig(stop=stop, eos_token_id=(EOS,)), Pieces(pieces, rest))
    out: list[str] = []
    for token_id in [*range(1, len(pieces) + 1), *([EOS] if eos else [])]:
        text, finish = state.push(token_id)
        out.append(text)
        assert finish == state.finish
        if finish:
            break
    return [*out, state.finish_text()], state.finish


def test_without_stop_strings_text_passes_at_once():
    assert run(["a", "", "bc"]) == (["a", "", "bc", ""], None)


def test_an_end_token_stops_and_has_no_text():
    assert run(["a", "b"], eos=True) == (["a", "b", "", ""], "stop")


@pytest.mark.parametrize("token_id", [5, 6])
def test_any_of_several_end_tokens_stops(token_id: int):
    state = StopState(GenerationConfig(eos_token_id=(5, 6)), Pieces([]))
    assert state.push(token_id) == ("", "stop")


def test_a_stop_string_inside_one_token_cuts_the_text_before_it():
    assert run(["say ", "hi\n\nUser: more"], "\n\nUser") == (["say ", "hi", ""], "stop")


def test_a_stop_string_across_tokens_is_held_back_and_never_shown():
    assert run(["hi", "\n", "\nUs", "er:"], "\n\nUser:") == (["hi", "", "", "", ""], "stop")


def test_text_held_back_in_vain_comes_out_with_the_next_token():
    assert run(["hi", "\n", "there"], "\n\n") == (["hi", "", "\nthere", ""], None)


def test_only_the_part_that_may_begin_a_stop_string_is_held_back():
    assert run(["xxaa", "ab", "c"], "aab") == (["xx", "a", ""], "stop")


def test_text_held_back_at_the_length_limit_is_not_lost():
    assert run(["hi", "<en"], "<end>") == (["hi", "", "<en"], None)


def test_text_held_back_before_an_end_token_is_not_lost():
    assert run(["hi", "<en"], "<end>", eos=True) == (["hi", "", "", "<en"], "stop")


def test_what_the_stream_holds_back_comes_last():
    assert run(["hi", "<en"], "<end>", rest="\ufffd") == (["hi", "", "<en\ufffd"], None)


def test_a_stop_string_completed_by_the_last_text_still_counts():
    assert run(["hi", "<en"], "<end>", rest="d>") == (["hi", "", ""], "stop")


def test_after_a_stop_string_the_rest_of_the_stream_is_dropped():
    assert run(["hi<end>"], "<end>", rest="more") == (["hi", ""], "stop")


def test_the_rest_is_given_once():
    state = StopState(GenerationConfig(stop=("<end>",)), Pieces(["<e"]))
    state.push(1)
    assert (state.finish_text(), state.finish_text()) == ("<e", "")


def test_of_two_stop_strings_the_one_complete_first_ends_the_text():
    assert run(["xabcd"], "abcd", "bc") == (["xa", ""], "stop")


def test_of_two_stop_strings_complete_together_the_longer_is_cut_off():
    assert run(["xabc"], "bc", "abc") == (["x", ""], "stop")


def test_the_text_does_not_depend_on_where_tokens_end():
    generator = random.Random(4)
    for _ in range(400):
        text = "".join(generator.choices("ab", k=12))
        stops = ["".join(generator.choices("ab", k=generator.randint(2, 5))) for _ in range(2)]
        whole, finish = run(list(text), *stops)
        cuts = sorted(generator.sample(range(13), k=4))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, 12], strict=True)]
        out, other_finish = run(pieces, *stops)
        assert ("".join(out), other_finish) == ("".join(whole), finish)
        assert not any(stop in "".join(out) for stop in stops)


def expected(text: str, stops: Sequence[str]) -> str:
    """The text up to the stop string that is complete first, and of several that end there the longest."""
    ends = [
        (end, text.rindex(stop, 0, end))
        for stop in stops
        for end in range(1, len(text) + 1)
        if text[:end].endswith(stop)
    ]
    return text if not ends else text[: min(ends)[1]]


@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=8), max_size=4),
    cuts=st.lists(st.integers(0, 40), max_size=12),
    late=st.booleans(),
)
def test_stop_strings_are_met_as_in_the_whole_text(text: str, stops: list[str], cuts: list[int], late: bool):
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[i:j] for i, j in itertools.pairwise(borders)]
    rest = pieces.pop() if late else ""
    out, finish = run(pieces, *stops, rest=rest)
    assert "".join(out) == expected(text, stops)
    assert (finish == "stop") == any(stop in text for stop in stops)
    # Nothing is held back that no stop string can claim: what came out and what was held reach to the end.
    for count in range(len(pieces)):
        shown, ended = run(pieces[: count + 1], *stops)
        if ended is None:
            held = len("".join(pieces[: count + 1])) - len("".join(shown[:-1]))
            longest = max(
                (n for stop in stops for n in range(len(stop)) if "".join(pieces[: count + 1]).endswith(stop[:n])),
                default=0,
            )
            assert held == longest


def test_a_stop_string_of_a_megabyte_costs_nothing_until_it_is_met():
    stop = "ab" * 500_000
    state = StopState(
        GenerationConfig(stop=(stop, "a" * 1_000_000)), Pieces(["ababa", "b" * 20_000, "a", "a" * 20_000])
    )
    shown = [state.push(token)[0] for token in (1, 2, 3, 4)]
    assert "".join(shown) == "ababa" + "b" * 20_000
    assert state.finish_text() == "a" * 20_001


def test_stop_token_ids_end_beside_those_of_the_checkpoint():
    state = StopState(GenerationConfig(eos_token_id=(1,), stop_token_ids=(2,)), Pieces([]))
    assert state.push(2) == ("", "stop")


def test_limits_end_by_length_then_time_then_criteria():
    now = iter([100.0, 100.4, 100.6, 100.6, 100.6])
    seen: list[tuple[list[int], str]] = []

    def criterion(ids: Sequence[int], text: str) -> bool:
        seen.append((list(ids), text))
        return text == "end"

    config = GenerationConfig(max_time=0.5, stopping_criteria=criterion)  # type: ignore[arg-type]
    limits = Limits(config, 5, lambda: next(now))
    assert limits.reached([1], "a") is None
    assert limits.reached([1, 2], "end") == "time"
    assert limits.reached([1, 2, 3, 4, 5], "end") == "length"
    assert Limits(config.replace(max_time=1e9), 5).reached([1], "end") == "criterion"
    assert seen == [([1], "a"), ([1, 2], "end"), ([1, 2, 3, 4, 5], "end"), ([1], "end")]
