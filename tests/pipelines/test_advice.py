"""Every option that a message names can be typed: read from the texts in the code and from the command line itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from components.config import Recipe
from components.keys import keys_of
from components.transfer.protocol import all_protocols
from pipelines.__main__ import app
from pipelines.recipes import Places

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    p.relative_to(ROOT).as_posix() for top in ("components", "infra", "pipelines") for p in ROOT.glob(f"{top}/**/*.py")
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
QUOTED = re.compile(r"`([^`]*)`")
# Every command that opens raw images has the short form of data.splits (see the last test).
SHORT_FORMS = {"--splits"}
# Rooms and files whose messages belong to a command of another name.
OWN = {
    "sweeps": "sweep", "tables": "table", "contact_sheet": "data show", "exchange": "export", "encoders": "transfer",
    "paths": "generate",
}  # fmt: skip


def commands() -> dict[str, set[str]]:
    """{"data show": {"--to", ...}}: every command of the command line, with its options."""

    def walk(command: typer.core.TyperCommand | typer.core.TyperGroup, name: str) -> Iterator[tuple[str, set[str]]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield (
                name.strip(),
                {flag for each in command.params for flag in each.opts if flag.startswith("--")} | {"--help"},
            )
        for below, each in (inner or {}).items():
            yield from walk(each, f"{name} {below}")

    return dict(walk(typer.main.get_command(app), ""))  # type: ignore[arg-type]  # typer's own click


COMMANDS = commands()
JOBS = {name: options for name, options in COMMANDS.items() if {"--set", "--home"} <= options}
EVERYWHERE = set.intersection(*JOBS.values())


def texts(source: str) -> Iterator[str]:
    """The texts of a module that a user may read: no docstrings, no words of other programs' command lines."""
    tree = ast.parse(source)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            skipped |= {id(part) for part in ast.walk(body[0])}
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "summary":
            skipped |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node)}
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)  # type: ignore[misc]  # a text
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (" " in node.value):
            yield node.value


def allowed(path: str) -> set[str]:
    """The options that a message of a file may name: those of its command, else those that every job has."""
    if path.startswith("pipelines/cli/") or path == "pipelines/__main__.py":
        return set.union(*COMMANDS.values())
    parts = Path(path).with_suffix("").parts
    own = next((OWN[part] for part in parts if part in OWN), parts[-1] if parts[0] == "pipelines" else "")
    return EVERYWHERE | SHORT_FORMS | COMMANDS.get(own, set())


def wrong_advice(path: str, source: str) -> list[str]:
    """Options that are named and cannot be typed, each with the text that names it."""
    found = []
    for text in texts(source):
        for quoted in QUOTED.findall(text):
            name = next((each for each in COMMANDS if quoted.startswith(f"genoise {each}")), None)
            if name:
                found += [f"{flag}: {text}" for flag in OPTION.findall(quoted) if flag not in COMMANDS[name]]
        plain = QUOTED.sub(lambda match: "" if " " in match[1] else match[1], text)
        found += [f"{flag}: {text}" for flag in OPTION.findall(plain) if flag not in allowed(path)]
    return found


@pytest.mark.parametrize("path", FILES)
def test_what_is_advised_can_be_typed(path: str) -> None:
    assert wrong_advice(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("components/data/sources/files.py", "nothing there: use --root PATH"),
        ("components/data/foreign_tars.py", "prepare it with `genoise pretrain folder --root TAR`"),
        ("pipelines/table.py", "use --trials 3"),
        ("pipelines/cli/jobs.py", "use --no-such-thing"),
    ],
)
def test_wrong_advice_is_found(path: str, text: str) -> None:
    assert wrong_advice(path, f"raise UserError({text!r})")
    assert wrong_advice(path, f"raise UserError(f{text!r})")


def test_every_command_takes_json_and_the_readme_says_which_take_set() -> None:
    assert {"demo", "sweep", "data verify", "local s3", "ui"} <= COMMANDS.keys()
    assert [name for name, options in COMMANDS.items() if "--json" not in options] == []
    said = re.search(r"takes `--set key=value`: ([^.]*)\.", (ROOT / "README.md").read_text())
    assert said and set(re.findall("`([^`]*)`", said[1])) == {
        n for n, options in COMMANDS.items() if "--set" in options
    }


BENCHMARK_KEYS = {key for config in all_protocols().values() for key in keys_of(type(config), "benchmark.")}
KEYS = {*keys_of(Recipe), *keys_of(Places), *BENCHMARK_KEYS}
FREE = ("options", "weights", "search", "data.options")  # sections whose keys a task, a source or a search space knows


@pytest.mark.parametrize("path", FILES)
def test_keys_that_are_advised_exist(path: str) -> None:
    for text in texts((ROOT / path).read_text()):
        for key in re.findall(r"--set '?([a-z_.]+)=", text):
            assert key in KEYS or key.startswith(tuple(f"{each}." for each in FREE)), text


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        *(f"pipelines/cli/{p.name}" for p in ROOT.glob("pipelines/cli/*.py")),
        *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
    ],
)
def test_commands_that_are_shown_can_be_typed(path: str) -> None:
    names = "|".join(sorted(COMMANDS, key=len, reverse=True))
    for name, rest in re.findall(rf"genoise ({names})\b([^\n`]*)", (ROOT / path).read_text()):
        assert [flag for flag in OPTION.findall(rest) if flag not in COMMANDS[name]] == [], f"genoise {name}{rest}"


def test_whoever_is_advised_to_say_the_splits_can_say_them() -> None:
    assert all("--splits" in COMMANDS[name] for name in ("prepare", "pretrain", "transfer", "table", "sweep"))
