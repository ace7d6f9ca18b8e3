"""Time, peak memory, error and distance to the roofline. The only place of the house that times anything.

The rule: nothing is timed before its result was compared with the reference, in float64, on the same inputs. A wrong
result gets no time. ``sweep`` yields one row after the other, so that a caller can draw, and stop, while it runs;
``frame`` makes a tidy table of rows, ``save`` writes them down together with the machine that they came from.
"""

from workbench.measure.correctness import Check, relative_error
from workbench.measure.cost_sheets import Line, cost_sheet, line
from workbench.measure.crossover import Crossover, crossovers
from workbench.measure.host import host_times, record_host, recorded_host
from workbench.measure.machines import Machine, known_machines, this_machine
from workbench.measure.memory import memory_limit, peak_bytes, saved_bytes
from workbench.measure.pareto import hypervolume, pareto_front
from workbench.measure.recording import record
from workbench.measure.records import COLUMNS, frame, load, machine, machine_line, recorded, save
from workbench.measure.roofline import Ceilings, ceilings
from workbench.measure.rows import estimate_bytes, measure
from workbench.measure.sampling import (
    SamplingRun,
    dit_xl_2,
    record_sampling,
    recorded_sampling,
    sampling,
    sampling_runs,
)
from workbench.measure.studies import (
    StudyRun,
    load_study,
    record_study,
    recorded_study,
    save_study,
    study_frame,
)
from workbench.measure.sweeps import sweep
from workbench.measure.timing import Cancelled, Timing, pick_device, time_call, time_in_turns, verdict

__all__ = [
    "COLUMNS",
    "Cancelled",
    "Ceilings",
    "Check",
    "Crossover",
    "Line",
    "Machine",
    "SamplingRun",
    "StudyRun",
    "Timing",
    "ceilings",
    "cost_sheet",
    "crossovers",
    "dit_xl_2",
    "estimate_bytes",
    "frame",
    "host_times",
    "hypervolume",
    "known_machines",
    "line",
    "load",
    "load_study",
    "machine",
    "machine_line",
    "measure",
    "memory_limit",
    "pareto_front",
    "peak_bytes",
    "pick_device",
    "record",
    "record_host",
    "record_sampling",
    "record_study",
    "recorded",
    "recorded_host",
    "recorded_sampling",
    "recorded_study",
    "relative_error",
    "sampling",
    "sampling_runs",
    "save",
    "save_study",
    "saved_bytes",
    "study_frame",
    "sweep",
    "this_machine",
    "time_call",
    "time_in_turns",
    "verdict",
]
