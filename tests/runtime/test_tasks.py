"""Names of tasks, and what a manifest tells the runtime about an encoder."""

from __future__ import annotations

from typing import Any

import pytest

from edgelm.errors import InvalidOption
from edgelm.tasks import ALIASES, TASKS, EncoderFacts, find_task

FACTS = EncoderFacts(
    hidden_size=8, pad_token_id=0, token_types=True, labels=("a", "b"), problem_type="regression", prompts={"q": "x: "},
    default_prompt="q",
)  # fmt: skip


def test_tasks_are_found_by_name_and_by_the_hub_s_names() -> None:
    assert [find_task(name) for name in TASKS] == list(TASKS)
    assert {name: find_task(name) for name in ALIASES} == ALIASES
    with pytest.raises(InvalidOption, match=r"task 'tagging' is not known \(known: text-generation, .*reranking"):
        find_task("tagging")


def test_facts_survive_the_manifest() -> None:
    assert EncoderFacts.from_manifest(FACTS.as_manifest()) == FACTS


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"hidden_size": True}, "of the wrong kind: hidden_size"),
        ({"hidden_size": 0}, "sizes must be positive"),
        ({"pad_token_id": -1}, "sizes must be positive"),
        ({"labels": ["a", 1]}, "of the wrong kind: labels"),
        ({"labels": "ab"}, "of the wrong kind: labels"),
        ({"prompts": {"q": 1}}, "of the wrong kind: prompts"),
        ({"token_types": 1}, "of the wrong kind: token_types"),
        ({"default_prompt": "other"}, "default_prompt 'other' is none of the prompts"),
        ({"colour": "red"}, "unknown or of the wrong kind: colour"),
    ],
)
def test_facts_that_cannot_be_are_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EncoderFacts.from_manifest({**FACTS.as_manifest(), **values})


def test_facts_that_are_missing_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size"):
        EncoderFacts.from_manifest({"pad_token_id": 0, "token_types": False})
