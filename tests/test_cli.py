"""The command line, as a person uses it: what it prints, and how it fails."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import nbformat
import pytest

from toy import METHOD, PAPER
from workbench import catalog, measure
from workbench.cli import bench, launch, main, papers


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one command."""
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(catalog, "paper", lambda slug: PAPER)
    monkeypatch.setattr(catalog, "papers", lambda: iter([PAPER]))
    monkeypatch.setattr(catalog, "slugs", lambda: {"toy": "attention"})


def fails(capsys, *arguments):
    """The one sentence of a command that must fail."""
    code, printed, said = run(capsys, *arguments)
    assert code == 2 and not printed
    assert said.startswith("workbench: ") and len(said.strip().splitlines()) == 1
    return said.removeprefix("workbench: ").strip()


# --- start-up --------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    """What makes a command slow to start is what it imports: these take seconds, and help needs none of them."""
    code = (
        "import sys\nfrom workbench.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nheavy ="
        " {'torch', 'pandas', 'panel', 'bokeh', 'papermill', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("list", "show", "bench", "study", "check", "serve", "lab", "run"):
        assert command in printed


def test_it_runs_as_a_module():
    ended = subprocess.run([sys.executable, "-m", "workbench"], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("workbench: ") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("fly",), ("list", "--colour"), ("show",), ("serve", "--port", "many")])
def test_bad_usage_is_one_sentence(capsys, arguments):
    fails(capsys, *arguments)


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m workbench show flash_attention_2 | head -1"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "FlashAttention-2" in ended.stdout and not ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_text_arrives_whatever_letters_there_are(monkeypatch, toy, encoding):
    """Into a file on Windows, or where no locale is set: what cannot be written is replaced, the rest is there."""
    monkeypatch.setattr(catalog, "paper", lambda slug: dataclasses.replace(PAPER, idea="All ε → 0, says Grünwald."))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert main(["show", "toy"]) == 0
    sys.stdout.flush()
    printed = sys.stdout.buffer.getvalue().decode(encoding)
    assert "All ε → 0, says Grünwald.".encode(encoding, "replace").decode(encoding) in printed


# --- list, show ------------------------------------------------------------------------------------------------------


def test_list_shows_every_paper_in_a_line(capsys):
    code, printed, _ = run(capsys, "list")
    heading, *lines = printed.splitlines()
    assert code == 0 and heading.split() == [
        "slug", "chapter", "year", "methods", "lesson", "tests", "recorded", "title",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines] == list(catalog.slugs())


def test_list_as_markdown(capsys, toy):
    _, printed, _ = run(capsys, "list", "--markdown")
    assert printed.splitlines()[-1] == (
        "| [A Toy](https://arxiv.org/abs/0000.00000) | attention | 2024 | `toy` | no | no | no |"
    )


def test_show_tells_everything(capsys, toy):
    code, printed, _ = run(capsys, "show", "toy")
    words = " ".join(printed.split())
    assert code == 0
    for said in (
        "https://arxiv.org/abs/0000.00000",
        "Sums need no table.",
        "factor = 1.0: What the result is multiplied with. Allowed: a number from 0 to 4.",
        "sign = plus: The sign of the result. Allowed: one of 'plus', 'minus'.",
        "batch = 1: Rows. Allowed: a whole number from 1 to 8.",
        "fast: runs",
        "absent: does not run. It is not installed. It needs a GPU.",
        "faster: It is faster. Reported: 3 x on a GPU (Table 1).",
        "must hold at scale cpu and gpu",
    ):
        assert said in words


def test_show_of_an_unknown_paper(capsys):
    assert fails(capsys, "show", "polycon") == "No paper is called 'polycon'. Did you mean polycom?"


# --- bench -----------------------------------------------------------------------------------------------------------


def row(implementation, size, median, **settings):
    row = {"method": "toy", "implementation": implementation, "direction": "forward", "size": size, "dtype": "bfloat16",
           "device": "cuda", "factor": 1.0, "sign": "plus", "batch": 2, "status": "ok", "reason": "",
           "median_ms": median, "low_ms": 0.9 * median, "high_ms": 1.1 * median, "repeats": 30, "peak_bytes": 10,
           "flops": 4e9, "bytes": 1e6, "tflops_per_s": 4 / median, "gb_per_s": 1 / median, "floor_ms": 0.1,
           "roofline": 0.1 / median}  # fmt: skip
    return row | settings


