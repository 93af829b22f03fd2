"""Children end with their parent, at their limit, and leave nobody behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from softbench import processes

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.name != "posix", reason="process groups and timers as on POSIX"),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")

PATIENCE = 30.0

# It lets Python handle no signals, as a library's own code does: the lock of the interpreter is never let go.
SPIN = "import ctypes; ctypes.PyDLL(None).pause()"


def gone(pid):
    """Whether a process has ended by now, or does so soon; a zombie has ended."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def code(text):
    return [sys.executable, "-c", textwrap.dedent(text)]


def started(child):
    """The first line that it prints, a number."""
    return int(child.stdout.readline())


# -- running one to its end --------------------------------------------------------------------------------------


def test_output_status_and_input_are_those_of_the_command():
    done = processes.run(
        code("import sys; print(input()); print('e', file=sys.stderr); sys.exit(3)"), limit=60, input="i"
    )
    assert (done.stdout, done.stderr, done.status, done.problem) == ("i\n", "e\n", 3, "exit status 3")


def test_without_a_problem_there_is_none():
    assert processes.run(code(""), limit=60).problem == ""


def test_it_reads_nothing_from_the_terminal():
    assert processes.run(code("import sys; print(repr(sys.stdin.read()))"), limit=60).stdout == "''\n"


def test_output_need_not_be_text():
    done = processes.run(code(r"import sys; sys.stdout.buffer.write(b'a\xff')"), limit=60)
    assert done.stdout == "a\\xff"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_named(number):
    done = processes.run(code(f"import os; os.kill(os.getpid(), {int(number)})"), limit=60)
    assert done.problem == f"ended by {number.name}"


def test_the_child_runs_as_if_started_directly():
    """What Python ignores, or sets for itself, is not handed on to a program that is not Python."""
    assert processes.run(["sh", "-c", "kill -PIPE $$"], limit=60).problem == "ended by SIGPIPE"
    show = "import os, sys; print(sys.flags, sys.path, sorted(os.environ.items()))"
    command = [sys.executable, "-c", show]
    assert processes.run(command, limit=60).stdout == subprocess.run(command, capture_output=True, text=True).stdout


def test_modules_are_those_of_the_parent(monkeypatch, tmp_path):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "only_here.py").write_text("print('found')")
    (tmp_path / "textwrap.py").write_text("raise SystemExit('what lies in the current folder was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "found")])
    command = processes.python("-c", "import textwrap, only_here")
    done = processes.run(command, limit=60, env=processes.environment(ADDED="1"))
    assert (done.stdout, done.problem) == ("found\n", "")
    assert processes.environment(ADDED="1")["ADDED"] == "1"


def test_what_is_passed_on_arrives():
    read, write = os.pipe()
    with processes.start(code(f"import os; os.write({write}, b'here')"), limit=60, pass_fds=[write]) as child:
        os.close(write)
        assert child.wait() == 0
        assert os.read(read, 10) == b"here"
    os.close(read)


def test_a_program_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no program 'no-such-program'"):
        processes.start(["no-such-program"], limit=60)
    with pytest.raises(FileNotFoundError, match="no program 'sh'"):
        processes.start(["sh"], limit=60, env={"PATH": "/nowhere"})


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan")])
def test_without_a_limit_nothing_is_started(limit):
    with pytest.raises(ValueError, match="limit must be a positive number of seconds"):
        processes.start(code(""), limit=limit)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (0, ""),
        (1, "exit status 1"),
        (-11, "ended by SIGSEGV"),
        (-14, "ended at its time limit"),
        (-99, "ended by signal 99"),
    ],
)
def test_how_a_process_ended(status, sentence):
    assert processes.describe(status) == sentence


# -- the limit -------------------------------------------------------------------------------------------------


def test_what_was_printed_before_the_limit_is_kept():
    done = processes.run(code("print('before', flush=True); import time; time.sleep(600)"), limit=1)
    assert (done.stdout, done.status, done.problem) == ("before\n", None, "no end within 1 s")


