"""check.py goes through on a machine without a GPU, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).with_name("check.py")


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
