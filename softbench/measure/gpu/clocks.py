"""Device time: each library times its own work with its own events, on its own stream."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

from softbench.measure.timing import Candidate, Sample

__all__ = ["Clock", "DeviceCandidate"]

Call = Callable[[], Any]


class Clock(abc.ABC):
    """Times queued work by the events of one library. Seconds."""

    @abc.abstractmethod
    def span(self, calls: Sequence[Call], n: int) -> float:
        """Device time of ``n`` calls, taken in turns from ``calls``, per call."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait for everything queued."""

    @abc.abstractmethod
    def free_bytes(self) -> int:
        """Free memory of the device."""

    def replay(self, calls: Sequence[Call]) -> Call | None:
        """All ``calls`` recorded as one graph, to be launched without their host cost; None where that fails."""
        return None


class CupyClock(Clock):
    """CuPy's events, on its current stream; a graph is captured on a stream of its own."""

    def __init__(self) -> None:
        import cupy

        self.cp = cupy

    def span(self, calls: Sequence[Call], n: int) -> float:
        start, stop = self.cp.cuda.Event(), self.cp.cuda.Event()
        start.record()
        for i in range(n):
            calls[i % len(calls)]()
        stop.record()
        stop.synchronize()
        return float(self.cp.cuda.get_elapsed_time(start, stop)) * 1e-3 / n

    def synchronize(self) -> None:
        self.cp.cuda.get_current_stream().synchronize()

    def free_bytes(self) -> int:
        self.cp.get_default_memory_pool().free_all_blocks()
        return int(self.cp.cuda.runtime.memGetInfo()[0])

    def replay(self, calls: Sequence[Call]) -> Call | None:
        stream = self.cp.cuda.Stream(non_blocking=True)
        try:
            with stream:
                for call in calls:  # the memory pool of this stream now holds what the capture will ask for
                    call()
                stream.synchronize()
                stream.begin_capture()
                try:
                    for call in calls:
                        call()
                finally:
                    graph = stream.end_capture()
            graph.launch(self.cp.cuda.get_current_stream())
            self.synchronize()
        except Exception:  # whatever cannot be captured is timed by events instead
            return None
        return lambda: graph.launch(self.cp.cuda.get_current_stream())


class NumbaClock(Clock):
    """numba-cuda's events, on the default stream."""

    def __init__(self) -> None:
        from numba import cuda

        self.cuda = cuda

    def span(self, calls: Sequence[Call], n: int) -> float:
        start, stop = self.cuda.event(timing=True), self.cuda.event(timing=True)
        start.record()
        for i in range(n):
            calls[i % len(calls)]()
        stop.record()
        stop.synchronize()
        return float(self.cuda.event_elapsed_time(start, stop)) * 1e-3 / n

    def synchronize(self) -> None:
        self.cuda.synchronize()

    def free_bytes(self) -> int:
        return int(self.cuda.current_context().get_memory_info().free)


class TorchClock(Clock):
    """PyTorch's events, on its current stream."""

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def span(self, calls: Sequence[Call], n: int) -> float:
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for i in range(n):
            calls[i % len(calls)]()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3 / n

    def synchronize(self) -> None:
        self.torch.cuda.synchronize()

    def free_bytes(self) -> int:
        self.torch.cuda.empty_cache()
        return int(self.torch.cuda.mem_get_info()[0])


class DeviceCandidate(Candidate):
    """Calls of one library, timed by the device: the same work on several sets of arrays, in turns.

    With enough of them every call finds its data cold. They are recorded as one graph where the library can do that, so
    that what a launch costs the host is not in the time.
    """

    def __init__(self, clock: Clock, calls: Sequence[Call]) -> None:
        super().__init__(calls[0], clock.synchronize)
        self.clock = clock
        for call in calls:
            call()
        clock.synchronize()
        graph = clock.replay(calls)
        self._launches: list[Call] = [graph] if graph else list(calls)
        self._per = len(calls) if graph else 1
        self.method = "graph" if graph else "events"

    def sample(self, number: int, *, warm: int = 0) -> Sample:
        """As `Candidate.sample`, of device time; all sets of arrays take part, so ``number`` is the least."""
        launches = max(len(self._launches), math.ceil(number / self._per))
        return Sample(self.clock.span(self._launches, launches) / self._per * number, 0.0)
