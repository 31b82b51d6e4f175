"""Loads packages on CUDA's stand-in and generates a little: prints where nodes run, what is captured, and what goes wrong, as JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import edgelm
from edgelm import loading
from edgelm.known_answers import package_answers
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm.session import Program


def walked(folder: Path) -> dict[str, Any]:
    """What happens with one package."""
    package, host = Package.open(folder), Counter[str]()
    for name in package.manifest.programs:
        placed = Program(package.program(name), PROVIDERS["cuda"].recording()).placement()
        host.update(placed.get("CPUExecutionProvider", {}))
    model = edgelm.load(folder, device="cuda")
    family, prompts = package.manifest.family, [[3, 4, 5, 6, 7], [8, 9, 10]]
    if family == "encoder":
        model.hidden_states(prompts)
    elif family == "decoder":
        model.generate(prompts, max_new_tokens=3, temperature=0.0, eos_token_id=())
    else:
        model.generate(prompts, max_new_tokens=3, num_beams=2)
    return {"host": dict(host), "captured": "CUDA graph" in model.device, "family": family}


if __name__ == "__main__":
    # Kernels of the stand-in compute nothing: that known answers can be asked for is all there is to see.
    loading.check_operators = package_answers
    found: dict[str, Any] = {}
    for argument in sys.argv[1:]:
        try:
            found[argument] = walked(Path(argument))
        except Exception as error:
            found[argument] = {"error": f"{type(error).__name__}: {error}"}
    print("\n" + json.dumps(found))
