"""The house rules that neither the linter nor the type checker can state."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgelm

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = (
    *("pyproject.toml", "Makefile", "README.md", "LICENSE", ".ci", ".gitignore", ".editorconfig"),
    *("edgelm", "export", "tests", "models", "docs"),
)
RUNTIME = ROOT / "edgelm"
EXPORTER = ROOT / "export" / "edgelm_export"
ARCHITECTURES = EXPORTER / "architectures"

RUNTIME_MAY_IMPORT = {"click", "edgelm", "jinja2", "numpy", "onnxruntime", "tokenizers"} | sys.stdlib_module_names
# The exporter, the progress bars that come with its extra, and grammars: never at import, for they may not be installed.
LAZILY = {"edgelm_export", "llguidance", "rich"}
FRAMEWORKS = {"optimum", "torch", "transformers"}

# Put together from parts, so that this file does not contain what it looks for.
MACHINE_PATHS = [rf"(?<![\w./-])/{folder}/" for folder in ("work", "tmp/w", "root", "farm", "opt/pypi")]
REGISTRY_HOSTS = [rf"\b{name}\.{domain}\b" for name, domain in (
    ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "(org|com)"), ("debian", "org"), ("download.pytorch", "org"),
)]  # fmt: skip


def files(*folders: Path, suffix: str = "") -> Iterator[Path]:
    for folder in folders:
        found = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        yield from (
            path for path in found if path.is_file() and path.name.endswith(suffix) and "__pycache__" not in path.parts
        )


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(node: ast.AST) -> list[str]:
    """Modules that one import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def imports(node: ast.AST) -> set[str]:
    return {name for child in ast.walk(node) for name in imported(child)}


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def identifiers(node: ast.AST) -> Iterator[str]:
    """Every name that code (not comments or docstrings) uses."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            yield child.id
        elif isinstance(child, ast.Attribute):
            yield child.attr
        elif isinstance(child, ast.arg | ast.keyword):
            yield child.arg or ""
        elif isinstance(child, ast.alias):
            yield child.name


def operators(node: ast.AST) -> Iterator[str]:
    """First arguments of calls `something.op(...)`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr == "op":
            yield ast.unparse(child.args[0]) if child.args else ""


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def documentation() -> list[Path]:
    return [ROOT / "README.md", *files(ROOT / "docs", suffix=".md")]


ARCHITECTURE_FILES = list(files(ARCHITECTURES, suffix=".py"))


def test_the_rules_look_at_files() -> None:
    assert ARCHITECTURE_FILES
    assert len(list(files(RUNTIME, EXPORTER, suffix=".py"))) > 20


def test_python_files_have_at_most_500_lines() -> None:
    python = files(RUNTIME, ROOT / "export", ROOT / "tests", suffix=".py")
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


@pytest.mark.parametrize("path", ARCHITECTURE_FILES, ids=lambda path: path.stem)
def test_architecture_files_have_at_most_120_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", ARCHITECTURE_FILES, ids=lambda path: path.stem)
def test_architecture_files_only_compose_blocks(path: Path) -> None:
    code = tree(path)
    own = {name for name in imports(code) if name.startswith("edgelm_export.")}
    assert not roots(imports(code)) & {"numpy", "onnx", "onnx_ir", "ml_dtypes"}
    assert not {name for name in own if re.match(r"edgelm_export\.(quantize|checkpoint|blocks\.kernels)\b", name)}
    assert [name for name in identifiers(code) if re.search("provider|dtype|quanti|device", name, re.IGNORECASE)] == []
    assert set(operators(code)) <= {"'Add'", "'Mul'"}


@pytest.mark.parametrize("path", list(files(RUNTIME, suffix=".py")), ids=relative)
def test_the_runtime_imports_its_dependencies_and_nothing_else(path: Path) -> None:
    code = tree(path)
    lazy = {name for node in ast.walk(code) if isinstance(node, ast.FunctionDef) for name in imports(node)}
    typing_only = {
        name
        for node in ast.walk(code)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in set(identifiers(node.test))
        for name in imports(node)
    }
    foreign = {name for name in imports(code) if name.partition(".")[0] not in RUNTIME_MAY_IMPORT}
    assert roots(foreign) <= LAZILY
    assert foreign <= lazy | typing_only, "what only the exporter needs is imported when edgelm is"


def test_only_the_optimum_fallback_and_the_reader_of_its_files_import_a_framework() -> None:
    offenders = [relative(path) for path in files(EXPORTER, suffix=".py") if roots(imports(tree(path))) & FRAMEWORKS]
    assert set(offenders) <= {"export/edgelm_export/checkpoint/pytorch.py", "export/edgelm_export/optimum.py"}


def test_no_onnxruntime_is_a_hard_dependency() -> None:
    project = pyproject()["project"]
    assert [name for name in project["dependencies"] if "onnxruntime" in name] == []
    assert any(name.startswith("onnxruntime>") for name in project["optional-dependencies"]["cpu"])
    assert any(name.startswith("onnxruntime-gpu[cuda,cudnn]") for name in project["optional-dependencies"]["cuda"])


def test_the_changelog_begins_with_the_current_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == pyproject()["project"]["version"] == edgelm.__version__


def test_every_public_name_exists_and_is_documented() -> None:
    code = "\n".join(
        snippet
        for path in documentation()
        for snippet in re.findall(r"```.*?```|`[^`\n]+`", path.read_text(encoding="utf-8"), re.DOTALL)
    )
    assert edgelm.__all__
    assert [name for name in edgelm.__all__ if not hasattr(edgelm, name)] == []
    assert [name for name in edgelm.__all__ if not re.search(rf"\b{re.escape(name)}\b", code)] == []


def test_links_between_documents_resolve() -> None:
    for document in documentation():
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
        missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
        assert missing == [], relative(document)


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert pyproject()["project"]["license"] == "Apache-2.0"


def test_no_file_names_a_machine_path_or_a_registry_host() -> None:
    pattern = re.compile("|".join(MACHINE_PATHS + REGISTRY_HOSTS))
    found: list[str] = []
    for path in files(*(ROOT / name for name in TOP_LEVEL)):
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{relative(path)}: {match.group()}" for match in pattern.finditer(content.decode("utf-8"))]
    assert found == []


def test_no_file_is_large_enough_to_be_weights() -> None:
    large = {
        relative(path): path.stat().st_size
        for path in files(*(ROOT / name for name in TOP_LEVEL))
        if path.stat().st_size > 512 * 1024
    }
    assert large == {}
