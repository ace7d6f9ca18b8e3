"""``workbench check``, as a person uses it."""

from conformance.specimens.wrong import WRONG
from workbench import catalog
from workbench.cli import main
from workbench.conformance import CHECKS


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one command."""
    return main(arguments), *capsys.readouterr()


def fails(capsys, *arguments):
    """The one sentence of a command that must fail."""
    code, printed, said = run(capsys, *arguments)
    assert code == 2 and not printed and said.startswith("workbench: ")
    return said


def test_check_runs_on_a_method_of_ones_own(capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from conformance.specimens.sound import ROWS as twice\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, printed, _ = run(capsys, "check", "mine:twice", "--only", "repeatable", "--device", "cpu")
    assert code == 0 and printed.startswith("rows: Rows")
    assert "+  a_call_is_repeatable" in printed and "+  an_example_is_repeatable" in printed
    assert "not a Method" in fails(capsys, "check", "mine:number")
    assert "not a Method" in fails(capsys, "check", "mine:nothing")
    assert "No module" in fails(capsys, "check", "nowhere:nothing")


def test_check_fails_with_the_reason(capsys, monkeypatch):
    ((wrong, _),) = WRONG["every_option"]
    monkeypatch.setattr(catalog, "method", lambda name: wrong)
    code, printed, _ = run(capsys, "check", "anything", "--only", "every_option", "--device", "cpu")
    assert code == 1 and "X  every_option" in printed and "minus" in printed and "1 failed." in printed


def test_check_explains_what_it_asks(capsys):
    code, printed, _ = run(capsys, "check", "--explain")
    assert code == 0
    assert all(name in printed and check.contract.strip() in printed for name, check in CHECKS.items())
    assert "Name the method" in fails(capsys, "check")
    assert "--explain" in fails(capsys, "check", "toy", "--only", "colour")
