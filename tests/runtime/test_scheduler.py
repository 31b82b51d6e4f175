"""One queue and one batch for all threads: order, equality with single runs, cancellation, errors, the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.errors import GenerationError, InvalidOption
from edgelm.handle import GenerationHandle
from edgelm.text_generation import DecoderModel

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "eos_token_id": ()}
LONG: dict[str, Any] = {**GREEDY, "max_new_tokens": 500}
PROMPTS = [np.random.default_rng(i).integers(3, 128, 3 + 5 * i).tolist() for i in range(9)]


@pytest.fixture
def fresh(package: Path) -> Iterator[DecoderModel]:
    """The tiny model for two rows at a time, closed at the end."""
    with edgelm.load(package, threads=1, max_batch=2) as model:
        yield model


def steps_of(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows every decode step from now on has."""
    from edgelm.decode import Decoder

    widths: list[int] = []
    real = Decoder.step

    def counted(self: Decoder, ids: Sequence[int]) -> Any:
        widths.append(len(ids))
        return real(self, ids)

    monkeypatch.setattr(Decoder, "step", counted)
    return widths


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "edgelm"]


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        {**GREEDY, "temperature": 1.5, "seed": 3},
        {**GREEDY, "temperature": 1.5, "seed": 3, "num_return_sequences": 2},
        {**GREEDY, "num_beams": 2, "num_return_sequences": 2},
        {**GREEDY, "num_beams": 3},
    ],
    ids=["greedy", "drawn", "several", "beams", "wide beams"],
)
def test_requests_that_share_rows_get_what_each_gets_alone(package: Path, options: dict[str, Any]) -> None:
    def tokens(results: Any) -> Any:
        return [tokens(one) for one in results] if isinstance(results, list) else results.token_ids

    plain = edgelm.load(package, threads=1, prefix_cache_mib=0)
    alone = [tokens(plain.generate(prompt, **options)) for prompt in PROMPTS]
    for max_batch in (1, 2, 4, 20):
        with edgelm.load(package, threads=1, max_batch=max_batch) as model:
            assert tokens(model.generate(PROMPTS, **options)) == alone


def test_rows_that_are_free_again_go_to_those_who_wait(fresh: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [9, 3, 3, 3]
    expected = [
        fresh.generate(prompt, **{**GREEDY, "max_new_tokens": n}).token_ids
        for prompt, n in zip(PROMPTS, lengths, strict=False)
    ]
    widths = steps_of(fresh, monkeypatch)
    handles = [
        fresh.submit(prompt, **{**GREEDY, "max_new_tokens": n}) for prompt, n in zip(PROMPTS, lengths, strict=False)
    ]
    assert [handle.result().token_ids for handle in handles] == expected
    assert max(widths) == 2
    assert sum(widths) == sum(n - 1 for n in lengths)


def test_first_come_first_served_even_if_the_next_would_fit(fresh: DecoderModel) -> None:
    order: list[str] = []
    lock = threading.Lock()

    def finished(name: str, handle: GenerationHandle) -> None:
        handle.result()
        with lock:
            order.append(name)

    first = fresh.submit(PROMPTS[0], **LONG)
    wide = fresh.submit(PROMPTS[1], **{**LONG, "num_beams": 2})
    small = fresh.submit(PROMPTS[2], **{**GREEDY, "max_new_tokens": 1})
    time.sleep(0.05)
    assert not small.done()
    assert not wide.done()
    with ThreadPoolExecutor(3) as pool:
        for name, handle in (("small", small), ("wide", wide), ("first", first)):
            pool.submit(finished, name, handle)
        first.cancel()
        wide.cancel()
    assert order.index("first") < order.index("small")
    assert small.result().finish_reason == "length"


def test_threads_share_a_model(package: Path) -> None:
    plain = edgelm.load(package, threads=1, prefix_cache_mib=0)
    expected = [plain.generate(prompt, **GREEDY).token_ids for prompt in PROMPTS]
    with edgelm.load(package, threads=1, max_batch=3) as model, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(model.generate, prompt, **GREEDY) for prompt in PROMPTS * 5]
        assert [future.result().token_ids for future in futures] == expected * 5


def test_an_idle_model_has_no_thread(fresh: DecoderModel) -> None:
    handle = fresh.submit(PROMPTS[0], **LONG)
    assert workers()
    handle.cancel()
    handle.result()
    deadline = time.monotonic() + 10
    while workers() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not workers()
    assert fresh.generate(PROMPTS[0], **GREEDY).token_ids


def test_cancelling_from_another_thread_ends_a_request_and_no_other(fresh: DecoderModel) -> None:
    expected = fresh.generate(PROMPTS[1], **LONG).token_ids
    handle, other = fresh.submit(PROMPTS[0], **LONG), fresh.submit(PROMPTS[1], **LONG)
    chunks = iter(handle)
    head = [next(chunks) for _ in range(3)]
    threading.Thread(target=handle.cancel).start()
    *_, last = chunks
    done = handle.result()
    assert handle.done()
    assert done.finish_reason == last.finish_reason == "cancelled"
    assert 3 <= len(done.token_ids) < 500
    assert done.text.startswith("".join(chunk.text for chunk in head))
    assert done.token_ids == last.token_ids == fresh.generate(PROMPTS[0], **LONG).token_ids[: len(done.token_ids)]
    assert other.result().token_ids == expected
    handle.cancel()
    assert handle.result() == done


