"""Backends by name: the built-in ones, plugins by entry point, and which one is current.

A plugin is known by the name of its entry point: the ``name`` of its class gives way where the two differ. Whatever a
plugin does when it is imported, asked whether it can run, or made, is a reason why that one is not available, which
names the plugin and its distribution; nothing of it reaches who asked for another backend.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import inspect
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from softbench.built_in import AUTO, BUILT_IN, DISTRIBUTIONS
from softbench.errors import BackendUnavailableError, UnknownBackendError
from softbench.front.backend import Backend
from softbench.interface import Availability, RowBackend
from softbench.interface.first_use import FirstUse
from softbench.interface.local_rows import set_finder

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "availability",
    "available_backends",
    "current_backend",
    "get_backend",
    "list_backends",
    "origin",
    "select_backend",
    "selected_backend",
    "use_backend",
]

ENTRY_POINT_GROUP: Final = "softbench.backends"
DEFAULT: Final = "numpy"

# Read once: what a library does must not depend on when the environment changed.
_FROM_ENVIRONMENT: Final = os.environ.get("SOFTBENCH_BACKEND") or None
_current: ContextVar[Backend | None] = ContextVar("softbench_backend", default=None)
_instances: dict[str, Backend] = {}
_with_options: dict[tuple[Any, ...], Backend] = {}

_import: Final = FirstUse(importlib.import_module)  # of built-in backends: a signal handler may ask for one meanwhile


@functools.cache
def _plugins() -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points of other distributions, by name: one each, or several that want the same name."""
    from importlib.metadata import entry_points  # as slow to import as the rest of softbench

    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in BUILT_IN or point.name == AUTO:
            _warn(f"{_described(point)} wants the name of built-in backend {point.name!r}: ignored")
        elif not point.name.isidentifier():
            _warn(f"{_described(point)} has a name that is no identifier, {point.name!r}: ignored")
        else:
            found[point.name] = (*found.get(point.name, ()), point)
    for points in found.values():
        if len(points) > 1:
            _warn(_ambiguous(points))
    return found


def _described(point: EntryPoint) -> str:
    return f"plugin {point.value!r}" + (f" of {point.dist.name}" if point.dist else "")


def _ambiguous(points: tuple[EntryPoint, ...]) -> str:
    who = " and ".join(map(_described, points))
    return f"{who} both call themselves {points[0].name!r}: neither is used; uninstall one of them"


def _warn(message: str) -> None:
    """Warn. Where the user has made warnings errors, say it on standard error: the caller has not caused it."""
    try:
        warnings.warn(message, stacklevel=4)
    except Warning:
        print(f"softbench: warning: {message}", file=sys.stderr)


def _names() -> list[str]:
    return [*BUILT_IN, *_plugins()]


def origin(name: str) -> str:
    """Where a backend comes from, for a sentence on what it did: ``"plugin 'module:Class' of distribution"``.

    Empty for built-in backends and for unknown names.
    """
    return " and ".join(map(_described, _plugins().get(name, ()))) if name not in BUILT_IN else ""


def _load(name: str) -> type[RowBackend]:
    """The class behind a name. UnknownBackendError; BackendUnavailableError when a module cannot be imported."""
    points = _plugins().get(name, ()) if name not in BUILT_IN else ()
    if name not in BUILT_IN and not points:
        raise UnknownBackendError(_unknown(name))
    if len(points) > 1:
        raise BackendUnavailableError(_ambiguous(points))
    with _blamed(name, "failed to load"):
        if points:
            loaded = points[0].load()
        else:
            entry = BUILT_IN[name]
            loaded = getattr(_import(entry.module), entry.attribute)
    if not (isinstance(loaded, type) and issubclass(loaded, RowBackend)):
        raise BackendUnavailableError(
            f"backend {name!r} ({origin(name)}) is not a subclass of softbench.interface.RowBackend"
        )
    return loaded


@contextlib.contextmanager
def _blamed(name: str, what: str) -> Iterator[None]:
    """Whatever a backend raises in the block, an exit included, as a BackendUnavailableError that says whose it was."""
    try:
        yield
    except BackendUnavailableError:
        raise
    except (Exception, SystemExit) as error:
        whose = f" ({origin(name)})" if origin(name) else ""
        raise BackendUnavailableError(f"backend {name!r}{whose} {what}: {error!r}") from error


