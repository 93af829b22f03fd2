"""The numba backend in the life of a process: first calls, signals, forks, other users of Numba, other ways to import.

Every test starts a process, with an empty compilation cache where it matters: then first calls take a second.
"""

import os
import pickle
import sys
import textwrap

import numpy as np
import pytest

import softbench
from softbench import processes

pytest.importorskip("numba", reason="numba is not installed")
pytestmark = pytest.mark.processes

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and forks as on POSIX")

START = """
import faulthandler, os, signal, sys, threading, time
faulthandler.dump_traceback_later(90, exit=True)
import numpy as np
import softbench as sb

rng = np.random.default_rng(0)
small, large = rng.normal(size=(5, 7)).astype("f"), rng.normal(size=(600, 200)).astype("f")
labels = np.arange(600) % 200

def soon(handler, seconds, interval=0.0):
    inside = []
    def once(*args):
        if not inside:  # one that takes longer than the interval
            inside.append(None)
            try:
                handler(*args)
            finally:
                inside.clear()
    signal.signal(signal.SIGALRM, once)
    signal.setitimer(signal.ITIMER_REAL, seconds, interval)

def calm():
    signal.setitimer(signal.ITIMER_REAL, 0)

def bits(*arrays):
    return b"".join(np.asarray(a).tobytes() for a in arrays)

def in_child(work):
    '''What a forked child finds, as its exit status: 0 for True.'''
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        try:
            status = 0 if work() else 3
        except BaseException as error:
            print(repr(error), flush=True)
            status = 4
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(text, cache=None, **environment):
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    command = processes.python("-c", START + textwrap.dedent(text))
    done = processes.run(command, limit=120, env=processes.environment(NUMBA_NUM_THREADS="2", **environment))
    assert not done.problem, f"{done.problem}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout


# -- signal handlers -------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("seconds", [0.01, 0.2, 0.5, 0.8])
def test_a_signal_handler_may_call_while_the_first_call_imports_and_compiles(tmp_path, seconds):
    run(
        f"""
        found = []
        both = lambda: bits(sb.softmax(small, backend="numba"), sb.argmax(small, backend="numba"))
        soon(lambda *_: found.append(both()), {seconds})
        first = sb.softmax(small, backend="numba")
        while not found:
            time.sleep(0.01)
        assert found == [bits(first, sb.argmax(small, backend="numba"))]
        """,
        tmp_path,
    )


@posix
def test_signal_handlers_at_many_moments_of_first_calls(tmp_path):
    run(
        """
        be, found = sb.get_backend("numba"), []
        def handler(*_):
            found.append(bits(be.softmax(small), be.softmax(large), be.loss(large, labels)))
        soon(handler, 0.02, 0.02)
        first = [be.log_softmax(large), *be.loss_and_gradient(large, labels), be.softmax(large, axis=0)]
        calm()
        again = [be.log_softmax(large), *be.loss_and_gradient(large, labels), be.softmax(large, axis=0)]
        assert bits(*first) == bits(*again)
        assert set(found) == {bits(be.softmax(small), be.softmax(large), be.loss(large, labels))}
        """,
        tmp_path,
    )


@posix
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_signal_handler_may_make_large_calls_during_large_calls(layer):
    run(
        f"""
        be, found = sb.get_backend("numba"), []
        wanted = bits(be.softmax(large), be.log_softmax(large))
        assert be.info()["threading_layer"] == {layer!r}
        soon(lambda *_: found.append(bits(be.softmax(large), be.log_softmax(large))), 0.001, 0.001)
        while len(found) < 100:
            assert bits(be.softmax(large), be.log_softmax(large)) == wanted
        calm()
        assert set(found) == {{wanted}}
        """,
        NUMBA_THREADING_LAYER=layer,
    )


@posix
def test_a_signal_handler_may_call_while_somebody_elses_function_is_compiled(tmp_path):
    run(
        """
        import numba
        found = []

        @numba.njit
        def theirs(x):
            return np.sort(x).sum() + np.linalg.norm(x) + np.median(x)

        theirs(np.ones(3))  # all that Numba imports for it is there
        soon(lambda *_: found.append(bits(sb.softmax(small, backend="numba"))), 0.05)
        theirs(np.ones(3, "f"))
        while not found:
            time.sleep(0.01)
        assert found == [bits(sb.softmax(small, backend="numba"))]
        """,
        tmp_path,
    )


@posix
@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.1, 0.2])
def test_a_signal_handler_that_interrupts_the_import_of_numba_works_or_raises(tmp_path, seconds):
    run(
        f"""
        found = []
        def handler(*_):
            try:
                found.append(bits(sb.softmax(small, backend="numba")))
            except (ImportError, AttributeError) as error:
                found.append(error)
        soon(handler, {seconds})
        import numba
        while not found:
            time.sleep(0.01)
        wanted = bits(sb.softmax(small, backend="numba"))
        assert isinstance(found[0], Exception) or found == [wanted]
        """,
        tmp_path,
    )


@posix
def test_ctrl_c_during_the_first_call_leaves_a_backend_that_works(tmp_path):
    run(
        """
        be = sb.get_backend("numba")
        interrupted = 0
        for seconds in (0.05, 0.3, 0.5, 0.7):
            soon(signal.default_int_handler, seconds)
            try:
                be.loss_and_gradient(large, labels), be.log_softmax(large), be.softmax(large, axis=0)
            except KeyboardInterrupt:
                interrupted += 1
            calm()
        assert interrupted
        assert np.allclose(be.softmax(large).sum(axis=1), 1)
        assert np.allclose(be.gradient(large, labels).sum(axis=1), 0, atol=1e-6)
        """,
        tmp_path,
    )


# -- forks -----------------------------------------------------------------------------------------------------------


@posix
def test_a_child_forked_while_another_thread_compiles(tmp_path):
    """It has kernels that were ready, those on disk, and those that it compiles itself."""
    run("sb.argmax(small, backend='numba')", tmp_path)  # on disk
    run(
        """
        be = sb.get_backend("numba")
        wanted = bits(be.softmax(small))
        thread = threading.Thread(target=lambda: be.loss_and_gradient(large, labels))
        thread.start()
        time.sleep(0.3)

        def work():
            ready, on_disk, new = be.softmax(small), be.argmax(small), be.log_softmax(small)
            gradient = be.loss_and_gradient(large, labels)[1]
            return bits(ready) == wanted and len(on_disk) == len(new) == 5 and abs(gradient.sum()) < 1e-6

        for _ in range(3):
            assert in_child(work) == 0
        thread.join()
        """,
        tmp_path,
    )


@posix
def test_a_child_forked_while_somebody_elses_function_is_compiled(tmp_path):
    run(
        """
        import numba
        be = sb.get_backend("numba")
        be.softmax(small)

        @numba.njit
        def theirs(x):
            return np.sort(x).sum() + np.linalg.norm(x) + np.median(x)

        thread = threading.Thread(target=theirs, args=(np.ones(3),))
        thread.start()
        time.sleep(0.2)
        assert in_child(lambda: len(be.argmax(small)) == 5) == 0
        thread.join()
        """,
        tmp_path,
    )


@posix
def test_a_child_forked_while_another_thread_imports_numba(tmp_path):
    run(
        """
        be = sb.get_backend("numba")
        thread = threading.Thread(target=be.softmax, args=(small,))
        thread.start()
        time.sleep(0.05)
        assert in_child(lambda: np.allclose(be.softmax(small).sum(axis=1), 1)) == 0
        thread.join()
        """,
        tmp_path,
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_process_pool_takes_backends_and_their_methods(method, tmp_path):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, os, sys, warnings
            import numpy as np
            import softbench as sb

            def softmax(backend, x):
                return os.getpid(), backend.softmax(x)

            if __name__ == "__main__":
                warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads
                x = np.arange(12.0).reshape(3, 4)
                with multiprocessing.get_context({method!r}).Pool(1) as pool:
                    for name in ("numba", "numpy", "python"):
                        backend = sb.get_backend(name)
                        backend.softmax(x)
                        pid, there = pool.apply(softmax, (backend, x))
                        assert pid != os.getpid()
                        assert there.tobytes() == backend.softmax(x).tobytes(), name
                        assert pool.apply(backend.softmax, (x,)).tobytes() == there.tobytes()
            """
        )
    )
    done = processes.run([sys.executable, str(tmp_path / "work.py")], limit=120, env=processes.environment())
    assert not done.problem, done.stderr


