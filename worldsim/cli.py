"""The ``worldsim`` command: each subcommand composes its settings and calls one function, imported only then."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from worldsim import __version__


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        config: The primary config of its settings.
        run: The function that runs it, as ``module:function``.
        help: One line of help.
        path: The setting that a bare PATH stands for; empty where there is none. With ``[]`` behind it, it takes a list of them.
    """

    config: str
    run: str
    help: str
    path: str = ""


COMMANDS = {
    "collect": Command("collect", "worldsim.datasets.collect:main", "record a simulator: source -> dataset"),
    "train tokenizer": Command("train_tokenizer", "worldsim.training.run:train_tokenizer", "train the frame autoencoder on a dataset"),
    "train dynamics": Command(
        "train_dynamics", "worldsim.training.run:train_dynamics", "train the video model on a dataset and its tokenizer"
    ),
    "train decoder": Command("train_decoder", "worldsim.training.decoder:train_decoder", "teach a finished world to show detail"),
    "train recall": Command(
        "train_recall", "worldsim.training.recall:train_recall", "have a finished world keep count of what frames do not show"
    ),
    "train heads": Command("train_heads", "worldsim.training.heads:train_heads", "teach a finished world's heads on what it imagines"),
    "train labels": Command("train_labels", "worldsim.training.labels:train_labels", "teach a finished world what each pixel shows"),
    "train starter": Command("train_starter", "worldsim.training.starter:train_starter", "teach a finished world to make first frames"),
    "train uncertainty": Command(
        "train_uncertainty", "worldsim.training.uncertainty:train_uncertainty", "teach a finished world to foretell its errors"
    ),
    "evaluate": Command("evaluate", "worldsim.evaluation.run:main", "measure a world on held-out episodes"),
    "generate": Command("generate", "worldsim.datasets.generate:main", "roll a world out over scenarios -> dataset"),
    "scenario list": Command("scenario_list", "worldsim.scenario.commands:list_scenarios", "the scenarios there are", "files[]"),
    "scenario show": Command("scenario_show", "worldsim.scenario.commands:show", "one scenario in full, as YAML", "name"),
    "scenario validate": Command("scenario_validate", "worldsim.scenario.commands:validate", "every mistake in scenario files", "files[]"),
    "scenario expand": Command("scenario_expand", "worldsim.scenario.commands:expand", "the episodes of scenarios", "files[]"),
    "scenario preview": Command(
        "scenario_preview", "worldsim.datasets.scenario_preview:main", "one short episode a variant, as pictures", "name"
    ),
    "scenario report": Command(
        "scenario_report", "worldsim.datasets.scenario_report:main", "which expectations held in a dataset", "dataset"
    ),
    "play": Command("play", "worldsim.envs.play:main", "drive a world with the keyboard"),
    "data plan": Command("data_plan", "worldsim.datasets.commands:plan", "write down what a dataset will hold", "out"),
    "data run": Command("data_run", "worldsim.datasets.commands:run", "record what a planned dataset lacks", "out"),
    "data resume": Command("data_resume", "worldsim.datasets.commands:resume", "go on with a job, failed episodes included", "out"),
    "data status": Command("data_status", "worldsim.datasets.commands:status", "how far a job is, from any machine", "dataset"),
    "data verify": Command("data_verify", "worldsim.datasets.verify:main", "read everything again and name what is damaged", "dataset"),
    "data finalize": Command("data_finalize", "worldsim.datasets.commands:finalize", "write index, statistics and manifest", "dataset"),
    "data preview": Command("data_preview", "worldsim.datasets.page:main", "pictures, a video and a page of the episodes", "dataset"),
    "data stats": Command("data_stats", "worldsim.datasets.stats:main", "tables and plots of what is in it", "dataset"),
    "data export": Command("data_export", "worldsim.datasets.exporting:main", "copy it into another format", "dataset"),
    "data import": Command("data_import", "worldsim.datasets.importing:main", "copy other recordings into a dataset", "source"),
    "data merge": Command("data_merge", "worldsim.datasets.commands:merge", "put several datasets into one", "out"),
    "data regenerate": Command(
        "data_regenerate", "worldsim.datasets.commands:regenerate", "make an episode again and compare it", "dataset"
    ),
}
_GROUPS = {"data": "datasets", "scenario": "scenarios"}
"""First words of commands of two words, and the title that they are listed under."""
WORLDS = Path(__file__).parent / "worlds"