@pytest.mark.parametrize("blocked", ["", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); "])
def test_a_child_that_nobody_ends_ends_at_its_limit(monkeypatch, blocked):
    monkeypatch.setattr(processes, "_GRACE", 0.5)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM] if blocked else [])
    try:
        with processes.start(code(SPIN), limit=0.5) as child:
            assert child.wait(PATIENCE) == -signal.SIGALRM
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_output_held_by_a_process_that_left_the_group_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(processes, "_GRACE", 1.0)
    done = processes.run(
        code(
            """
            import os, time
            if os.fork() == 0:
                os.setsid()
                time.sleep(20)
            else:
                print("printed", flush=True)
                time.sleep(600)
            """
        ),
        limit=1,
    )
    assert (done.stdout, done.status) == ("printed\n", None)


# -- the end of the parent ---------------------------------------------------------------------------------------

PARENT = f"""
    import subprocess, sys, time
    from softbench import processes
    with processes.start([sys.executable, "-c", {SPIN!r}], limit=600) as child:
        print(child.pid, flush=True)
        time.sleep(600)
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_child_ends_with_its_parent(number):
    with processes.start(code(PARENT), limit=60, env=processes.environment(), stdout=subprocess.PIPE) as parent:
        child = started(parent)
        os.kill(parent.pid, number)
        parent.wait(PATIENCE)
        assert gone(child)


@linux
def test_a_parent_that_is_gone_before_the_child_knows_it():
    pid = os.fork()
    if pid == 0:
        processes.end_with_parent(parent=os.getppid() + 1, limit=60)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


@linux
def test_a_forked_child_can_end_with_its_parent():
    text = """
        import os, time
        from softbench import processes
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            processes.end_with_parent(parent, 600)
            print(os.getpid(), flush=True)
        time.sleep(600)
    """
    with processes.start(code(text), limit=60, env=processes.environment(), stdout=subprocess.PIPE) as parent:
        child = started(parent)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(PATIENCE)
        assert gone(child)


# -- who else is there -------------------------------------------------------------------------------------------

WITH_GRANDCHILD = """
    import subprocess, sys, time
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
    if len(sys.argv) > 1:
        time.sleep(600)
"""


@linux
@pytest.mark.parametrize("how", ["kill", "block", "error"])
def test_what_a_child_has_started_ends_with_it(how):
    with (
        contextlib.suppress(KeyError),
        processes.start([*code(WITH_GRANDCHILD), "wait"], limit=60, stdout=subprocess.PIPE) as child,
    ):
        grandchild = started(child)
        if how == "kill":
            child.kill()
            child.wait(PATIENCE)
        elif how == "error":
            raise KeyError
    assert child.returncode == -signal.SIGKILL
    assert gone(grandchild)


@linux
@pytest.mark.parametrize("how", ["wait", "poll"])
def test_what_a_child_leaves_running_is_ended(how):
    with processes.start(code(WITH_GRANDCHILD), limit=60, stdout=subprocess.PIPE) as child:
        grandchild = started(child)
        while how == "poll" and child.poll() is None:
            time.sleep(0.01)
        assert child.wait(PATIENCE) == 0
        assert gone(grandchild)


@linux
def test_the_status_of_a_child_is_known_though_another_process_holds_its_output():
    done = processes.run(code(WITH_GRANDCHILD), limit=2)
    assert (done.status, done.problem) == (0, "")
    assert gone(int(done.stdout))


def test_a_group_of_its_own():
    with processes.start(
        code("import os, time; print(os.getpgrp(), flush=True)"), limit=60, stdout=subprocess.PIPE
    ) as child:
        assert started(child) == child.pid
        assert child.pid != os.getpgrp()


def test_every_child_is_started_here():
    """Elsewhere nothing starts a process; what is forked, or started by a pool, asks to end with its parent."""
    root = Path(__file__).parents[1]
    starts = re.compile(
        r"subprocess\.(run|Popen|call|check_\w+|getoutput)\b|os\.(system|popen|spawn\w*|posix_spawn\w*)\b"
    )
    forks = re.compile(r"os\.(fork|forkpty)\(|ProcessPoolExecutor\(|\.Process\(|\.Pool\(")
    for folder in ("softbench", "backends/softbench_backends", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text()
            if path != root / "softbench" / "processes.py":
                assert not (found := starts.search(text)), f"{path.relative_to(root)}: {found.group()}"
                if found := forks.search(text):
                    assert "processes.end_with_parent" in text, f"{path.relative_to(root)}: {found.group()}"
