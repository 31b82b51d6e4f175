"""Adapters as PEFT writes them: merged or kept apart, the package gives the logits of its PeftModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import edgelm
from tests.architectures.running import FLOAT_TOLERANCE, distance

peft = pytest.importorskip("peft", reason="installed with transformers 5 only")

GOLDENS = Path(__file__).parents[1] / "golden"
IDS = list(range(3, 60))

# By golden: what PEFT is told beside rank and alpha.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "names": ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "a-pattern": (
        "llama",
        {"target_modules": r".*\.[01]\.(self_attn\.k_proj|mlp\.(gate|up)_proj)", "use_rslora": True},
    ),
    "patterns": (
        "qwen3",
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2, r"layers\.0\.mlp\.up_proj": 7},
            "alpha_pattern": {"^model.layers.1.self_attn.v_proj": 3, "down_proj": 32},
        },
    ),
    "joined": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "transposed": ("gpt2", {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
    "by-head": ("gpt_neox", {"target_modules": ["query_key_value", "dense"]}),
    "some-layers": ("gemma2", {"target_modules": ["o_proj", "q_proj"], "layers_to_transform": [1]}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_peft(case: str, tmp_path: Path) -> None:
    name, options = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(GOLDENS / name, dtype=torch.float32, attn_implementation="eager")
    config = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(torch.tensor([IDS])).logits[0].numpy()
        with adapted.disable_adapter():
            base = adapted(torch.tensor([IDS])).logits[0].numpy()
    assert distance(expected, base) > 100 * FLOAT_TOLERANCE
    options = {"precision": "fp32", "verify": False}
    edgelm.export(GOLDENS / name, tmp_path / "merged", adapter=tmp_path / "adapter", **options)
    edgelm.export(GOLDENS / name, tmp_path / "apart", keep_adapter={"it": tmp_path / "adapter"}, **options)
    merged, apart = (edgelm.load(tmp_path / one, threads=1) for one in ("merged", "apart"))
    found = merged.logits(IDS), apart.logits(IDS, adapter="it"), apart.logits(IDS)
    for logits, wanted in zip(found, (expected, expected, base), strict=True):
        assert distance(logits, np.asarray(wanted)) < FLOAT_TOLERANCE
