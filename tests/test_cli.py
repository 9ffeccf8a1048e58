"""The command line: help without heavy imports, settings shown, errors as one sentence, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import pytest

from worldsim import cli


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a function in the place of `collect`'s."""

    def _install(function: Any) -> None:
        module = ModuleType("fake_command")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_command", module)
        monkeypatch.setitem(cli.COMMANDS, "collect", cli.Command("collect", "fake_command:run", "record"))

    return _install


def raising(error: BaseException) -> Any:
    def _run(cfg: Any) -> None:
        raise error

    return _run


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["--version"], ["worlds"]])
def test_help_imports_neither_torch_nor_hydra(arguments: list[str]) -> None:
    code = (
        f"import sys; from worldsim.cli import main; code = main({arguments!r})\n"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'zarr', 'rich') if name in sys.modules], code)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[] 0\n")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in [*cli.COMMANDS, "worlds"])


def test_help_of_a_command_lists_options_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["collect", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "source=carracing|carracing_grip|gym" in out
    assert "  seed: 0" in out


def test_print_shows_the_settings_and_runs_nothing(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(AssertionError("ran")))
    assert cli.main(["collect", "seed=7", "--print", "frames=12"]) == 0
    out = capsys.readouterr().out
    assert "seed: 7\n" in out
    assert "frames: 12\n" in out


def test_the_settings_reach_the_command(command: Any, tmp_path: Path) -> None:
    seen = []
    command(lambda cfg: seen.append(cfg))
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 5\nframes: 6\n")
    assert cli.main(["collect", "seed=7", "--config", str(file)]) == 0
    assert (seen[0].seed, seen[0].frames) == (7, 6)


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3), ("path", 0)])
def test_a_number_from_the_command_is_the_exit_code(command: Any, result: Any, code: int) -> None:
    command(lambda cfg: result)
    assert cli.main(["collect"]) == code


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("world 'x' is\n  unknown"), "worldsim: error: world 'x' is unknown\n"),
        (OSError(28, "No space left on device", "/disk/x"), "worldsim: error: No space left on device: /disk/x\n"),
        (PermissionError(13, "Permission denied"), "worldsim: error: Permission denied\n"),
        (gymnasium.error.NameNotFound("Environment `X` doesn't exist."), "worldsim: error: Environment `X` doesn't exist.\n"),
        (ValueError(), "worldsim: error: ValueError\n"),
    ],
)
def test_a_users_error_is_one_sentence_and_exit_code_2(
    command: Any, capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    command(raising(error))
    assert cli.main(["collect"]) == 2
    captured = capsys.readouterr()
    assert captured.err == message
    assert not captured.out


def test_traceback_shows_where(command: Any) -> None:
    command(raising(ValueError("x")))
    with pytest.raises(ValueError, match="x"):
        cli.main(["collect", "--traceback"])


def test_a_fault_in_the_program_is_not_dressed_up(command: Any) -> None:
    command(raising(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["collect"])


def test_an_interrupt_exits_with_130(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(KeyboardInterrupt()))
    assert cli.main(["collect"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["colect"], "there is no command 'colect': did you mean 'collect'?"),
        (["train"], "there is no command 'train'"),
        (["train", "tokeniser"], "there is no command 'train tokeniser': did you mean 'train tokenizer'?"),
        (["collect", "sed=3"], "unknown key 'sed': did you mean 'seed'?"),
        (["collect", "--config", "missing.yaml"], "No such file or directory: missing.yaml"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_flag_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["collect", "--sed"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --sed" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "worldsim.cli", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert done.stderr == ""


def test_worlds_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "WORLDS", tmp_path)
    assert cli.main(["worlds"]) == 0
    assert "no world is shipped" in capsys.readouterr().out
    (tmp_path / "toy").mkdir()
    spec = {"name": "toy", "frame_size": [64, 64], "fps": 25.0, "source": {"id": "Toy-v0"}, "licence": "CC0-1.0"}
    (tmp_path / "toy" / "world.json").write_text(json.dumps(spec))
    assert cli.main(["worlds"]) == 0
    assert capsys.readouterr().out.split() == ["toy", "64x64", "25", "fps", "learned", "from", "Toy-v0", "CC0-1.0"]
