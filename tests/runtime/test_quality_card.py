"""The card as text."""

from __future__ import annotations

from typing import Any

from edgelm.quality_card import remarks, screen, screens, table

DECODER: dict[str, Any] = {
    "text": {"name": "own.txt", "sha256": "00"},
    "prefill": {"tokens": 1024, "mean_kld": 0.0123, "perplexity": 12.345, "perplexity_error": 0.5},
    "decode": {"tokens": 64, "mean_kld": 0.2, "perplexity_ratio": 1.021, "perplexity_ratio_error": 0.003},
    "layers": [{"name": "layers.3.o_proj", "relative_error": 0.123}],
    "steps_against_prefill": 4.3e-7,
}


def test_parts_are_columns_and_what_a_part_lacks_is_blank() -> None:
    assert table(DECODER) == [
        ("", "prefill", "decode"),
        ("tokens", "1,024", "64"),
        ("KL divergence mean (nats)", "0.0123", "0.2000"),
        ("perplexity", "12.35 ± 0.50", ""),
        ("change of perplexity", "", "+2.10% ± 0.30%"),
    ]


def test_columns_stand_below_each_other() -> None:
    lines = screen(DECODER)
    assert lines[0] == "quality against the float graph, on the text own.txt"
    assert lines[2] == "tokens                            1,024              64"
    assert len({len(line) for line in lines[1:4]}) == 1
    assert lines[-2:] == [
        "largest errors of blocks: layers.3.o_proj 12.3%",
        "decode steps differ from prefill by 4.3e-07 of the largest logit",
    ]


def test_a_card_of_texts_has_one_column() -> None:
    lines = screen({"outputs": {"texts": 200, "mean_cosine": 0.99999, "character_error_rate": 0.0123}})
    assert lines[0].endswith("on the built-in text")
    assert [line.split()[-1] for line in lines[1:]] == ["texts", "200", "0.99999", "1.23%"]


def test_what_was_not_measured_is_said() -> None:
    assert screen({}) == ["quality not measured (--no-verify)"]
    assert screen({"skipped": "skipped: no room"}) == ["quality not measured, skipped: no room"]


def test_cards_of_several_devices_are_named() -> None:
    skipped = {"skipped": "skipped: no room"}
    assert screens({"cpu": {}}) == screen({})
    assert screens({"cpu": {}, "cuda": skipped}) == ["for cpu:", *screen({}), "for cuda:", *screen(skipped)]
    assert "measured with the kernels of cpu" in " ".join(remarks({"ran_on": "cpu"}))
    assert table({}) == []