_EPILOG = """\
Settings are given as key=value, an option of a group likewise:
  worldsim collect source=gym source.id=CartPole-v1 out=cartpole.worldsim
  worldsim generate --config mine.yaml --print
`worldsim COMMAND --help` lists what a command can be told."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for a user's error, 130 when interrupted, 143 when told to end."""
    if argv is None:
        signal.signal(signal.SIGTERM, _end)
    args = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in args
    args = [arg for arg in args if arg != "--traceback"]
    try:
        code = _dispatch(args)
        sys.stdout.flush()  # here, where a closed pipe is answered
    except KeyboardInterrupt:
        print("worldsim: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit finds a reader
        return 0
    except Exception as error:
        if traceback or not _is_users(error):
            raise
        print(f"worldsim: error: {_sentence(error)}", file=sys.stderr)
        return 2
    return code


def _end(*_: object) -> NoReturn:
    """Answer SIGTERM as Ctrl-C: what is written is whole, and the same command goes on from there."""
    print("worldsim: told to end", file=sys.stderr)
    raise SystemExit(143)


def _dispatch(args: list[str]) -> int:
    name, rest = _split(args)
    if name in _GROUPS and not set(rest) - {"-h", "--help"}:
        print(_overview(name))
        return 0
    if name == "worlds":
        return _list_worlds()
    if name in COMMANDS:
        return _run(name, COMMANDS[name], rest)
    if name and name not in ("-h", "--help", "--version"):
        from worldsim.targets import suggest

        raise ValueError(f"there is no command {name!r}: {suggest(name, [*COMMANDS, 'worlds'])}")
    print(f"worldsim {__version__}" if name == "--version" else _overview())
    return 0


def _split(args: list[str]) -> tuple[str, list[str]]:
    """Return the command's name, of one or two words, and the arguments after it."""
    if args[:1] in (["train"], *([group] for group in _GROUPS)) and len(args) > 1 and "=" not in args[1] and not args[1].startswith("-"):
        return " ".join(args[:2]), args[2:]
    return (args[0], args[1:]) if args else ("", [])


def _overview(group: str = "") -> str:
    lines: dict[str, list[str]] = {title: [] for title in ("commands", *_GROUPS.values())}
    for name, command in COMMANDS.items():
        lines[_GROUPS.get(name.partition(" ")[0], "commands")].append(f"  {name:<19}{command.help}")
    lines["commands"].append(f"  {'worlds':<19}list the worlds that are shipped")
    shown = [_GROUPS[group]] if group else list(lines)
    groups = [line for title in shown for line in (f"{title}:", *lines[title], "")]
    return "\n".join([f"usage: worldsim {group}{' ' if group else ''}COMMAND [key=value ...] [options]", "", *groups, _EPILOG])


def _run(name: str, command: Command, args: list[str]) -> int:
    from worldsim.config import compose

    options = _parser(name, command, with_settings=bool({"-h", "--help"} & set(args))).parse_intermixed_args(args)
    settings = _settings(command, options.settings)
    config = compose(command.config, settings, options.config, allow_missing=options.print)
    if options.print:
        print(_yaml(config), end="")
        return 0
    module, _, function = command.run.partition(":")
    result = getattr(import_module(module), function)(config)
    return result if isinstance(result, int) else 0


def _settings(command: Command, texts: Sequence[str]) -> list[str]:
    """Return ``key=value`` for every bare PATH, and the other settings as they are."""
    bare = [text for text in texts if "=" not in text] if command.path else []
    quoted = ["'{}'".format(text.replace("\\", "\\\\").replace("'", "\\'")) for text in bare]
    if command.path.endswith("[]"):
        paths = [f"{command.path[:-2]}=[{','.join(quoted)}]"] if quoted else []
    else:
        paths = [f"{command.path}={text}" for text in quoted]
    return [*(text for text in texts if text not in bare), *paths]


def _parser(name: str, command: Command, *, with_settings: bool) -> argparse.ArgumentParser:
    several = command.path.endswith("[]")
    path = (
        f"; a bare PATH stands for {command.path[:-2] if several else command.path}={'[PATH]' if several else 'PATH'}"
        if command.path
        else ""
    )
    parser = argparse.ArgumentParser(
        prog=f"worldsim {name}",
        description=command.help,
        epilog=_settings_help(command) if with_settings else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings, as seed=3 or source.id=CartPole-v1" + path)
    parser.add_argument("--config", metavar="FILE.yaml", help="a file of settings; those on the command line win over it")
    parser.add_argument("--print", action="store_true", help="show the settings and stop")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def _settings_help(command: Command) -> str:
    from worldsim.config import compose, group_options

    groups = "".join(f"  {group}={'|'.join(options)}\n" for group, options in group_options(command.config).items())
    return (
        "options of groups:\n" + groups + "\n" if groups else ""
    ) + f"settings:\n{_indent(_yaml(compose(command.config, allow_missing=True)))}"


def _yaml(config: Any) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(config)


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _list_worlds() -> int:
    specs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(WORLDS.glob("*/world.json"))]
    for spec in specs:
        size = "x".join(str(side) for side in spec["frame_size"])
        print(f"{spec['name']:<20}{size:<9}{spec['fps']:g} fps  learned from {spec['source'].get('id', '?')}  {spec['licence']}")
    if not specs:
        print("no world is shipped with this build: train one, and name its folder")
    return 0


def _is_users(error: Exception) -> bool:
    """Whether ``error`` tells of something that the user can put right, rather than of a fault in the program."""
    if isinstance(error, (ValueError, OSError)):
        return True
    return any(kind.__module__ in ("gymnasium.error", "hydra.errors", "omegaconf.errors") for kind in type(error).__mro__)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    problems = getattr(error, "problems", ())  # of which each has a line of its own
    return "\n".join(" ".join(line.split()) for line in (str(error).splitlines() if problems else [str(error)])) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
