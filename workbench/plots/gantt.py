"""A timeline as a Gantt chart: a row a resource, a bar a task."""

from bokeh.models import ColumnDataSource, HoverTool, LegendItem, Range1d
from bokeh.plotting import figure

from workbench.models.timeline import Timeline
from workbench.plots.style import INK, arrange, blank, colors_of, legend_below, note, themed

ROW = 46  # pixels of a resource


def gantt(timeline: Timeline, *, unit: str = "ms", critical: bool = True, machine: str = "") -> figure:
    """Bars from start to end, coloured by the tasks' kind; those of the critical path have an outline. A resource's
    name says which part of the time it works. ``unit`` is that of the durations.
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
    for kind, color in colors_of(kinds).items():
        own = [span for span in spans if (span.task.kind or span.task.resource) == kind]
        on_path = [span.task.name in path for span in own]
        source = ColumnDataSource(
            {
                "y": [names[span.task.resource] for span in own],
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
            y="y", left="left", right="right", height=0.62, source=source, fill_color=color, fill_alpha=0.75,
            line_color="line", line_width="width",
        )  # fmt: skip
        legend.items.append(LegendItem(label=kind, renderers=[bars]))
        words = [("", "@task @path"), ("from", f"@left{{0,0.###}} {unit}"), ("for", f"@time{{0,0.###}} {unit}")]
        made.add_tools(HoverTool(renderers=[bars], tooltips=words))
    arrange(legend)
    made.ygrid.grid_line_color = None
    note(made, machine)
    return themed(made, "neutral")
