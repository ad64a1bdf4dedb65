"""Sphinx extension: writes the two references before Sphinx reads its pages.

generated/cli.md        every command and its flags, from `stateshape COMMAND --help`
generated/methods.md    the flags of every `stateshape train RECIPE`
generated/api.md        the names in `stateshape.__all__`
generated/python-*.md   the rooms of the package that parts of your own build on, one page per room

Knows no module by name, only rooms: modules may move within a room.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sphinx.application import Sphinx

# The rooms that a state source, a signal, a loss or a recipe of your own is made from.
ROOMS = ("core", "states", "signals", "losses", "recipes", "tasks")
WIDE = "1000"  # columns: one line per flag, so that help is read whole


class Flag(NamedTuple):
    name: str
    value: str
    meaning: str


def write_pages(app: Sphinx, config: Any) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    pages = {"cli.md": cli_page(), "methods.md": methods_page(), "api.md": api_page()}
    pages |= {f"python-{room}.md": room_page(room) for room in ROOMS}
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# The command line


def help_of(*args: str) -> str:
    """What `stateshape ARGS --help` prints, without wrapping and colour."""
    from stateshape.cli import parser

    told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # a StringIO has no encoding: frames would be ASCII
    with set_environment(COLUMNS=WIDE, NO_COLOR="1"), contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        parser.run([*args, "--help"])
    told.seek(0)
    return told.read()


@contextlib.contextmanager
def set_environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def read_help(text: str) -> tuple[str, list[Flag]]:
    """The description and the flags of one --help. Positional arguments are flags without dashes."""
    lines = [re.sub(r"^[│╭╰] ?|\s*[│╮╯]$", "", line).rstrip() for line in text.splitlines()]
    first = next((i for i, line in enumerate(text.splitlines()) if line.startswith("╭")), len(lines))
    description = "\n".join(lines[1:first]).strip()
    flags: list[Flag] = []
    for line in lines[first:]:
        if re.match(r"[─ ]*$|─", line):
            continue
        if match := re.match(r"(-\S.*?|[A-Z]+)(?:\s{2,}(.*))?$", line):
            name, _, value = match[1].partition(" ")
            if match[1].startswith("--") and ", --no-" in match[1]:
                name, value = match[1].split(",")[0], ""
            flags.append(Flag(name, value.replace("{None}|", ""), match[2] or ""))
        elif flags and line.startswith("  "):
            flags[-1] = flags[-1]._replace(meaning=f"{flags[-1].meaning} {line.strip()}".strip())
    return description, [flag for flag in flags if flag.name != "-h,"]


def flag_table(flags: list[Flag]) -> str:
    rows = []
    for flag in flags:
        meaning, default = flag.meaning, ""
        if match := re.fullmatch(r"(.*?)\s*\((required|default: .*)\)", meaning):
            meaning, default = match[1], match[2].removeprefix("default: ")
        default = "" if default in ("None", "False") else default if default == "required" else f"`{default}`"
        value = f" {flag.value}" if flag.value else ""
        rows.append(f"| `{_cell(flag.name + value)}` | {_cell(_plain(meaning))} | {_cell(default)} |")
    return "\n".join(["| flag | meaning | default |", "|---|---|---|", *rows])


def _plain(text: str) -> str:
    """Help text is no Markdown: characters that Markdown would read as markup are shown as they are."""
    return re.sub(r"([*_<>\[\]#])", r"\\\1", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def cli_page() -> str:
    from stateshape.cli import parser

    parts = ["# Commands", "Made from `stateshape COMMAND --help`. An empty default means that nothing is set."]
    for name in [command for command in parser.COMMANDS if command != "train"]:
        description, flags = read_help(help_of(name))
        if not flags:
            raise ValueError(f"stateshape {name} --help: no flags found in it")
        parts += [f"## stateshape {name}", _plain(description), flag_table(flags)]
    parts += ["## stateshape train", "Its flags depend on the recipe: see [the flags of every recipe](methods.md)."]
    return "\n\n".join(parts) + "\n"


def methods_page() -> str:
    from stateshape.recipes.names import BUILT_IN

    pages = {name: read_help(help_of("train", name)) for name in BUILT_IN}
    shared = [flag for flag in pages["sft"][1] if all(flag in flags for _, flags in pages.values())]
    parts = [
        "# Flags of `stateshape train`",
        "Made from `stateshape train RECIPE --help`. First the flags that every recipe takes, then what each adds.",
        "## Every recipe",
        flag_table(shared),
    ]
    for name, (description, flags) in pages.items():
        own = [flag for flag in flags if flag not in shared]
        parts += [f"## stateshape train {name}", _plain(description.split("\n\nRun the same command")[0])]
        parts.append(flag_table(own) if own else "No flags of its own.")
    return "\n\n".join(parts) + "\n"


# Python


def api_page() -> str:
    import stateshape

    found = {name: getattr(stateshape, name) for name in stateshape.__all__}
    groups = {
        "Functions": [name for name, thing in found.items() if inspect.isfunction(thing)],
        "Recipes": [name for name, thing in found.items() if inspect.isclass(thing) and hasattr(thing, "compositions")],
    }
    rest = [name for name in found if not any(name in names for names in groups.values())]
    parts = ["# Python", "`from stateshape import ...` gives these names. Each is imported when it is first used."]
    for title, names in {**groups, "Settings and types": rest}.items():
        parts += [f"## {title}", *(_directive(f"stateshape.{name}", found[name]) for name in names)]
    return "\n\n".join(parts) + "\n"


def room_page(room: str) -> str:
    package = importlib.import_module(f"stateshape.{room}")
    parts = [
        f"# stateshape.{room}",
        "Names on this page may change between versions. Those on the page [Python](api.md) are kept stable.",
    ]
    for info in sorted(pkgutil.walk_packages(package.__path__, f"{package.__name__}."), key=lambda info: info.name):
        module = None if info.ispkg else _module(info.name)
        if module is not None and (names := public_names(module)):
            parts += [f"## {info.name}", _plain((inspect.getdoc(module) or "").split("\n\n")[0])]
            parts += [_directive(f"{info.name}.{name}", getattr(module, name)) for name in names]
    return "\n\n".join(parts) + "\n"


def _module(name: str) -> Any:
    """None for a module that builds on an optional package which is not installed here."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stateshape"):
            raise
        return None