# -- somebody else's threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_prange_of_the_users_beside_calls(layer):
    """workqueue ends the process when two threads enter it: softbench is not one of them."""
    run(
        f"""
        import numba

        @numba.njit(parallel=True, nogil=True)
        def theirs(x):
            total = 0.0
            for i in numba.prange(len(x)):
                total += np.sqrt(x[i])
            return total

        be, x = sb.get_backend("numba"), np.ones(200_000)
        wanted = [bits(be.softmax(large), be.gradient(large, labels)), theirs(x)]
        assert be.info()["threading_layer"] == numba.threading_layer() == {layer!r}
        wide = np.ones((1, 300_000), "f")
        failures = []

        def ours():
            end = time.monotonic() + 3
            while time.monotonic() < end:
                if bits(be.softmax(large), be.gradient(large, labels)) != wanted[0]:
                    failures.append("other bits")
                be.softmax(wide)

        threads = [threading.Thread(target=ours) for _ in range(3)]
        [thread.start() for thread in threads]
        while any(thread.is_alive() for thread in threads):
            assert theirs(x) == wanted[1]
        assert not failures
        """,
        NUMBA_THREADING_LAYER=layer,
    )


def test_without_any_layer_the_bits_are_the_same():
    text = """
    import hashlib
    be = sb.get_backend("numba")
    wide = rng.normal(size=(2, 200_000))
    results = [be.softmax(large), *be.loss_and_gradient(large, labels), be.softmax(large, axis=0), be.softmax(wide)]
    print(hashlib.sha256(bits(*results)).hexdigest(), be.info()["threading_layer"])
    """
    names = {"omp": "omp", "workqueue": "workqueue", "tbb_that_is_not_there": "none"}
    found = {}
    for name in names:
        digest, layer = run(text, NUMBA_THREADING_LAYER=name).split()[:2]
        assert layer == names[name]
        found[name] = digest
    assert len(set(found.values())) == 1, found


