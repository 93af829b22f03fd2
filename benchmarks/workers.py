"""Dask: one block beside the local backend, one worker process and two, and bytes between workers."""

from __future__ import annotations

import contextlib

from benchmarks.common import BACKENDS, find


class OneBlock:
    """What the dask backend adds to its local backend on one block, beside it in the same process."""

    params = (BACKENDS, ["64x10", "4096x1000"])
    param_names = ("backend", "shape")

    def setup(self, name, shape):
        if name != "dask":
            raise NotImplementedError(f"{name} has no blocks")
        find(name)

    def track_overhead(self, name, shape):
        from benchmarks.studies.scaling import one_block

        seconds = one_block(*map(int, shape.split("x")))
        return round(seconds["dask"] - seconds["direct"], 6)

    track_overhead.unit = "seconds"


class Workers:
    """The fused linear oracle on 80 MB of features, in blocks of rows that the workers hold."""

    params = (BACKENDS, [1, 2])
    param_names = ("backend", "workers")
    number = 1
    repeat = 7

    def setup(self, name, workers):
        if name != "dask":
            raise NotImplementedError(f"{name} computes in one process")
        find(name)
        from benchmarks.studies.scaling import client_of, evaluation

        self.opened = contextlib.ExitStack()
        client = self.opened.enter_context(client_of(workers))
        self.call = evaluation(client, 200_000, 100, 50, 50_000)
        self.call()

    def teardown(self, name, workers):
        if hasattr(self, "opened"):
            self.opened.close()

    def time_linear_loss_and_gradient(self, name, workers):
        self.call()


class Between:
    """What two workers send each other for logsumexp of eight blocks of classes."""

    params = (BACKENDS,)
    param_names = ("backend",)

    def setup(self, name):
        if name != "dask":
            raise NotImplementedError(f"{name} computes in one process")
        find(name)

    def track_bytes_over_floor(self, name):
        from benchmarks.studies.scaling import bytes_between

        found = bytes_between()
        return round(found["moved"] / found["floor"], 4)

    track_bytes_over_floor.unit = "times two numbers per row and block of classes that must travel"
