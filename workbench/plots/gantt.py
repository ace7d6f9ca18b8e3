"""A timeline as a Gantt chart: a lane a resource, a bar a task, hatched where the resource stands still."""

from bokeh.models import ColumnDataSource, HoverTool, LegendItem, Range1d
from bokeh.plotting import figure

from workbench.models.timeline import Timeline
from workbench.plots.axes import spoken
from workbench.plots.looks import colors_of
from workbench.plots.style import INK, arrange, blank, legend_below, note, themed

ROW = 46  # pixels of a resource
BAR = 0.62  # of a lane's height, for all of its servers


def gantt(timeline: Timeline, *, unit: str = "ms", critical: bool = True, machine: str = "") -> figure:
    """Bars from start to end, coloured by the tasks' kind; those of the critical path have an outline.

    A resource's name says which part of the time it works; where it stands still its lane is hatched. A
    resource with several servers has a narrower lane for each. ``unit`` is that of the durations.
    """
    names = {resource: f"{resource} ({timeline.utilisation(resource):.0%})" for resource in timeline.servers}
    made = blank(
        "", f"time ({unit})", "", height=120 + ROW * max(1, len(names)), y_range=list(reversed(names.values())),
        x_range=Range1d(0, 1.02 * timeline.makespan or 1.0),
    )  # fmt: skip
    legend = legend_below(made)
    spans = list(timeline.spans.values())
    path = {span.task.name for span in timeline.critical_path()} if critical else set()
    kinds = dict.fromkeys(span.task.kind or span.task.resource for span in spans)
    _standing_still(made, timeline, names, unit)
    places = {name: place for resource in names for name, place in timeline.places(resource).items()}
    for kind, color in colors_of(kinds).items():
        own = [span for span in spans if (span.task.kind or span.task.resource) == kind]
        on_path = [span.task.name in path for span in own]
        servers = [timeline.servers[span.task.resource] for span in own]
        rows = [
            (names[span.task.resource], _offset(places[span.task.name], count))
            for span, count in zip(own, servers, strict=True)
        ]
        source = ColumnDataSource(
            {
                "y": rows,
                "height": [BAR / count for count in servers],
                "left": [span.start for span in own],
                "right": [span.end for span in own],
                "time": [span.end - span.start for span in own],
                "task": [span.task.name for span in own],
                "line": [INK["neutral"] if found else color for found in on_path],
                "width": [2.5 if found else 0.5 for found in on_path],
                "path": ["on the critical path" if found else "" for found in on_path],
            },
            name=kind,
        )
        bars = made.hbar(
            y="y", left="left", right="right", height="height", source=source, fill_color=color, fill_alpha=0.75,
            line_color="line", line_width="width",
        )  # fmt: skip
        legend.items.append(LegendItem(label=kind, renderers=[bars]))
        words = [("", "@task @path"), ("from", f"@left{{number}} {unit}"), ("for", f"@time{{number}} {unit}")]
        made.add_tools(HoverTool(renderers=[bars], tooltips=words, formatters=spoken("@left", "@time")))
    arrange(legend)
    made.ygrid.grid_line_color = None
    note(made, machine)
    return themed(made, "neutral")


def _offset(place: int, servers: int) -> float:
    """How far below the middle of its lane a server's bar stands, in lanes; the first one is the upmost."""
    return BAR * (0.5 - (place + 0.5) / servers)


def _standing_still(made: figure, timeline: Timeline, names: dict[str, str], unit: str) -> None:
    gaps = [(name, timeline.servers[each], *gap) for each, name in names.items() for gap in timeline.gaps(each)]
    source = ColumnDataSource(
        {
            "y": [(name, _offset(server, count)) for name, count, server, _, _ in gaps],
            "height": [BAR / count for _, count, _, _, _ in gaps],
            "left": [start for _, _, _, start, _ in gaps],
            "right": [end for _, _, _, _, end in gaps],
            "time": [end - start for _, _, _, start, end in gaps],
        },
        name="idle",
    )
    bars = made.hbar(
        y="y", left="left", right="right", height="height", source=source, fill_color=INK["neutral"], fill_alpha=0.06,
        line_color=None, hatch_pattern="/", hatch_color=INK["neutral"], hatch_alpha=0.3, hatch_scale=12, name="idle",
    )  # fmt: skip
    made.legend[0].items.append(LegendItem(label="idle", renderers=[bars]))
    words = [("", "idle"), ("from", f"@left{{0,0.###}} {unit}"), ("for", f"@time{{0,0.###}} {unit}")]
    made.add_tools(HoverTool(renderers=[bars], tooltips=words))
