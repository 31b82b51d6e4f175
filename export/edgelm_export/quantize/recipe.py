"""Recipes: which tensor gets which format. Ordered rules of glob -> format on canonical names; the first match wins."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgelm.errors import InvalidOption
from edgelm_export.quantize.formats import Format, find_format

PRECISIONS = ("fp32", "fp16", "int8", "int4")


@dataclass(frozen=True)
class Recipe:
    """Ordered rules."""

    name: str
    rules: tuple[tuple[str, str], ...]

    def format_for(self, name: str) -> Format:
        """The format of the weight called `name`, as in layers.3.qkv_proj."""
        for pattern, form in self.rules:
            if fnmatchcase(name, pattern):
                return find_format(form)
        raise InvalidOption(f"recipe {self.name} has no rule for {name}; end it with a rule for *")

    def check_used(self) -> None:
        """Every rule must have matched."""

    def as_manifest(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {"name": self.name, "rules": [list(rule) for rule in self.rules]}


def preset(precision: str, num_hidden_layers: int, block_size: int | None = None) -> Recipe:
    """The recipe a precision stands for."""
    rules = {
        "fp32": (("*", "float32"),),
        "fp16": (("*", "float16"),),
        "int8": (("*", "int8-b64"),),
        "int4": (("lm_head", "int8-b64"), ("*", "int4-b32")),
    }
    if precision not in rules:
        raise InvalidOption(f"precision {precision!r} is not known (known: {', '.join(PRECISIONS)})")
    return Recipe(precision, rules[precision])


def recipe_from_file(path: Path) -> Recipe:
    """A recipe read from a file."""
    raise InvalidOption(f"{path}: recipes in files are not read yet")