def _unknown(name: object) -> str:
    import difflib  # here, for the error only

    names = [*_names(), AUTO]
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"unknown backend {name!r}: {hint}known are {', '.join(names)}"


def list_backends() -> dict[str, str]:
    """Names of all backends, each with a one-line summary.

    Imports no backend library, so it is quick, and says nothing of which of them can run here: `available_backends`
    does. Plugins (entry-point group ``softbench.backends``) are listed with the distribution they come from.

    Returns
    -------
    dict of str to str
        Summaries by name, built-in backends first.

    Examples
    --------
    >>> import softbench as sb
    >>> sb.list_backends()["numba"]
    'fused parallel CPU kernels'
    """
    summaries = {name: entry.summary for name, entry in BUILT_IN.items()}
    return summaries | {name: origin(name) for name in _plugins()}


def available_backends() -> dict[str, Availability]:
    """Every name with whether it can run here, on what, and if not why and what to install.

    Probes libraries and devices, so the first call may take a moment. Never raises: a plugin that fails to load is
    reported with a warning.

    Returns
    -------
    dict of str to Availability
        Also those that are not available, with the reason.

    See Also
    --------
    list_backends : The names, without asking a library.

    Examples
    --------
    >>> import softbench as sb
    >>> sb.available_backends()["numpy"]
    Availability(ok=True, kind='cpu', reason='', install='')
    """
    return {name: availability(name) for name in _names()}


def availability(name: str) -> Availability:
    """Whether the backend of this name can run here; a warning where it cannot even say so. UnknownBackendError."""
    try:
        return _state(name, _load(name))
    except BackendUnavailableError as error:
        _warn(str(error))
        return Availability(False, "cpu", str(error))


def _state(name: str, cls: type[RowBackend]) -> Availability:
    """What a class says of its availability. BackendUnavailableError if it raises, or says nothing of the kind."""
    with _blamed(name, "cannot say whether it can run here"):
        state = cls.availability()
        if not isinstance(state, Availability):
            raise TypeError(f"availability() returned a {type(state).__name__}, expected an Availability")
        return state


def get_backend(name: str | Backend, **options: Any) -> Backend:
    """The backend of this name, with the public functions as methods.

    Parameters
    ----------
    name : str or Backend
        A name of `list_backends`; ``"auto"`` for the one that is the fastest here, call by call (`softbench.auto`); a
        `Backend` is returned as it is.
    **options : object
        What this backend lets its users choose, as documented at its class: ``get_backend("torch", compile=True)``.

    Returns
    -------
    Backend
        The same object each time, for the same options. Nothing falls back: it is this backend, or an error.

    Raises
    ------
    TypeError
        Neither a name nor a backend; an option that this backend does not have, the message names those it has.
    UnknownBackendError
        No backend has this name; the message has close matches. It is a ValueError.
    BackendUnavailableError
        It cannot run here; the message says why, and the pip command if one helps. It is an ImportError.

    Notes
    -----
    There is one object for each name and its options. It is pickled as these (`multiprocessing`, joblib, dask).
    Unpickled, it is that backend of the other process, or one of these errors.

    Examples
    --------
    >>> import softbench as sb
    >>> be = sb.get_backend("numpy")
    >>> be.softmax([0.0, 0.0])
    array([0.5, 0.5])
    """
    if isinstance(name, Backend):
        if options:
            raise TypeError(f"options ({', '.join(options)}) need a backend's name, got the backend {name.name!r}")
        return name
    if not isinstance(name, str):
        raise TypeError(f"backend must be a name or a backend, got {type(name).__name__}")
    made = _instances.get(name)
    if made is not None and not options:
        return made
    if name == AUTO:
        if options:
            raise TypeError(f"backend {name!r} has no option {next(iter(options))!r}: it has none")
        return _instances.setdefault(name, _auto())
    cls = _load(name)
    _check_options(name, cls, options)
    key = (name, *sorted(options.items()))
    if options and key in _with_options:
        return _with_options[key]
    state = _state(name, cls)
    if not state.ok:
        install = f" (install: {state.install})" if state.install else ""
        raise BackendUnavailableError(f"backend {name!r} is not available here: {state.reason}{install}")
    with _blamed(name, "could not be made"):
        rows = cls(**options)
        if getattr(rows, "name", None) != name:
            rows.name = name  # type: ignore[misc]  # of this instance: one class may serve under several names
        backend = Backend(rows)
    return _with_options.setdefault(key, backend) if options else _instances.setdefault(name, backend)


