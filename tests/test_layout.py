"""The rooms: what each may import, how they are linked, and what `import worldsim` must not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worldsim.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("envs", "policies", "datasets", "configs")
CODE = ("worldsim", *ROOMS, "tests", "benchmarks")


def python_files(folder: str) -> list[Path]:
    """Python files of a top-level folder, without those behind links."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if not any(p.is_symlink() for p in path.parents)]


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file."""
    package = (
        ("worldsim", *path.relative_to(ROOT).parts[:-1]) if path.relative_to(ROOT).parts[0] in ROOMS else path.relative_to(ROOT).parts[:-1]
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


@pytest.mark.parametrize("room", [*ROOMS, "worldsim"])
def test_a_room_imports_only_the_core_and_itself(room: str) -> None:
    others = [other for other in ROOMS if other != room]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in python_files(room)
        for name in imports(path)
        for other in others
        if within(name, f"worldsim.{other}") or (within(name, other) and room != "worldsim")
    ]
    assert not wrong, "rooms meet through protocols, gym ids and _target_s"


def test_the_core_knows_nothing_of_the_data_format() -> None:
    assert not [path for path in python_files("worldsim") for name in imports(path) if within(name, "zarr") or within(name, "numcodecs")]


def test_the_imports_of_a_file_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "a.py").write_text("from . import b\nfrom ..policies import c\ndef f():\n    import worldsim.datasets.d\n")
    assert sorted(imports(tmp_path / "envs" / "a.py")) == ["worldsim.datasets.d", "worldsim.envs.b", "worldsim.policies.c"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_linked_into_the_package(room: str) -> None:
    link = ROOT / "worldsim" / room
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{room}"
    # Hydra wants configs to be a regular package; datasets must be none, or `import datasets` here would hide Hugging Face's.
    assert (ROOT / room / "__init__.py").exists() == (room != "datasets")


def test_no_file_grows_past_400_lines() -> None:
    assert not [str(p) for folder in CODE for p in python_files(folder) if len(p.read_text(encoding="utf-8").splitlines()) > 400]


def test_files_tell_what_they_are() -> None:
    texts = {path: path.read_text(encoding="utf-8") for folder in CODE for path in python_files(folder)}
    assert not [str(path) for path, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))]


def test_nothing_is_pickled() -> None:
    shipped = ("worldsim", *ROOMS)
    assert not [f"{p} imports {n}" for f in shipped for p in python_files(f) for n in imports(p) if n.split(".")[0] in ("pickle", "dill")]


def test_importing_worldsim_registers_the_env_and_imports_no_torch() -> None:
    code = (
        "import sys, worldsim, gymnasium\n"
        "assert gymnasium.spec('WorldSim-v0').vector_entry_point\n"
        "print([name for name in ('torch', 'diffusers', 'hydra', 'zarr', 'pygame') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_has_its_settings_and_its_function(command: object) -> None:
    config, run = vars(command)["config"], vars(command)["run"]
    assert (ROOT / "configs" / f"{config}.yaml").exists()
    module, _, function = run.partition(":")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    assert function in [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]


def test_ci_runs_what_the_readme_tells() -> None:
    command = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[test]' && .venv/bin/pytest"
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