def test_memory_that_runs_out_in_a_thread_of_softbenchs_is_a_memory_error():
    from softbench_backends.numba import threads

    def kernel(first, last, streaming):
        if last == 9:
            raise MemoryError("no room")

    share = threads.shared_out(kernel, ())
    assert share((), 8, 4, False) is None
    with pytest.raises(MemoryError, match="no room"):
        share((), 9, 4, False)
    assert share((), 8, 4, False) is None


def test_every_chunk_is_computed_once_by_threads_of_softbenchs():
    from softbench_backends.numba import threads

    done = []
    share = threads.shared_out(lambda *span: done.append(span), ("bound",))
    share((1, 2), 10, 4, True)
    assert sorted(done) == [("bound", 1, 2, a, b, True) for a, b in ((0, 2), (2, 5), (5, 7), (7, 10))]


@posix
def test_ctrl_c_waits_for_threads_that_write_into_the_result():
    run(
        """
        from softbench_backends.numba import threads
        done = []
        def kernel(first, last, streaming):
            time.sleep(0.2 if first == 0 else 1.0)
            done.append(first)
        share = threads.shared_out(kernel, ())
        soon(signal.default_int_handler, 0.5)
        try:
            share((), 2, 2, False)
        except KeyboardInterrupt:
            assert sorted(done) == [0, 1], done
        else:
            raise AssertionError("not interrupted")
        """
    )


# -- without Numba's compiler ----------------------------------------------------------------------------------------


def test_without_the_compiler_it_says_that_it_is_not_available():
    out = run(
        """
        state = sb.available_backends()["numba"]
        print(state.ok, state.reason, state.install)
        try:
            sb.softmax(small, backend="numba")
        except sb.BackendUnavailableError as error:
            print(error)
        assert sb.available_backends()["numpy"].ok
        """,
        NUMBA_DISABLE_JIT="1",
    )
    assert out.startswith("False NUMBA_DISABLE_JIT is set")
    assert "'numba' is not available here: NUMBA_DISABLE_JIT is set" in out


def test_a_compiler_that_is_turned_off_later_is_an_error_with_a_reason():
    run(
        """
        import numba
        be = sb.get_backend("numba")
        be.softmax(small)
        numba.config.DISABLE_JIT = 1
        be.softmax(small)  # its kernel is there
        try:
            be.log_softmax(small)
        except RuntimeError as error:
            assert "NUMBA_DISABLE_JIT" in str(error)
        else:
            raise AssertionError
        assert not sb.available_backends()["numba"].ok
        numba.config.DISABLE_JIT = 0
        be.log_softmax(small)
        """
    )


# -- pickling --------------------------------------------------------------------------------------------------------


def test_row_backends_pickle_without_their_kernels():
    rows = softbench.get_backend("numba").rows
    x = np.arange(12.0).reshape(3, 4)
    wanted = rows.softmax(x, np.empty_like(x))
    again = pickle.loads(pickle.dumps(rows))
    assert type(again) is type(rows)
    assert again.softmax(x, np.empty_like(x)).tobytes() == wanted.tobytes()
