from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm.metrics import Metrics, Recorder, peak_memory_mib


def clock(*seconds: float) -> Callable[[], float]:
    moments = iter(seconds)
    return lambda: next(moments)


def test_figures_follow_from_the_moments():
    recorder = Recorder(50, clock(100.0, 100.5, 100.6, 100.8, 101.0))
    recorder.prefilled()
    recorder.token()
    recorder.token()
    recorder.token()
    metrics = recorder.finish()
    assert (metrics.prompt_tokens, metrics.new_tokens) == (50, 3)
    assert metrics.ttft_ms == pytest.approx(600)
    assert metrics.tpot_ms == pytest.approx(200)
    assert metrics.prefill_tokens_per_second == pytest.approx(100)
    assert metrics.decode_tokens_per_second == pytest.approx(5)


def test_what_came_out_of_the_cache_and_the_time_in_the_queue_are_no_prefill():
    recorder = Recorder(50, clock(100.0, 102.0, 102.5, 102.6))
    recorder.begin(40)
    recorder.prefilled()
    recorder.token()
    metrics = recorder.finish()
    assert (metrics.prompt_tokens, metrics.cached_tokens) == (50, 40)
    assert metrics.prefill_tokens_per_second == pytest.approx(20)
    assert metrics.ttft_ms == pytest.approx(2600)


def test_one_token_has_no_time_per_further_token():
    recorder = Recorder(4, clock(0.0, 1.0, 2.0))
    recorder.prefilled()
    recorder.token()
    metrics = recorder.finish()
    assert (metrics.ttft_ms, metrics.tpot_ms, metrics.decode_tokens_per_second) == (2000.0, None, None)


def test_guesses_that_come_true_take_no_step():
    recorder = Recorder(4, lambda: 0.0)
    recorder.chosen()  # by the prompt's logits
    recorder.drafted(3)
    for accepted in (True, True, False):
        recorder.chosen(accepted=accepted)
    recorder.chosen()
    metrics = recorder.finish()
    assert (metrics.decode_steps, metrics.drafted_tokens, metrics.accepted_tokens) == (2, 3, 2)


def test_no_token_has_no_figures():
    metrics = Recorder(4, clock(0.0)).finish()
    assert (metrics.new_tokens, metrics.ttft_ms, metrics.tpot_ms) == (0, None, None)
    assert (metrics.prefill_tokens_per_second, metrics.decode_tokens_per_second) == (None, None)


def test_a_clock_that_stands_still_is_no_division_by_zero():
    recorder = Recorder(4, lambda: 7.0)
    recorder.prefilled()
    recorder.token()
    recorder.token()
    metrics = recorder.finish()
    assert (metrics.ttft_ms, metrics.tpot_ms) == (0.0, 0.0)
    assert (metrics.prefill_tokens_per_second, metrics.decode_tokens_per_second) == (None, None)


def test_metrics_go_into_json_under_their_public_names():
    metrics = Metrics(3, 1, 2, 1.5, None, 10.0, None, 100.0)
    assert json.loads(json.dumps(metrics.as_dict())) == {
        "prompt_tokens": 3, "cached_tokens": 1, "new_tokens": 2, "ttft_ms": 1.5, "tpot_ms": None, "prefill_tokens_per_second": 10.0,
        "decode_tokens_per_second": None, "peak_memory_mib": 100.0, "decode_steps": 0, "drafted_tokens": 0, "accepted_tokens": 0,
    }  # fmt: skip


def test_peak_memory_is_read_from_the_kernels_high_water_mark(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  204800 kB\nVmRSS:\t  1024 kB\n")
    assert peak_memory_mib(status) == 200.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has both sources to compare")
def test_peak_memory_falls_back_to_resource_usage(tmp_path: Path):
    assert peak_memory_mib(tmp_path / "absent") == pytest.approx(peak_memory_mib(), rel=0.1)


def test_peak_memory_is_unknown_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert peak_memory_mib(tmp_path / "absent") is None