def test_the_table_compares_side_by_side():
    too_large = {"status": "too large", "reason": "Needs 3 TiB.", "median_ms": None}
    rows = [row("fast", 128, 0.5), row("reference", 128, 2.0), row("greedy", 128, 0.75), row("fast", 8192, 20.0),
            row("reference", 8192, 1.0, **too_large)]  # fmt: skip
    heading, *lines = (" ".join(line.split()) for line in bench.lines(measure.frame(rows)))
    assert heading == "toy, forward, bfloat16, factor 1, sign plus, batch 2"
    assert lines[:6] == [
        "size implementation ms 20 % to 80 % rate of the limit x reference x greedy",
        "128 fast 0.5 0.45 to 0.55 8 TFLOP/s 20% 4.00 1.50",
        "128 reference 2 1.8 to 2.2 2 TFLOP/s 5%",
        "128 greedy 0.75 0.675 to 0.825 5.33 TFLOP/s 13%",
        "8,192 fast 20 18 to 22 0.2 TFLOP/s 0%",  # nothing there to compare with
        "8,192 reference too large",
    ]
    assert "reference: Needs 3 TiB." in lines


def test_the_table_has_a_block_for_each_group_and_names_what_varies():
    rows = [row("fast", 128, 0.5, group="attention"), row("fast", 128, 1.0, group="attention", batch=4),
            row("fast", 128, 2.0, group="other", bytes=1e12)]  # fmt: skip
    printed = bench.lines(measure.frame(rows))
    assert [line for line in printed if "bfloat16" in line] == [
        "attention, toy, forward, bfloat16, factor 1, sign plus",
        "other, toy, forward, bfloat16, factor 1, sign plus, batch 2",
    ]
    assert any("batch 4" in line for line in printed)
    assert any("GB/s" in line for line in printed[-3:])  # few FLOPs for its bytes


def test_recorded_table_has_the_machine_on_top(capsys, toy, monkeypatch, tmp_path):
    assert "Nothing is recorded for toy" in fails(capsys, "bench", "toy")
    assert "Nothing is recorded for any paper" in fails(capsys, "bench")
    where = {"device": "NVIDIA H200", "cuda": "13.0", "date": "2026-01-01"}
    content = {"provenance": where, "rows": [row("fast", 128, 0.5)]}
    (tmp_path / "toy.json").write_text(json.dumps(content))
    monkeypatch.setattr(measure.records, "RECORDED", tmp_path)
    for arguments in (("bench",), ("bench", "toy")):
        code, printed, _ = run(capsys, *arguments)
        assert code == 0 and printed.splitlines()[0] == "toy, recorded on NVIDIA H200 · 2026-01-01"
        assert "0.45 to 0.55" in printed


LIVE = ("bench", "toy", "--live", "--sizes", "8,16", "--seconds", "0.005")


def test_live_measurement_takes_flags_made_from_knobs(capsys, toy, tmp_path):
    output = tmp_path / "rows.json"
    chosen = ("--implementation", "fast", "--implementation", "reference", "--direction", "forward")
    code, printed, _ = run(capsys, *LIVE, *chosen, "--factor", "2", "--batch", "3", "--output", str(output))
    assert code == 0 and printed.startswith("toy, measured on ")
    assert "factor 2, sign plus, batch 3" in printed and "x reference" in printed
    table = measure.load(output)
    assert len(table) == 4 and set(table["factor"]) == {2.0} and set(table["status"]) == {"ok"}


def test_live_help_lists_the_knobs(capsys, toy):
    code, printed, _ = run(capsys, "bench", "toy", "--live", "--help")
    assert code == 0 and "--factor VALUE" in printed and "Allowed: a number from 0 to 4." in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--factor", "9"), "factor = 9 is not allowed: choose a number from 0 to 4"),
        (("--batch", "x"), "batch = 'x' is not allowed"),
        (("--sizes", "8;16"), "--sizes takes whole numbers"),
        (("--sizes", "0"), "Sizes are whole numbers from 1 on"),
        (("--implementation", "quick"), "No implementation quick here: choose reference, fast"),
        (("--method", "other"), "invalid choice: 'other'"),
        (("--device", "tpu"), "There is no device 'tpu' here"),
        (("--colour", "red"), "unrecognized arguments: --colour red"),
    ],
)
def test_bad_settings_of_a_live_measurement(capsys, toy, arguments, sentence):
    assert sentence in fails(capsys, *LIVE, *arguments)