def public_names(module: Any) -> list[str]:
    """Classes and functions that the module itself defines and documents, in its order."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    ]


def _directive(name: str, thing: Any) -> str:
    import stateshape

    kind = "autoexception" if inspect.isclass(thing) and issubclass(thing, Exception) else "autoclass"
    kind = "autofunction" if inspect.isfunction(thing) else kind
    # a name of the package itself is linked to there
    is_second = name.count(".") > 1 and name.rpartition(".")[2] in stateshape.__all__
    options = "\n   :no-index:" if is_second else ""
    return f"```{{eval-rst}}\n.. {kind}:: {name}{options}\n```"


# Docstrings are plain text, not reStructuredText


def plain_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Code in backticks is set as code, indented lines as they stand, and nothing else is markup. Runs before napoleon."""
    text = "\n".join(lines)
    pieces = re.split(r"(`[^`\n]+`)", text)
    shown = [f"`{piece}`" if piece.startswith("`") and len(piece) > 2 else _literal(piece) for piece in pieces]
    lines[:] = _blocks("".join(shown).splitlines())
    if what in ("attribute", "property"):
        app.env.temp_data[name] = list(lines)


def kept_attribute(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """An attribute's docstring is prose here; napoleon takes its words before the first colon for a type. Runs after it."""
    if what in ("attribute", "property"):
        lines[:] = app.env.temp_data.pop(name)


def _literal(text: str) -> str:
    return re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", text.replace("`", "'"))


SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:", "Example:", "Examples:")


def _blocks(lines: list[str]) -> list[str]:
    """Indented paragraphs become literal blocks, but for the ones that napoleon reads."""
    out: list[str] = []
    is_code = in_section = False
    for line in lines:
        if line.strip():
            indented = line.startswith(" ")
            in_section = line.strip().startswith(SECTIONS) or (in_section and indented)
            if (indented and not in_section) != is_code:
                is_code = not is_code
                out += ["", "::", ""] if is_code else [""]
        out.append(_unescaped(line) if is_code else line)
    return [*out, ""]


def _unescaped(line: str) -> str:
    return re.sub(r"\\([*|\\_])", r"\1", line).replace("``", "`")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", write_pages)
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
    app.connect("autodoc-process-docstring", kept_attribute, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