def _check_options(name: str, cls: type[RowBackend], options: dict[str, Any]) -> None:
    """TypeError unless the class takes options of these names, with values that can tell one backend from another."""
    if not options:
        return
    known = [option for option in inspect.signature(cls).parameters if not option.startswith("_")]
    for option, value in options.items():
        if option not in known:
            has = ", ".join(known) if known else "none"
            raise TypeError(f"backend {name!r} has no option {option!r}: it has {has}")
        if not isinstance(value, Hashable):
            raise TypeError(f"option {option} of backend {name!r} is a {type(value).__name__}: it must be hashable")


def _by_name(backend: Backend) -> tuple[Callable[..., Backend], tuple[str, dict[str, Any]]]:
    """How a backend is pickled: by name and options, as what it holds (kernels, devices) belongs to its process."""
    if _instances.get(backend.name) is backend:
        return _named, (backend.name, {})
    for (name, *options), made in list(_with_options.items()):
        if made is backend:
            return _named, (name, dict(options))
    cls = type(backend.rows)
    raise pickle.PicklingError(
        f"backend {backend.name!r} cannot be pickled: it was made from {cls.__module__}.{cls.__qualname__}, and "
        "backends are pickled by name, which only those that get_backend returns have; make it in each process, or "
        f"register its class (entry point group {ENTRY_POINT_GROUP!r})"
    )


def _named(name: str, options: dict[str, Any]) -> Backend:
    return get_backend(name, **options)


copyreg.pickle(Backend, _by_name)
set_finder(lambda name: get_backend(name).rows)


def _auto() -> Backend:
    """The backend that takes the fastest for each call; warns of measurements of another machine or version."""
    from softbench import machine
    from softbench.auto import AutoBackend  # with all that reads records: for those who ask for it

    copyreg.pickle(AutoBackend, _by_name)  # type: ignore[arg-type]  # which returns one
    made = AutoBackend(get_backend, _load, machine.versions(DISTRIBUTIONS))
    if made.stale:
        _warn(f"backend 'auto': {'; '.join(made.stale)}; softbench run measures again")
    return made


def select_backend(backend: str | Backend | None) -> Backend:
    """What a ``backend`` argument asks for: the current one if None, else as `get_backend`."""
    if backend is None:
        return current_backend()
    try:  # the commonest is the shortest: a small batch takes less than a call of a function more
        return _instances[backend]  # type: ignore[index]
    except (KeyError, TypeError):
        return get_backend(backend)


def current_backend() -> Backend:
    """The backend used when none is named: of `use_backend`, else ``$SOFTBENCH_BACKEND``, else ``"numpy"``."""
    return selected_backend() or get_backend(DEFAULT)


def selected_backend() -> Backend | None:
    """The backend of `use_backend`, else of ``$SOFTBENCH_BACKEND``, else None: none was chosen."""
    return _current.get() or (get_backend(_FROM_ENVIRONMENT) if _FROM_ENVIRONMENT else None)


@contextlib.contextmanager
def use_backend(name: str | Backend) -> Iterator[Backend]:
    """Make a backend the current one inside a ``with`` block.

    Blocks nest, and the backend before is restored on exit. Outside of any block the current one is that of the
    environment variable ``SOFTBENCH_BACKEND``, or else "numpy".

    Parameters
    ----------
    name : str or Backend
        As for `get_backend`.

    Yields
    ------
    Backend
        The backend.

    Raises
    ------
    TypeError, UnknownBackendError, BackendUnavailableError
        As `get_backend`, on entry.

    Notes
    -----
    It is a `contextvars.ContextVar`: asyncio tasks started inside inherit it, threads already running do not.

    Examples
    --------
    >>> import softbench as sb
    >>> with sb.use_backend("python") as be:
    ...     print(be.name, sb.argmax([1.0, 2.0]))
    python 1
    """
    backend = get_backend(name)
    token = _current.set(backend)
    try:
        yield backend
    finally:
        _current.reset(token)