@pytest.mark.parametrize("slug", catalog.slugs())
def test_every_papers_commands(capsys, slug):
    """Told about, helped with, and measured: small, without baselines, which may have to be compiled first."""
    assert run(capsys, "show", slug)[0] == 0 and run(capsys, "bench", slug)[0] == 0
    code, printed, _ = run(capsys, "bench", slug, "--live", "--help")
    flags = [line.split()[0] for line in printed.splitlines() if line.startswith("  --")]
    assert code == 0 and len(flags) == len(set(flags))
    for method in catalog.paper(slug).methods:
        assert {f"--{name.replace('_', '-')}" for name in (*method.knobs, *method.shape_knobs)} <= set(flags)
    small = ("--sizes", "16", "--seconds", "0.001", "--device", "cpu")
    chosen = ("--implementation", "reference", "--implementation", "fast")
    code, printed, said = run(capsys, "bench", slug, "--live", *small, *chosen)
    assert code == 0, said
    assert printed.startswith(f"{slug}, measured on ") and " wrong " not in printed


def test_a_name_that_shapes_the_example_and_sets_the_method_is_one_flag(capsys, tmp_path):
    """And where the methods' bounds differ, what one of them takes is taken; the one that does not says so."""
    command = ("bench", "taylorseer", "--live", "--sizes", "8", "--seconds", "0.001", "--device", "cpu")
    command += ("--direction", "forward", "--implementation", "fast", "--output", str(tmp_path / "rows.json"))
    methods = ("--method", "taylorseer", "--method", "forecast_modules")
    assert run(capsys, *command, *methods, "--order", "3", "--modules", "2")[0] == 0
    assert measure.load(tmp_path / "rows.json")["order"].tolist() == [3, 3]
    assert run(capsys, *command, *methods, "--order", "0")[0] == 0
    said = fails(capsys, *command, "--method", "refresh_derivatives", "--order", "0")
    assert said == "order = 0 is not allowed: choose a whole number from 1 to 4."


def test_live_needs_a_paper(capsys):
    assert fails(capsys, "bench", "--live").startswith("Name the paper to measure")
    assert "Did you mean polycom" in fails(capsys, "bench", "polycon", "--live")


def test_an_interrupted_measurement_shows_what_it_has(capsys, toy, monkeypatch):
    def interrupted(*arguments, **settings):
        yield measure.measure(METHOD, "fast", METHOD.example(8), budget_s=0.005) | {"size": 8}
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "sweep", interrupted)
    code, printed, said = run(capsys, *LIVE)
    assert code == 0 and "fast" in printed and "stopped after 1 of" in said


# --- serve, lab, run -------------------------------------------------------------------------------------------------


def test_serve_and_lab_start_the_right_program(capsys, monkeypatch):
    started = []
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(launch.signal, "signal", lambda *handler: None)
    monkeypatch.setattr(launch.runpy, "run_module", lambda name, **options: started.append([name, *sys.argv[1:]]))
    assert run(capsys, "serve", "--port", "5100", "--show")[0] == 0
    assert run(capsys, "lab")[0] == 0
    (serve, lab) = started
    assert serve[:2] == ["panel", "serve"] and serve[2].endswith("dashboard")
    assert serve[3:] == ["--address", "localhost", "--port", "5100", "--show"]
    assert lab[:2] == ["jupyter", "lab"] and lab[2].endswith("notebooks")


def test_what_is_started_shares_the_processor_with_others():
    code = "import os; from workbench.cli import launch; print(os.environ['OMP_WAIT_POLICY'])"
    for given, seen in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = os.environ | ({"OMP_WAIT_POLICY": given} if given else {})
        if given is None:
            environment.pop("OMP_WAIT_POLICY", None)
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert printed.stdout.strip() == seen


def test_serve_refuses_a_port_that_cannot_be(capsys):
    assert fails(capsys, "serve", "--port", "70000").startswith("--port = 70000 is not allowed")


