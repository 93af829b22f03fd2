"""``softbench warmup``: what is compiled, what is said of it, and who is harmed by a backend that fails (nobody)."""

import json
import re

import pytest

from softbench.cli import main
from softbench.interface import FUNCTIONS

PLUGIN = """
import json

class Compiling(NumpyBackend):
    dtypes = frozenset({"float32", "float64"})
    outcomes = json.loads(os.environ["OUTCOMES"])

    def kernels(self, ops, dtypes):
        with open(os.environ["ASKED"], "w") as file:
            json.dump([list(ops), list(dtypes)], file)
        return iter([(f"kernel{i}", lambda o=outcome: self.compile_one(o)) for i, outcome in enumerate(self.outcomes)])

    def compile_one(self, outcome):
        if outcome == "crash":
            os._exit(1)
        if isinstance(outcome, str):
            raise RuntimeError(outcome)
        return outcome

class Broken(NumpyBackend):
    def kernels(self, ops, dtypes):
        raise ValueError("no compiler")

class Unmade(NumpyBackend):
    def __init__(self):
        sys.exit(1)
"""


@pytest.fixture
def compiling(plugin, monkeypatch, tmp_path):
    """A backend whose kernels come out as said: kept or not, an error, a crash; returns what it was asked for."""

    def install(*outcomes, **more):
        monkeypatch.setenv("OUTCOMES", json.dumps(outcomes))
        monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
        plugin("compilers", PLUGIN, compiling="Compiling", **more)
        return lambda: json.loads((tmp_path / "asked").read_text())

    return install


def test_warmup_compiles_what_is_named_and_says_how_long_it_took(capsys, compiling):
    asked = compiling(True, True)
    assert main(["warmup", "compiling", "--op", "softmax", "loss", "--dtype", "float16", "float32"]) == 0
    assert asked() == [["softmax", "loss"], ["float32"]]  # halves are computed as float32
    printed = capsys.readouterr()
    assert "compiling: 2 kernels ready after" in printed.out
    assert "[2/2] compiling: kernel1" in printed.err
    assert re.search(r"^compiling: kernel1: \d+\.\d\d s$", printed.err, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compiling", "--op", "softmax", "loss", "--dtype", "float32"],
        ["--op", "softmax", "loss", "compiling", "--dtype", "float32"],
        ["--dtype", "float32", "--op", "softmax", "loss", "compiling"],
        ["--op", "softmax", "--op", "loss", "--dtype", "float32", "compiling"],
    ],
)
def test_warmup_takes_backends_before_and_behind_options(arguments, compiling):
    asked = compiling(True)
    assert main(["warmup", *arguments]) == 0
    assert asked() == [["softmax", "loss"], ["float32"]]


@pytest.mark.processes
def test_warmup_of_nobody_in_particular_is_of_all_that_are_here(capsys, compiling, monkeypatch):
    asked = compiling(True)
    names = dict.fromkeys(("python", "compiling", "no_such"), "")
    monkeypatch.setattr("softbench.cli.warmup.list_backends", lambda: names)
    main(["warmup"])
    assert asked() == [list(FUNCTIONS), ["float32", "float64"]]
    printed = capsys.readouterr().out
    assert "compiling: 1 kernels" in printed
    assert "python: offers nothing" in printed


def test_warmup_says_when_there_is_nothing_to_compile(capsys):
    assert main(["warmup", "python"]) == 0
    assert capsys.readouterr().out == "python: offers nothing to compile ahead\n"


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (("no such instruction", True), ["1 kernels ready after", "1 failed"]),
        ((False, True), ["1 kernels ready after", "1 could not be kept on disk"]),
        ((True, "crash", True), ["1 kernels ready after", "2 failed"]),
    ],
)
def test_warmup_fails_where_later_processes_will_wait(outcomes, words, capsys, compiling):
    compiling(*outcomes)
    assert main(["warmup", "compiling"]) == 1
    printed = capsys.readouterr()
    for word in words:
        assert word in printed.out
    if outcomes[0] == "no such instruction":
        assert "Compiling' of compilers: RuntimeError: no such instruction" in printed.err


@pytest.mark.processes
def test_one_that_fails_harms_no_other(capsys, compiling, monkeypatch):
    compiling(True, broken="Broken", unmade="Unmade")
    names = dict.fromkeys(("unmade", "broken", "compiling"), "")
    monkeypatch.setattr("softbench.cli.warmup.list_backends", lambda: names)
    assert main(["warmup"]) == 1
    printed = capsys.readouterr()
    assert "broken: plugin 'module_of_compilers:Broken' of compilers: ValueError: no compiler" in printed.out
    assert (
        "unmade: backend 'unmade' (plugin 'module_of_compilers:Unmade' of compilers) could not be made" in printed.out
    )
    assert "compiling: 1 kernels ready" in printed.out
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["numbaa"], "did you mean 'numba'"),
        (["numpy", "--op", "softmx"], "did you mean 'softmax'"),
        (["numpy", "--dtype", "float33"], "did you mean 'float32'"),
        (["--op", "softmax", "numbaa"], "'numbaa' is none of"),
        (["--op", "numpy"], "--op numpy: expected one of argmax"),
    ],
)
def test_warmup_of_a_wrong_name(arguments, words, capsys):
    try:
        status = main(["warmup", *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert words in capsys.readouterr().err
