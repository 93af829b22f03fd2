"""What is made once, when it is first asked for: by threads, signal handlers, forked children; Ctrl-C and exits."""

import os
import textwrap
import threading
import time

import pytest

from softbench import processes
from softbench.interface import first_use
from softbench.interface.first_use import FirstUse


def test_threads_that_ask_for_one_thing_get_the_same_object():
    made = []

    def make(name):
        time.sleep(0.05)
        made.append(name)
        return object()

    things = FirstUse(make)
    found = {"a": [], "b": []}
    threads = [
        threading.Thread(target=lambda name=name: found[name].append(things(name)))
        for name in ("a", "b")
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == ["a", "b"]
    assert {len(set(objects)) for objects in found.values()} == {1}
    assert len(found["a"]) == len(found["b"]) == 8
    assert found["a"][0] is not found["b"][0]


def test_it_is_made_in_another_thread():
    assert FirstUse(threading.get_ident)() != threading.get_ident()


def test_an_error_reaches_who_waits_and_the_next_call_tries_again():
    attempts = []

    def make():
        attempts.append(1)
        if len(attempts) == 1:
            raise KeyError("the first time")
        return "made"

    thing = FirstUse(make)
    with pytest.raises(KeyError, match="the first time"):
        thing()
    assert thing() == "made"
    assert thing() == "made"
    assert len(attempts) == 2


def test_making_one_thing_may_take_another():
    inner = FirstUse(list)
    outer = FirstUse(lambda n: (inner(), n))
    assert outer(1)[0] is outer(2)[0] is inner()


def test_during_an_import_it_is_made_by_the_thread_that_imports(tmp_path, monkeypatch):
    """It holds the lock of the module, and of every one above it."""
    (tmp_path / "asks_when_imported.py").write_text(
        "import threading\nfrom softbench.interface.first_use import FirstUse\n"
        "same = FirstUse(threading.get_ident)() == threading.get_ident()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import asks_when_imported

    assert asks_when_imported.same


def test_with_a_lock_that_making_takes_all_is_made_at_once(monkeypatch):
    """Also what is asked for on the way; meanwhile another thread makes something and waits for the lock."""
    monkeypatch.setattr(first_use, "_conditions", [])
    lock, waits = threading.RLock(), threading.Event()
    first_use.make_at_once_if(lock._is_owned)

    def make_elsewhere():
        waits.set()
        with lock:
            return "elsewhere"

    inner, other = FirstUse(threading.get_ident), FirstUse(make_elsewhere)

    def make():
        with lock:
            return threading.get_ident(), inner()

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        assert waits.wait(20)
        assert FirstUse(make)() == (threading.get_ident(), threading.get_ident())
    thread.join(20)
    assert other.made == {(): "elsewhere"}


def test_without_another_thread_it_is_made_at_once(monkeypatch):
    def start(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(first_use._thread, "start_new_thread", start)
    assert FirstUse(threading.get_ident)() == threading.get_ident()


# -- processes that are interrupted, forked and ended ----------------------------------------------------------------


def posix(test):
    """A test that starts processes."""
    skip = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and forks as on POSIX")
    return pytest.mark.processes(skip(test))


START = """
import os, signal, sys, threading, time
from softbench.interface import first_use
from softbench.interface.first_use import FirstUse, ForkedTooSoonError

made = []
def make(name, seconds=0.4):
    end = time.monotonic() + seconds
    while time.monotonic() < end:  # in Python: a lock of the interpreter changes hands, a handler may come at any time
        pass
    made.append(name)
    return name.upper()

things = FirstUse(make)

def soon(handler, seconds=0.1):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)

def in_child(work):
    '''What a forked child finds, as its exit status: 0 for True.'''
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            status = 0 if work() else 3
        except BaseException as error:
            print(repr(error), flush=True)
            status = 4
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(text, before=""):
    command = processes.python("-c", before + START + textwrap.dedent(text))
    done = processes.run(command, limit=60, env=processes.environment())
    assert not done.problem, f"{done.problem}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@posix
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_signal_handler_asks_for_what_is_being_made_or_for_something_else(name):
    out = run(
        f"""
        found = []
        soon(lambda *_: found.append(things({name!r})))
        print(things("a"), found, sorted(made))
        """
    )
    assert out.strip() == {"a": "A ['A'] ['a']", "b": "A ['B'] ['a', 'b']"}[name]


@posix
def test_signal_handlers_at_every_moment():
    """Every millisecond, while threads are started and waited for: no handler finds a lock that its thread holds."""
    run(
        """
        calls = []
        def handler(*_):
            calls.append(things(f"h{len(calls)}", 0.0))
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            things(f"m{time.monotonic()}", 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(calls) > 500
        """
    )


@posix
def test_ctrl_c_ends_the_waiting_and_leaves_nothing_half_done():
    out = run(
        """
        soon(signal.default_int_handler)
        try:
            things("a")
        except KeyboardInterrupt:
            print("interrupted", made)
        print(things("a"), made)
        """
    )
    assert out.splitlines() == ["interrupted []", "A ['a']"]


@posix
def test_the_process_ends_when_what_is_being_made_is_done():
    out = run(
        """
        def slow():
            make("a")
            os.write(1, b"finished")
        soon(signal.default_int_handler)
        try:
            FirstUse(slow)()
        except KeyboardInterrupt:
            pass
        """
    )
    assert out == "finished"


@posix
def test_a_fork_waits_for_what_another_thread_is_making():
    run(
        """
        thread = threading.Thread(target=things, args=("a",))
        thread.start()
        time.sleep(0.1)
        assert in_child(lambda: things("a") == "A" and made == ["a"] and things("b") == "B") == 0
        thread.join()
        assert made == ["a"]
        assert things("b") == "B"  # the parent's own
        """
    )


@posix
def test_a_fork_waits_for_a_lock_that_others_take():
    run(
        """
        lock = threading.RLock()
        first_use.hold_during_fork(lambda: lock)
        def others():
            with lock:
                time.sleep(0.5)
        thread = threading.Thread(target=others)
        thread.start()
        time.sleep(0.1)
        assert in_child(lambda: lock.acquire(timeout=5)) == 0
        assert lock.acquire(timeout=5)
        """
    )


@posix
def test_a_fork_that_waited_in_vain_says_so_where_something_is_missing():
    out = run(
        """
        first_use.PATIENCE = 0.2
        assert things("before", 0.0) == "BEFORE"
        thread = threading.Thread(target=things, args=("a", 2.0))
        thread.start()
        time.sleep(0.1)
        def work():
            assert things("before", 0.0) == "BEFORE"
            try:
                things("b")
            except ForkedTooSoonError as error:
                print(error, flush=True)
                return True
        assert in_child(work) == 0
        thread.join()
        """
    )
    assert "forked while another thread of its parent was compiling or importing" in out


@posix
def test_a_handler_forks_while_its_thread_waits():
    run(
        """
        children = []
        def handler(*_):
            pid = os.fork()
            children.append(pid)
        soon(handler)
        assert things("a") == "A"
        if children[0] == 0:
            signal.alarm(20)
            os._exit(0 if things("b") == "B" else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
        """
    )


@posix
def test_threads_that_fork_at_once():
    run(
        """
        failures = []
        def forks():
            for turn in range(20):
                if in_child(lambda: things(f"child", 0.0) == "CHILD"):
                    failures.append(turn)
        def makes():
            for turn in range(100):
                things(f"{threading.get_ident()} {turn}", 0.001)
        threads = [threading.Thread(target=target) for target in (forks, forks, forks, makes, makes)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not failures
        """
    )


@posix
def test_a_handler_that_interrupts_a_fork_makes_things_itself():
    """The thread that forks holds what another thread would wait for, which it would wait for in turn."""
    run(
        """
        found = []
        soon_in_fork.append(lambda: soon(lambda *_: found.append(things("c", 0.0)), 0.01))
        assert in_child(lambda: found == ["C"] and things("b", 0.0) == "B") == 0
        assert found == ["C"]
        """,
        "import os, time\nsoon_in_fork = []\n"  # before softbench registers what it does then, so it comes after that
        "os.register_at_fork(before=lambda: [(act(), time.sleep(0.2)) for act in soon_in_fork])\n",
    )
