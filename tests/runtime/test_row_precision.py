"""A decoder in int8-rows: what one row gives does not depend on the others, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgelm
from edgelm.text_generation import DecoderModel

PROMPTS = ["the rain", "a", "once upon a time there was"]


@pytest.fixture(scope="module")
def by_rows(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    folder = tmp_path_factory.mktemp("rows") / "package"
    return edgelm.load(edgelm.export(checkpoint, folder, precision="int8-rows").path, threads=1)


def test_steps_of_several_rows_equal_those_of_one_to_the_bit(by_rows: DecoderModel) -> None:
    ids = [[7, 8, 9], [20], [5, 6, 30, 31, 32]]
    together = by_rows.decoder(len(ids))
    for row, prompt in enumerate(ids):
        together.prefill(row, prompt)
    found = [together.step([40, 41, 42]).copy(), together.step([50, 51, 52]).copy()]
    for row, prompt in enumerate(ids):
        alone = by_rows.decoder(1)
        alone.prefill(0, prompt)
        for step, token in enumerate((40 + row, 50 + row)):
            np.testing.assert_array_equal(alone.step([token])[0], found[step][row])


def test_a_batch_writes_what_single_runs_write(by_rows: DecoderModel) -> None:
    options = {"max_new_tokens": 12, "temperature": 0.9, "seed": 3, "eos_token_id": ()}
    single = [by_rows.generate(prompt, **options).token_ids for prompt in PROMPTS]
    assert [one.token_ids for one in by_rows.generate(PROMPTS, **options)] == single


def test_it_is_close_to_float(by_rows: DecoderModel) -> None:
    assert by_rows.package.manifest.quality["prefill"]["mean_kld"] < 0.02
