from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgelm.home import home, packages_folder, sources_folder


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EDGELM_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")


def test_the_default_is_the_users_cache_folder(tmp_path: Path) -> None:
    assert home() == tmp_path / ".cache" / "edgelm"


def test_edgelm_home_moves_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "mine"))
    assert (home(), sources_folder(), packages_folder()) == (
        tmp_path / "mine",
        tmp_path / "mine" / "sources",
        tmp_path / "mine" / "packages",
    )


def test_a_relative_edgelm_home_starts_at_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_HOME", "here")
    assert home() == tmp_path / "here"


def test_xdg_cache_home_is_heeded_when_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert home() == tmp_path / "xdg" / "edgelm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert home() == tmp_path / ".cache" / "edgelm"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGELM_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert home() == tmp_path / ".cache" / "edgelm"


def test_other_platforms_have_their_own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert home() == tmp_path / "Library" / "Caches" / "edgelm"
    monkeypatch.setattr(sys, "platform", "win32")
    assert home() == tmp_path / "AppData" / "Local" / "edgelm" / "cache"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert home() == tmp_path / "local" / "edgelm" / "cache"


def test_asking_creates_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "mine"))
    sources_folder()
    assert list(tmp_path.iterdir()) == []
