"""check.py goes through on a machine without a GPU, in small."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.stand_in import build, libraries, tools

CHECK = Path(__file__).with_name("check.py")


@pytest.mark.skipif(not tools(), reason="the stand-in wants a C compiler and nm")
def test_the_check_runs_through_on_cuda_as_far_as_the_stand_in_goes(tmp_path: Path) -> None:
    # Every step but the numbers: kernels compute nothing, so no golden is within, and decoders' known answers may be refused.
    (tmp_path / "stand-in").mkdir()
    build(tmp_path / "stand-in", libraries())
    settings = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "stand-in"), "STAND_IN_DRIVER": "13000"}
    done = subprocess.run(
        [sys.executable, str(CHECK), "--dry", "-o", str(tmp_path / "out")],
        env=settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "cuda.json").read_text(encoding="utf-8"))
    assert not any("error" in row for row in found["speed"]), found["speed"]
    assert {(row["model"], row["precision"], row["graphs"], row["batch"]) for row in found["speed"]} == set(
        itertools.product(("135M", "1B", "8B"), ("int4", "fp16"), (True, False), (1, 2))
    )
    assert len(found["parity"]) == 6
    assert {row["activations"] for row in found["parity"]} == {"fp16", "bf16"}
    assert found["verdicts"]["decoders_with_nodes_on_the_host"] == []
    assert found["verdicts"]["best_share_of_floor_8B"]["asked"] == 0.6
    assert found["verdicts"]["gain_by_graphs_135M"]["found"] > 0


def test_the_check_runs_through_and_writes_both_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(CHECK), "--device", "cpu", "--dry", "-o", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "cuda.json").read_text(encoding="utf-8"))
    assert {row["family"] for row in found["parity"]} == {"decoder", "encoder", "encoder-decoder"}
    assert all(row.get("within") for row in found["parity"]), found["parity"]
    assert not any("error" in row for row in found["speed"])
    assert {(row["precision"], row["batch"]) for row in found["speed"]} == {
        (precision, batch) for precision in ("int4", "fp16") for batch in (1, 2)
    }
    assert min(row["tokens_per_second"] for row in found["speed"]) > 0
    assert found["sampling"]["topk_ms"] > 0
    assert "| fp32 | 3 | 3 |" in (tmp_path / "cuda.md").read_text(encoding="utf-8")