def test_no_step_follows_a_cancellation(fresh: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = steps_of(fresh, monkeypatch)
    handle = fresh.submit(PROMPTS[0], **LONG)
    for _, chunk in zip(range(3), handle, strict=False):
        assert chunk.finish_reason is None
    handle.cancel()
    before = len(widths)
    handle.result()
    assert len(widths) <= before + 1


def test_closing_a_stream_cancels_the_rest_and_keeps_what_was_read(fresh: DecoderModel) -> None:
    chunks = fresh.stream(PROMPTS[0], **LONG)
    for _ in range(4):
        next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    done = fresh.generate([*PROMPTS[0], 5, 6], **GREEDY)
    assert done.metrics.cached_tokens == len(PROMPTS[0])


def test_a_request_is_cancelled_in_the_queue(fresh: DecoderModel) -> None:
    running = [fresh.submit(prompt, **LONG) for prompt in PROMPTS[:2]]
    waiting = fresh.submit(PROMPTS[2], **GREEDY)
    waiting.cancel()
    done = waiting.result()
    assert (done.text, done.token_ids, done.finish_reason) == ("", [], "cancelled")
    assert (done.metrics.ttft_ms, done.metrics.new_tokens) == (None, 0)
    assert list(waiting)[-1].finish_reason == "cancelled"
    assert not any(handle.done() for handle in running)
    for handle in running:
        handle.cancel()


def test_a_prompt_is_cancelled_between_its_chunks(fresh: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgelm import decode

    monkeypatch.setattr(decode, "PREFILL_CHUNK", 4)
    monkeypatch.setattr("edgelm.scheduler.PREFILL_CHUNK", 4)
    handles: list[GenerationHandle] = []
    real, ready = decode.Decoder.prefill_chunks, threading.Event()

    def cancelling(self: Any, row: int, ids: Sequence[int]) -> Iterator[Any]:
        for number, logits in enumerate(real(self, row, ids)):
            if number == 2:
                ready.wait(10)
                handles[0].cancel()
            yield logits

    monkeypatch.setattr(decode.Decoder, "prefill_chunks", cancelling)
    handles.append(fresh.submit(PROMPTS[-1], **GREEDY))
    ready.set()
    assert handles[0].result().finish_reason == "cancelled"
    monkeypatch.setattr(decode.Decoder, "prefill_chunks", real)
    assert fresh.generate(PROMPTS[-1], **GREEDY).metrics.cached_tokens == 12


def test_cancelled_beams_give_the_best_so_far(fresh: DecoderModel) -> None:
    handle = fresh.submit(PROMPTS[0], **{**LONG, "num_beams": 2, "num_return_sequences": 2})
    time.sleep(0.05)
    handle.cancel()
    found = handle.result()
    assert [one.finish_reason for one in found] == ["cancelled"] * 2
    assert found[0].score >= found[1].score
    assert list(handle) == []


def test_a_long_prompt_does_not_stop_the_answers_under_way(
    fresh: DecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgelm.decode.PREFILL_CHUNK", 4)
    monkeypatch.setattr("edgelm.scheduler.PREFILL_CHUNK", 4)
    answer = fresh.submit(PROMPTS[0], **LONG)
    chunks = iter(answer)
    next(chunks)
    widths = steps_of(fresh, monkeypatch)
    fresh.generate(PROMPTS[-1], **{**GREEDY, "max_new_tokens": 1})
    answer.cancel()
    assert widths.count(1) >= len(PROMPTS[-1]) // 4


def test_what_goes_wrong_in_one_request_harms_no_other(fresh: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fresh.generate(PROMPTS[0], **LONG).token_ids
    handle = fresh.submit(PROMPTS[0], **LONG)
    every = tuple(range(128))
    with pytest.raises(GenerationError, match="forbid every token"):
        fresh.generate(PROMPTS[1], **{**GREEDY, "suppress_tokens": every})
    assert handle.result().token_ids == expected


def test_a_program_that_fails_ends_what_it_ran_and_nothing_else(
    fresh: DecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgelm.decode import Decoder

    expected = fresh.generate(PROMPTS[0], **GREEDY).token_ids
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "step", lambda self, ids: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fresh.generate(PROMPTS[0], **GREEDY)
        patched.setattr(Decoder, "prefill_chunks", lambda self, row, ids: iter([1 / 0]))
        with pytest.raises(ZeroDivisionError):
            fresh.generate(PROMPTS[1], **GREEDY)
    assert fresh.generate(PROMPTS[0], **GREEDY).token_ids == expected


def test_waiting_has_an_end(fresh: DecoderModel) -> None:
    handle = fresh.submit(PROMPTS[0], **LONG)
    with pytest.raises(TimeoutError, match=r"not over after 0.001 seconds; wait longer, or cancel it"):
        handle.result(timeout=0.001)
    handle.cancel()


def test_a_closed_model_ends_its_requests_and_takes_no_more(package: Path) -> None:
    model = edgelm.load(package, threads=1, max_batch=1)
    handles = [model.submit(prompt, **LONG) for prompt in PROMPTS[:3]]
    model.close()
    assert [handle.result().finish_reason for handle in handles] == ["cancelled"] * 3
    assert not workers()
    for use in (model.generate, model.submit, model.logits, lambda ids: next(iter(model.stream(ids)))):
        with pytest.raises(GenerationError, match="this model was closed; load it again"):
            use(PROMPTS[0])
    with pytest.raises(GenerationError, match="this model was closed"):
        model.decoder(1)
    model.close()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"max_batch": 0}, "max_batch 0 is below 1"), ({"prefix_cache_mib": -1}, "prefix_cache_mib -1 is below 0")],
)
def test_impossible_sizes_are_refused(package: Path, options: Any, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        edgelm.load(package, **options)
