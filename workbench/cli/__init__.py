"""The command line: ``workbench list | show | bench | check | study | serve | lab | run``.

An error is one sentence on stderr and exit code 2. Nothing heavy is imported before a command needs it.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from workbench import catalog, controls
from workbench.paper import Paper


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"workbench: {message.rstrip('.')}. See {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Letters that the terminal or file does not have are replaced."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = vars(_parser(arguments).parse_args(arguments))
        return options.pop("command")(**options) or 0
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        sentence = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
        print(f"workbench: {sentence}", file=sys.stderr)
        return 2


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="workbench", description="Take an efficient-Transformer paper apart.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser, required=True)

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(command=run)
        return added

    listing = command("list", _list, "The papers, with their methods and their state.")
    listing.add_argument("--markdown", action="store_true", help="as the table that the README shows")

    showing = command("show", _show, "One paper: its idea, methods, knobs, implementations and claims.")
    showing.add_argument("slug", help="the paper's name, as list prints it")

    bench = command("bench", _bench, "The recorded measurements; with --live, measurements made here and now.")
    bench.add_argument("slug", nargs="?", help="the paper's name; without it, all that was recorded")
    bench.add_argument("--live", action="store_true", help="measure here; SLUG --live --help lists the knobs")
    bench.add_argument("--record", action="store_true", help="make the paper's recordings here and keep them")
    bench.add_argument("--host", action="store_true", help="measure what a call costs the host; --record keeps it")
    if bench_slug := _slug_to_measure(arguments):
        _add_live_flags(bench, bench_slug)

    study = command("study", _study, "A paper's whole runs: a list of them, or with a name one of them, here and now.")
    study.add_argument("slug", help="the paper's name, as list prints it")
    study.add_argument("name", nargs="?", help="the study's name; SLUG NAME --help lists its knobs")
    study.add_argument("--recorded", action="store_true", help="show what was recorded instead of running it")
    if named := _study_named(arguments):
        _add_study_flags(study, *named)

    checking = command("check", _check, "The conformance suite on a method, of the catalog's or of one's own.")
    checking.add_argument("name", nargs="?", help="module:name of a method or paper, or a name that list prints")
    checking.add_argument("--only", default="", help="checks with this in their names")
    checking.add_argument("--device", default="auto", help="auto, cpu or cuda")
    checking.add_argument("--explain", action="store_true", help="what the checks ask: the contract of a method")

    serving = command("serve", _serve, "The dashboard, on this machine.")
    serving.add_argument("--port", type=int, default=5006, help="5006 when not given")
    serving.add_argument("--show", action="store_true", help="open it in a browser")

    command("lab", _lab, "JupyterLab on the notebooks.")

    running = command("run", _run, "Execute a notebook from top to bottom.")
    running.add_argument("notebook", help="a path, or a paper's name")
    running.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                         dest="parameters", help="such as: -p scale ci -p device cpu")  # fmt: skip
    running.add_argument("--output", help="where to write the executed notebook; nowhere when not given")
    return parser


def _study_named(arguments: Sequence[str]) -> tuple[str, str] | None:
    """The study whose knobs become flags: ``study SLUG NAME``, before any flag."""
    named = len(arguments) > 2 and arguments[0] == "study" and not any(word.startswith("-") for word in arguments[1:3])
    return (arguments[1], arguments[2]) if named else None


def _add_study_flags(parser: argparse.ArgumentParser, slug: str, name: str) -> None:
    study = catalog.paper(slug).study(name)
    parser.add_argument("--size", default="laptop", choices=("ci", "laptop", "gpu"), help="laptop when not given")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="0 when not given")
    parser.add_argument("--record", action="store_true", help="keep the rows in the package, as what was recorded")
    parser.add_argument("--output", help="write the rows as JSON, with the machine they come from")
    group = parser.add_argument_group("knobs", study.question)
    for name, knob in study.knobs.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_parse_with([knob]),
            dest=f"knobs.{name}",
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{knob.help} Allowed: {knob.allowed}. Default: that of the size.".replace("%", "%%"),
        )


def _slug_to_measure(arguments: Sequence[str]) -> str | None:
    """The paper whose knobs become flags: only ``bench SLUG --live`` has any."""
    if arguments[:1] != ["bench"] or "--live" not in arguments:
        return None
    return next((word for word in arguments[1:] if not word.startswith("-")), None)


def _add_live_flags(bench: argparse.ArgumentParser, slug: str) -> None:
    paper = catalog.paper(slug)
    live = bench.add_argument_group("with --live")
    methods = [method.name for method in paper.methods]
    live.add_argument("--method", action="append", choices=methods, metavar="NAME", dest="methods",
                      help=f"one of {', '.join(methods)}; may be repeated; all when not given")  # fmt: skip
    live.add_argument("--implementation", action="append", metavar="NAME", dest="implementations",
                      help="reference, fast or a baseline; may be repeated; all when not given")  # fmt: skip
    live.add_argument("--direction", action="append", choices=("forward", "backward"), dest="directions",
                      help="may be repeated; both when not given")  # fmt: skip
    live.add_argument("--sizes", default="256,512,1024,2048", help="such as 256,512 (tokens or rows)")
    live.add_argument("--device", default="auto", help="auto, cpu or cuda")
    live.add_argument("--dtype", default="float32", choices=("float64", "float32", "bfloat16", "float16"))
    live.add_argument("--seconds", type=float, default=0.3, help="for each measurement; 0.3 when not given")
    live.add_argument("--time-limit", type=float, default=10.0, help="seconds that a single call may take; 10")
    live.add_argument("--output", help="write the rows as JSON, with the machine they come from")
    groups = {title: bench.add_argument_group(f"{title} (with --live)") for title in ("shape", "options")}
    for name, (titles, knobs) in _knobs_by_name(paper).items():
        groups[titles[0]].add_argument(
            f"--{name.replace('_', '-')}",
            type=_parse_with(knobs),
            dest="+".join(titles) + f".{name}",
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=" ".join(f"{each.help} Allowed: {each.allowed}. Default: {each.default}." for each in knobs)
            .replace("%", "%%"),
        )  # fmt: skip


def _knobs_by_name(paper: Paper) -> dict[str, tuple[list[str], list[controls.Knob]]]:
    """Every name with what it sets ("shape", "options" or both: one flag then sets both) and its distinct knobs."""
    found: dict[str, tuple[list[str], list[controls.Knob]]] = {}
    for title, kind in (("shape", "shape_knobs"), ("options", "knobs")):
        for method in paper.methods:
            for name, knob in getattr(method, kind).items():
                titles, knobs = found.setdefault(name, ([], []))
                titles.extend({title}.difference(titles))
                knobs.extend([] if knob in knobs else [knob])
    return found


def _parse_with(knobs: Sequence[controls.Knob]):
    """A value that one of the knobs takes; the methods that it is none for refuse it themselves."""

    def parse(text: str):
        for knob in knobs:
            try:
                return knob.parse(text)
            except ValueError as error:
                refused = error
        raise argparse.ArgumentTypeError(str(refused))

    return parse


def _list(**options) -> int:
    from workbench.cli import papers

    return papers.show_all(**options)


def _show(**options) -> int:
    from workbench.cli import papers

    return papers.show_one(**options)


def _bench(slug: str | None, live: bool, record: bool, host: bool, **options) -> int:
    from workbench.cli import bench

    if host and live:
        raise ValueError("Choose one: --host measures the host, --live the device.")
    if host:
        return bench.measure_host(slug, record)
    if (live or record) and slug is None:
        raise ValueError(f"Name the paper to measure: workbench bench SLUG --{'live' if live else 'record'}.")
    if record:
        bench.record_here(slug)
    if not live:
        return bench.show_recorded(slug)
    grouped = {"shape": {}, "options": {}}
    for name, value in options.items():
        titles, _, knob = name.rpartition(".")
        for title in filter(None, titles.split("+")):
            grouped[title][knob] = value
    plain = {name: value for name, value in options.items() if "." not in name}
    return bench.measure_here(slug, **grouped, **plain)


def _study(slug: str, name: str | None, recorded: bool, **options) -> int:
    from workbench.cli import study

    if name is None:
        return study.show_studies(slug)
    if recorded:
        return study.show_recorded(slug, name)
    knobs = {key.partition(".")[2]: value for key, value in options.items() if "." in key}
    return study.run_here(slug, name, knobs=knobs, **{key: value for key, value in options.items() if "." not in key})


def _check(name: str | None, only: str, device: str, explain: bool) -> int:
    from workbench.cli import check

    if explain:
        return check.explain(only)
    if name is None:
        raise ValueError("Name the method to check: workbench check module:name.")
    return check.check_methods(name, only, device)


def _serve(**options) -> int:
    from workbench.cli import launch

    return launch.serve(**options)


def _lab() -> int:
    from workbench.cli import launch

    return launch.lab()


def _run(**options) -> int:
    from workbench.cli import launch

    return launch.run(**options)
