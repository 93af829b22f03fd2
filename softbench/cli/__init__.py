"""The command line: ``softbench list | info | check | run | recommend | auto | report | compare | warmup``.

Exit status: 0 done; 1 something could not be done or is wrong; 2 a wrong argument; 130 interrupted, 143 and 129 ended
by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

import softbench
from softbench.cli import check, compare, listing, recommend, report, run, warmup
from softbench.cli.arguments import Parser, UsageError, complain
from softbench.cli.signals import terminable
from softbench.errors import BackendUnavailableError, UnknownBackendError

__all__ = ["main"]

_COMMANDS = (listing, check, run, recommend, report, compare, warmup)


def _parser() -> Parser:
    parser = Parser(
        prog="softbench",
        description="Softmax, cross-entropy and its gradient from interchangeable backends: "
        "which is right, which is fastest on this machine, how near the limit.",
        epilog="Without a command: this help. softbench COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"softbench {softbench.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=Parser)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. SystemExit from argparse: help, or status 2 for wrong arguments."""
    _open_standard_streams()
    with terminable() as signals:
        status = _run(arguments)
    return 128 + signals[0] if signals else status


def _run(arguments: Sequence[str] | None) -> int:
    try:
        parser = _parser()
        parsed = parser.parse_args(arguments)
        if parsed.command is None:
            parser.print_help()
            return 0
        status = int(parsed.function(parsed) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has enough
        _say_no_more()
        return 1
    except KeyboardInterrupt:
        return 130
    except (UsageError, UnknownBackendError, BackendUnavailableError) as error:
        return complain(error, 2)
    except OSError as error:  # that of a full disk would come again at exit
        _say_no_more()
        return complain(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    return status


def _say_no_more() -> None:
    """Nothing is left to say on standard output, not even at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_streams() -> None:
    """Take the numbers of standard streams that are closed, so that no pipe of ours gets one of them.

    What a stream cannot encode is shown escaped: messages of backends may hold anything, lone surrogates too.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
