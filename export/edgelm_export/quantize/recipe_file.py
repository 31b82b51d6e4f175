"""Recipes as files, TOML or JSON."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgelm.errors import InvalidOption
from edgelm_export.quantize.formats import find_format
from edgelm_export.quantize.recipe import Recipe, preset

_KEYS = ("name", "precision", "calibrated", "kv_cache", "rules")


def recipe_from_file(
    path: Path, num_hidden_layers: int, block_size: int | None = None, family: str = "decoder"
) -> Recipe:
    """A recipe written by a user or by `recipe_text`, as TOML or JSON.

    Its keys: `rules`, a table of glob = format; `precision`, the preset for what no rule matches; `name`, the file's by default;
    `calibrated`, whether codes are chosen by what the inputs look like; `kv_cache`, the dtype of the KV cache.

    Raises:
        InvalidOption: the file cannot be read, or holds something else.
    """
    raw = _read(path)
    unknown = sorted(set(raw) - set(_KEYS))
    if unknown:
        raise InvalidOption(
            f"{path}: {', '.join(unknown)} is no part of a recipe; it has {', '.join(map(repr, _KEYS))}"
        )
    rules, name, calibrated = raw.get("rules", {}), raw.get("name", path.name), raw.get("calibrated", False)
    if not isinstance(rules, Mapping) or not all(isinstance(form, str) for form in rules.values()):
        raise InvalidOption(
            f'{path}: \'rules\' must be a table of glob = format name, as in "layers.*.down_proj" = "int8-b128"'
        )
    if not isinstance(name, str) or not name:
        raise InvalidOption(f"{path}: 'name' must be a text, as in name = \"mine\"")
    if not isinstance(calibrated, bool):
        raise InvalidOption(f"{path}: 'calibrated' must be true or false")
    kv_cache = raw.get("kv_cache")
    if not isinstance(kv_cache, str | None):
        raise InvalidOption(f"{path}: 'kv_cache' must be a text, as in kv_cache = \"int8\"")
    try:
        for form in rules.values():
            find_format(form)
        base = Recipe("", ())
        if "precision" in raw:
            base = preset(str(raw["precision"]), num_hidden_layers, block_size, family)
    except InvalidOption as error:
        raise InvalidOption(f"{path}: {error}") from error
    every = (*rules.items(), *base.rules)
    return Recipe(name, every, optional=len(base.rules), compensates=calibrated, kv_cache=kv_cache)


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """Writes a manifest's recipe to a file that `recipe_from_file` reads.

    Raises:
        InvalidOption: it cannot be written.
    """
    try:
        path.write_text(recipe_text(recipe), encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidOption(
            f"{path}: the recipe cannot be written: {error.strerror}; the package itself is complete"
        ) from error


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """A manifest's recipe as TOML, from which `recipe_from_file` makes the same one."""
    lines = [
        "# Formats of weights; the first rule whose pattern matches a name decides. Read by: edgelm export --recipe FILE",
        f"name = {json.dumps(recipe['name'])}",
        f"calibrated = {json.dumps(recipe.get('calibrated', False))}",
        *([f"kv_cache = {json.dumps(recipe['kv_cache'])}"] if "kv_cache" in recipe else []),
        "",
        "[rules]",
        *(f"{json.dumps(pattern)} = {json.dumps(form)}" for pattern, form in recipe["rules"]),
    ]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path}: the recipe cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        raise InvalidOption(
            f"{path}: the recipe is neither TOML nor JSON (a name ending in .json is read as JSON): {error}"
        ) from error
    if not isinstance(raw, Mapping):
        raise InvalidOption(f"{path}: a recipe is a table with 'precision' and 'rules'")
    return raw
