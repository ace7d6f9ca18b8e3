"""``workbench list`` and ``workbench show``."""

import textwrap
from pathlib import Path

from workbench import catalog
from workbench.controls import Knob
from workbench.paper import Method, Paper

PACKAGE = Path(catalog.__file__).parent
ROOT = PACKAGE.parent


def show_all(markdown: bool = False) -> int:
    """Every paper in a line."""
    rows = [_state(paper) for paper in catalog.papers()]
    if markdown:
        print("| paper | chapter | year | methods | lesson | tests | recorded |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for paper, state in zip(catalog.papers(), rows, strict=True):
            lesson = f"[lesson]({paper.notebook})" if state["lesson"] == "yes" else "no"
            methods = ", ".join(f"`{method.name}`" for method in paper.methods)
            cells = [f"[{paper.title}]({paper.url})", paper.chapter, paper.year, methods, lesson, state["tests"]]
            print("| " + " | ".join(map(str, [*cells, state["recorded"]])) + " |")
        return 0
    print("\n".join(aligned(rows)))
    return 0


def show_one(slug: str) -> int:
    """Everything that a paper's definition says, and what of it runs on this machine."""
    from workbench import measure  # brings pandas, which list can do without

    paper = catalog.paper(slug)
    device = measure.pick_device()
    print(f"{paper.title} ({paper.authors}, {paper.year})\n{paper.url}\n\n{_wrapped(paper.idea)}\n")
    print(_wrapped(f"When to take it: {paper.take_when}", "  "))
    print(_wrapped(f"When not: {paper.leave_when}", "  ") + "\n")
    if (recorded := measure.recorded(slug)) is not None:
        print(f"from which size on it pays, recorded on {measure.machine_line(recorded.attrs['provenance'])}")
        print("\n".join(_wrapped(str(each), "  ") for each in measure.crossovers(recorded)) + "\n")
    for method in paper.methods:
        print("\n".join(_described(method, device)) + "\n")
    for study in paper.studies:
        print(_wrapped(f"study {study.name}: {study.question}", "  "))
    if paper.claims:
        print("claims")
    for claim in paper.claims:
        print(_wrapped(f"{claim.name}: {claim.statement} Reported: {claim.reported} ({claim.where}).", "  "))
        must = f"must hold at scale {' and '.join(claim.must_hold)}" if claim.must_hold else "shown, not judged"
        print(_wrapped(f"Here: {claim.how}; {must}. {claim.caveat}".strip(), "    "))
    print(f"\n{paper.citation}")
    return 0


def aligned(rows: list[dict[str, str]], right: tuple[str, ...] = ()) -> list[str]:
    """Lines of a table with a heading; the columns named in ``right`` are aligned to the right."""
    if not rows:
        return []
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(cells: dict[str, str]) -> str:
        padded = (cells[n].rjust(widths[n]) if n in right else cells[n].ljust(widths[n]) for n in names)
        return "  ".join(padded).rstrip()

    return [line(dict(zip(names, names, strict=True))), *map(line, rows)]


def _state(paper: Paper) -> dict[str, str]:
    there = {
        "lesson": ROOT / paper.notebook,
        "tests": ROOT / "tests" / paper.chapter / paper.slug / "test_paper.py",
        "recorded": PACKAGE / "recorded" / f"{paper.slug}.json",
    }
    return {
        "slug": paper.slug,
        "chapter": paper.chapter,
        "year": str(paper.year),
        "methods": ", ".join(method.name for method in paper.methods),
        **{word: "yes" if path.exists() else "no" for word, path in there.items()},
        "title": paper.title,
    }


def _described(method: Method, device: str) -> list[str]:
    dtype = "bfloat16" if device == "cuda" else "float32"
    example = method.example(64, device=device, dtype=dtype)
    lines = [f"{method.name}: {method.idea}"]
    for word, knobs in (("knobs", method.knobs), ("shape of the example", method.shape_knobs)):
        lines += [f"  {word}", *(_wrapped(_knob(knob), "    ") for knob in knobs.values())] if knobs else []
    lines.append(f"  implementations, with {dtype} on {device}")
    for name in method.implementations:
        reasons = method.why_not(name, *example.inputs.values(), **example.options)
        lines.append(_wrapped(f"{name}: {'runs' if not reasons else 'does not run. ' + ' '.join(reasons)}", "    "))
    return lines


def _knob(knob: Knob) -> str:
    return f"{knob.name} = {knob.default}: {knob.help} Allowed: {knob.allowed}."


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent + "  " * bool(indent))
