"""Writes a new plugin package, from the files in ``template/``.

These files are the package ``fashionbatch-hello`` with a component of every kind. A new one gets
its own name in place of ``hello`` and only what its kinds need: of each Python file the definitions
that are reachable from the chosen hooks and tests, and the imports that those use; of the README
the rows of its kinds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fashionbatch import plugins
from fashionbatch.errors import OutputExistsError, UnknownNameError, UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def create(name: str, kinds: Sequence[str], folder: Path | None = None) -> Path:
    """Writes the package.

    Args:
        name: of the plugin: lower case letters and digits, with single ``-``. The package is called
            ``fashionbatch-NAME``, its module ``fashionbatch_NAME``.
        kinds: keys of :data:`fashionbatch.plugins.KINDS`, one component of each.
        folder: where it goes, ``fashionbatch-NAME`` by default; must be new or empty.

    Returns:
        the folder.

    Raises:
        UsageError: the name cannot be used, or there are no kinds.
        UnknownNameError: there is no such kind.
        OutputExistsError: there is something at the folder.

    Example:
        >>> create("colours", ("optimizer",))  # doctest: +SKIP
        PosixPath('fashionbatch-colours')
    """
    if not _NAME.fullmatch(name) or name.startswith("fashionbatch"):
        raise UsageError(
            f"a plugin's name is lower case letters and digits with single '-', such as 'colours' "
            f"for the package fashionbatch-colours, not {name!r}"
        )
    for kind in kinds:
        if kind not in plugins.KINDS:
            raise UnknownNameError("kind of component", kind, plugins.KINDS)
    if not kinds:
        raise UsageError(f"name at least one kind: {', '.join(plugins.KINDS)}")
    folder = folder or Path(f"fashionbatch-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(f"{folder} exists already: name another folder with -o")
    for path, text in render(name, kinds).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def render(name: str, kinds: Collection[str]) -> dict[str, str]:
    """The package's files: path within its folder, with ``/``, → text."""
    texts = dict(_files(resources.files("fashionbatch") / "template"))
    hooks = _chosen(texts["module/plugin.py"], kinds)
    rendered = {}
    for path, text in texts.items():
        if path == "module/components.py":
            text = _chosen(text, kinds, named=_words(ast.parse(hooks)))
        elif path.endswith(".py"):
            text = _chosen(text, kinds)
        elif path == "README.md":
            rows = re.compile(r"\| (\w+) \| `hello-.*\n")
            text = rows.sub(lambda row: row[0] if row[1] in kinds else "", text)
        path = path.replace("module/", "src/fashionbatch_hello/")
        rendered[_named(path, name)] = _named(text, name)
    return rendered


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.startswith((".", "__pycache__")):  # what tools leave
            continue
        if entry.is_file():
            yield prefix + entry.name, entry.read_text(encoding="utf-8")
        else:
            yield from _files(entry, f"{prefix}{entry.name}/")


def _named(text: str, name: str) -> str:
    """The template's text with the plugin's name: ``HelloNet``, ``hello_halves``, ``hello-net``."""
    text = text.replace("Hello", "".join(part.capitalize() for part in name.split("-")))
    text = re.sub(r"hello(?=_)|(?<=_)hello", name.replace("-", "_"), text)
    return text.replace("hello", name)


def _chosen(source: str, kinds: Collection[str], *, named: Collection[str] = ()) -> str:
    """A module without what the kinds do not need.

    Args:
        source: of the module.
        kinds: whose hooks and tests are kept, and what these need.
        named: further definitions to keep.
    """
    body = ast.parse(source).body
    wanted: set[str] = set(named)
    kept: set[int] = set()
    while True:
        more = {
            number
            for number, node in enumerate(body)
            if number not in kept and _is_wanted(node, kinds, wanted)
        }
        if not more:
            break
        kept |= more
        wanted |= {word for number in more for word in _words(body[number])}
    used = {name for number in kept for name in _identifiers(body[number])}
    lines = source.splitlines(keepends=True)
    text, end, gap = "", 0, ""
    for number, node in enumerate(body):
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        before = "".join(lines[end:first])
        statement = "".join(lines[first : node.end_lineno])
        end = node.end_lineno or 0
        if isinstance(node, ast.Import | ast.ImportFrom):
            statement = _used(node, statement, used)
        elif number not in kept:
            continue
        gap = max(gap, before, key=len)  # a section of imports may have lost its first
        if statement:
            text, gap = text + gap + statement, ""
    return text


def _is_wanted(node: ast.stmt, kinds: Collection[str], wanted: Collection[str]) -> bool:
    if isinstance(node, ast.Expr):  # the module's docstring
        return True
    names = [getattr(node, "name", ""), *(getattr(t, "id", "") for t in _targets(node))]
    for name in filter(None, names):
        kind = re.match(rf"(?:test|fashionbatch)_({'|'.join(plugins.KINDS)})", name)
        mine = kind[1] in kinds if kind else name.startswith(("test_", "__"))
        if mine or (name in wanted and not kind):
            return True
    return False


def _targets(node: ast.stmt) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else []


def _words(node: ast.AST) -> set[str]:
    """Identifiers and fixtures that it uses, and what its strings name (``"module:Name"``)."""
    words = _identifiers(node)
    for part in ast.walk(node):
        if isinstance(part, ast.arg):
            words.add(part.arg)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            words.update(re.findall(r":(\w+)$", part.value))
    return words


def _identifiers(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _used(node: ast.Import | ast.ImportFrom, text: str, used: Collection[str]) -> str:
    """The import with those of its names that are used; empty without any."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return text
    names = [alias for alias in node.names if alias.name == "*" or _bound(alias) in used]
    if len(names) == len(node.names):
        return text
    if not names:
        return ""
    node.names = names
    return ast.unparse(node) + "\n"


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]
