"""JSON schemas before they become a grammar: read, kept within what its compiler bears, searched for the place of an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote

from edgelm.errors import InvalidOption

# The compiler recurses, and has no limit of its own on references that follow each other: some 3,000 levels end the process.
_MOST_LEVELS = 1500
_DEEPEST = 100
_MOST_PLACES = 200  # tried when an error is looked for

Schema = dict[str, Any]


def read_schema(text: str, name: str = "option json_schema") -> Schema:
    """A schema that is worth compiling; messages call it by its name.

    Raises:
        InvalidOption: the text is no schema, is nested too deeply, or allows only values without an end.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidOption(f"{name} is no JSON ({reason}); give a schema such as {_EXAMPLE}") from error
    schema: Any = {} if value is True else value
    if not isinstance(schema, dict):
        raise InvalidOption(f"{name} is {text[:40]}, but must be an object such as {_EXAMPLE}, or true")
    known = cast("Schema", schema)
    targets = _targets(known)
    depths = [_depth(node) for node in (known, *targets.values())]
    if max(depths) > _DEEPEST or sum(depths) > _MOST_LEVELS:
        raise InvalidOption(
            f"{name} is nested {max(depths)} levels deep, {sum(depths)} with all it refers to, "
            f"and {_DEEPEST} and {_MOST_LEVELS} can be compiled; simplify it"
        )
    place = _endless(known, _without_end(targets))
    if place is not None:
        raise InvalidOption(
            f"{name}: every value holds another one of its kind, without end, at #{place}; "
            "let it be left out or be null there"
        )
    return known


_EXAMPLE = '{"type": "object"}'


def place_of_error(schema: Schema, complaint: Callable[[Schema], str]) -> str:
    """A pointer to the innermost part of a schema that is refused for the reason that the whole is refused.

    Args:
        schema: the whole.
        complaint: compiles a schema and tells why it is refused; "" if it is not.
    """
    reason, place, left = complaint(schema), "#", _MOST_PLACES
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    node: Any = schema
    while True:
        for step, part in _parts(node):
            left -= 1
            if left and isinstance(part, dict) and complaint({**shared, **cast("Schema", part)}) == reason:
                node, place = cast("Schema", part), place + step
                break
        else:
            return place


def _parts(node: Any) -> Iterator[tuple[str, Any]]:
    """The schemas right inside a schema, each with its way there."""
    if not isinstance(node, Mapping):
        return
    for key, value in cast("Mapping[str, Any]", node).items():
        if key in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, Mapping):
            yield from ((f"/{key}/{name}", part) for name, part in cast("Mapping[str, Any]", value).items())
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            yield from ((f"/{key}/{i}", part) for i, part in enumerate(cast("list[Any]", value)))
        elif key in ("items", "additionalProperties"):
            yield f"/{key}", value


def _targets(schema: Schema) -> dict[str, Any]:
    """What the references into the schema itself lead to, by reference; none that leads nowhere."""
    found: dict[str, Any] = {}
    left: list[Any] = [schema]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            pairs = cast("dict[str, Any]", node)
            reference = pairs.get("$ref")
            if isinstance(reference, str) and reference.startswith("#") and reference not in found:
                target = _resolve(schema, reference)
                if target is not None:
                    found[reference] = target
            left.extend(pairs.values())
        elif isinstance(node, list):
            left.extend(cast("list[Any]", node))
    return found


def _resolve(schema: Schema, reference: str) -> Any:
    node: Any = schema
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal() and int(name) < len(cast("list[Any]", node)):
            node = cast("list[Any]", node)[int(name)]
        else:
            node = cast("dict[str, Any]", node).get(name) if isinstance(node, dict) else None
    return node


def _depth(schema: Any) -> int:
    """How many schemas lie within each other."""
    deepest, left = 0, [(schema, 1)]
    while left:
        node, depth = left.pop()
        deepest = max(deepest, depth)
        left.extend(
            (part, depth + 1) for step, part in _parts(node) if "/$defs/" not in step and "/definitions/" not in step
        )
    return deepest


def _without_end(targets: Mapping[str, Any]) -> set[str]:
    """The references to schemas that no value meets that has an end."""
    left = set(targets)
    while True:
        ending = {name for name in left if _endless(targets[name], left) is None}
        if not ending:
            return left
        left -= ending


def _endless(schema: Any, without_end: set[str]) -> str | None:
    """The way to what keeps every value of a schema from having an end; None where nothing does.

    Only what forces a part to be there counts. What this does not know (a foreign reference, a keyword) is taken to end.
    """
    if not isinstance(schema, dict):
        return None
    node = cast("Schema", schema)
    if isinstance(node.get("$ref"), str) and node["$ref"] in without_end:
        return "/$ref"
    ways = [
        *(_any(node.get(key), f"/{key}", without_end) for key in ("anyOf", "oneOf")),
        *_all(node.get("allOf"), "/allOf", without_end),
        *(_below(step, part, without_end) for step, part in _forced(node)),
    ]
    return next((way for way in ways if way is not None), None)


def _forced(node: Schema) -> Iterator[tuple[str, Any]]:
    """The schemas of what every value of a schema has inside."""
    kind, required, properties = node.get("type"), node.get("required"), node.get("properties")
    if kind in ("object", ["object"]) and isinstance(required, list) and isinstance(properties, dict):
        parts = cast("dict[str, Any]", properties)
        yield from ((f"/properties/{name}", parts[name]) for name in parts if name in required)
    least, first = node.get("minItems"), node.get("prefixItems")
    if kind in ("array", ["array"]) and isinstance(least, int):
        given = cast("list[Any]", first)[:least] if isinstance(first, list) else []
        yield from ((f"/prefixItems/{i}", part) for i, part in enumerate(given))
        if len(given) < least:
            yield "/items", node.get("items")


def _below(step: str, schema: Any, without_end: set[str]) -> str | None:
    way = _endless(schema, without_end)
    return None if way is None else step + way


def _all(schemas: Any, step: str, without_end: set[str]) -> list[str | None]:
    listed = cast("list[Any]", schemas) if isinstance(schemas, list) else []
    return [_below(f"{step}/{i}", part, without_end) for i, part in enumerate(listed)]


def _any(schemas: Any, step: str, without_end: set[str]) -> str | None:
    ways = _all(schemas, step, without_end)
    return ways[0] if ways and None not in ways else None
