"""Lines of code shown from the source itself, so that text and code cannot drift apart."""

import ast
import importlib.util
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from workbench_widgets import page

ROOT = Path(__file__).parents[2]

# JupyterLab's own colours for code fall short of the contrast that small text needs (4.5, WCAG AA), of its comments in
# both themes: a third of the colour of the text itself is mixed in.
COLOURS = """
<style>
.wb-code pre {margin: 0; font-family: var(--jp-code-font-family, monospace); padding: .6em .8em; overflow-x: auto;
              font-size: .88em; line-height: 1.45; background: rgba(128,128,128,.09); border-radius: 4px;
              white-space: pre; overflow-wrap: normal; word-break: normal}
.wb-code .where {font-size: .8em; opacity: .8; margin-bottom: .2em}
.wb-code .k, .wb-code .kn, .wb-code .ow, .wb-code .kc {--own: var(--jp-mirror-editor-keyword-color, #008000);
                                                      font-weight: 600}
.wb-code .c1, .wb-code .sd {--own: var(--jp-mirror-editor-comment-color, #408080); font-style: italic}
.wb-code .s1, .wb-code .s2, .wb-code .si, .wb-code .sa {--own: var(--jp-mirror-editor-string-color, #ba2121)}
.wb-code .mi, .wb-code .mf {--own: var(--jp-mirror-editor-number-color, #666)}
.wb-code .nf, .wb-code .nc {--own: var(--jp-mirror-editor-def-color, #00f)}
.wb-code pre span {color: color-mix(in srgb, var(--own, currentColor) 65%, currentColor)}
.wb-code .hll {display: block; background: rgba(230,159,0,.22);
               box-shadow: -.5em 0 0 #E69F00}
</style>"""


def source_lines(function: Callable | str, first: str | None = None, last: str | None = None) -> tuple[str, str]:
    """(code, where it stands) of ``function``, or of the part of it from the line that holds ``first`` to the next one
    that holds ``last`` (without ``last``: that line alone; ``last=""``: to the end).

    ``"module:name"`` names a function without importing it: a GPU kernel can be read where it could not run.
    Raises ``ValueError`` when a line is not found: then the lesson no longer fits the code.
    """
    return excerpt(function, first, last)[:2]


def excerpt(function: Callable | str, first: str | None = None, last: str | None = None) -> tuple[str, str, int]:
    """As ``source_lines``, and the number in its file of the first line that is shown."""
    name, path, lines, number = _located(function)
    start, stop = 0, len(lines)
    if first is not None:
        start = _find(lines, first, 0, name)
        if last is None:
            stop = start + 1
        elif last:
            stop = _find(lines, last, start, name) + 1
    shown = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    where = f"{shown}, line {number + start}" + (f" to {number + stop - 1}" if stop - start > 1 else "")
    return textwrap.dedent("".join(lines[start:stop])).rstrip(), where, number + start


def _located(function: Callable | str) -> tuple[str, Path, list[str], int]:
    """(name, file, lines, number of the first line)."""
    if not isinstance(function, str):
        function = inspect.unwrap(function)
        lines, number = inspect.getsourcelines(function)
        return function.__qualname__, Path(inspect.getsourcefile(function)), lines, number
    module, _, name = function.partition(":")
    path = Path(importlib.util.find_spec(module).origin)
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return name, path, text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno], node.lineno
    raise ValueError(f"{module} has no function {name!r}: the lesson must follow the code.")


def _find(lines: list[str], text: str, start: int, name: str) -> int:
    for index in range(start, len(lines)):
        if text in lines[index]:
            return index
    raise ValueError(f"The source of {name} has no line with {text!r}: the lesson must follow the code.")


def code_html(code: str, where: str, here: int | None = None) -> str:
    """Highlighted code in the colours of the page's theme; a pointer stands at line ``here``, counted from 1."""
    pointed = [] if here is None else [here]
    body = highlight(code, PythonLexer(), HtmlFormatter(nowrap=True, hl_lines=pointed))
    return f'{COLOURS}<div class="wb-code"><div class="where">{page.escape(where)}</div><pre>{body}</pre></div>'


def show_source(
    function: Callable | str, first: str | None = None, last: str | None = None, *, equation: str = "", note: str = ""
) -> None:
    """Show lines of ``function`` (chosen as in ``source_lines``); with ``equation`` (LaTeX) beside it.

    ``note`` is a sentence under the equation; it may hold HTML and inline LaTeX.
    """
    code = code_html(*source_lines(function, first, last))
    if equation or note:
        if r"\\" in equation:
            equation = rf"\begin{{gathered}} {equation} \end{{gathered}}"
        left = (f"$${equation}$$" if equation else "") + (f"<div>{note}</div>" if note else "")
        code = f'<div class="wb-columns"><div>{left}</div>{code}</div>'
    page.show_html(code)
