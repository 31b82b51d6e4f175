"""What the system says of its processor."""

from __future__ import annotations

from pathlib import Path

from edgelm.machine import available_memory, cpu_features, read_features

X86 = "processor\t: 0\nmodel name\t: Some\nflags\t\t: fpu avx avx2 fma unknown avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def test_features_that_matter_are_read_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text(X86)
    (tmp_path / "arm").write_text(ARM)
    assert read_features(tmp_path / "x86") == ("avx", "avx2", "fma", "avx512_vnni")
    assert read_features(tmp_path / "arm") == ("asimd", "asimddp", "i8mm")


def test_a_system_without_such_lists_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("cpu : 68000\n")
    assert read_features(tmp_path / "other") is None
    assert read_features(tmp_path / "nothing") is None
    assert all(isinstance(name, str) for name in cpu_features())


def test_memory_is_a_number_of_bytes_or_unknown() -> None:
    found = available_memory()
    assert found is None or found > 10_000_000