@pytest.fixture
def notebook(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("scale = 'laptop'\ncount = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("assert scale == 'ci' and count == 3, (scale, count)"),
    ]
    path = tmp_path / "lesson.ipynb"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return str(path)


def test_run_executes_a_notebook_with_parameters(capsys, notebook, tmp_path):
    output = tmp_path / "out.ipynb"
    code, _, _ = run(capsys, "run", notebook, "-p", "scale", "ci", "-p", "count", "3", "--output", str(output))
    assert code == 0 and output.exists()


def test_run_says_which_cell_failed(capsys, notebook):
    code, _, said = run(capsys, "run", notebook)
    assert code == 2 and "lesson.ipynb failed in cell 2: AssertionError: ('laptop', 1)" in said


def test_run_refuses_a_parameter_that_the_notebook_does_not_have(capsys, notebook):
    said = fails(capsys, "run", notebook, "-p", "scale", "ci", "-p", "colour", "red")
    assert said == "lesson.ipynb has no parameter colour: it has scale, count."


def test_run_refuses_what_is_no_notebook(capsys):
    assert "There is no notebook nowhere.ipynb: name a file or one of" in fails(capsys, "run", "nowhere.ipynb")


def test_aligned_columns():
    rows = [{"name": "a", "count": "1"}, {"name": "long", "count": "200"}]
    assert papers.aligned(rows, right=("count",)) == ["name  count", "a         1", "long    200"]
    assert papers.aligned([]) == []


# --- study -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(measure.studies, "RECORDED", tmp_path)
    return tmp_path


def test_the_studies_of_a_paper(shelf, capsys):
    code, printed, _ = run(capsys, "study", "toy")
    assert code == 0 and "walk: How far does a drunkard come?" in printed
    assert "steps: How many. Allowed: a whole number from 1 to 100. At ci 2, laptop 10, gpu 100." in printed
    assert "recorded: no" in printed


def test_a_study_runs_with_its_knobs_as_flags(shelf, capsys, tmp_path):
    file = tmp_path / "rows.json"
    flags = ("--size", "ci", "--width", "0.5", "--device", "cpu", "--output", str(file))
    code, printed, said = run(capsys, "study", "toy", "walk", *flags)
    assert code == 0 and not said
    assert printed.startswith("A walk, run on ") and "who    step  place (m)" in printed
    assert printed.rstrip().endswith("sober     1          1")
    content = json.loads(file.read_text())
    assert content["run"]["knobs"] == {"steps": 2, "width": 0.5} and len(content["rows"]) == 4


def test_a_study_is_recorded_and_shown(shelf, capsys):
    assert "toy walk was not recorded" in fails(capsys, "study", "toy", "walk", "--recorded")
    run(capsys, "study", "toy", "walk", "--size", "ci", "--device", "cpu", "--record")
    _, printed, _ = run(capsys, "study", "toy", "walk", "--recorded")
    assert "size ci, seed 0, steps 2, width 1.0" in printed and "sober" in printed
    assert "recorded: " in run(capsys, "study", "toy")[1]


def test_an_interrupted_study_keeps_its_rows_and_records_nothing(shelf, capsys, monkeypatch, tmp_path):
    def interrupted(**settings):
        yield {"who": "drunk", "step": 0, "place": 1.0}
        raise KeyboardInterrupt

    study = dataclasses.replace(PAPER.studies[0], run=interrupted, sizes={}, length=None)
    monkeypatch.setattr(catalog, "paper", lambda slug: dataclasses.replace(PAPER, studies=(study,)))
    file = tmp_path / "rows.json"
    code, printed, said = run(capsys, "study", "toy", "walk", "--device", "cpu", "--record", "--output", str(file))
    assert code == 130 and "drunk" in printed and said == "stopped after 1 rows\n"
    assert len(json.loads(file.read_text())["rows"]) == 1 and not (shelf / "studies").exists()


def test_a_study_that_cannot_run_says_why(shelf, capsys):
    assert "has no study 'run': it has walk" in fails(capsys, "study", "toy", "run")
    assert "steps = 0 is not allowed: choose a whole number" in fails(capsys, "study", "toy", "walk", "--steps", "0")
    assert "unrecognized arguments: --colour" in fails(capsys, "study", "toy", "walk", "--colour", "red")


def test_every_studys_flags_can_be_asked_for(capsys):
    for paper in catalog.papers():
        for study in paper.studies:
            code, printed, _ = run(capsys, "study", paper.slug, study.name, "--help")
            assert code == 0 and all(f"--{name.replace('_', '-')}" in printed for name in study.knobs)
