"""The command line: ``softbench list | info | check | run | compare | warmup``, a module for each.

Exit status: 0 done; 1 something could not be done or is wrong; 2 a wrong argument; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import softbench
from softbench.cli import check, compare, listing, run, warmup
from softbench.cli.arguments import Parser, UsageError, complain
from softbench.errors import BackendUnavailableError, UnknownBackendError

__all__ = ["main"]

_COMMANDS = (listing, check, run, compare, warmup)


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
    try:
        parser = _parser()
        parsed = parser.parse_args(arguments)
        if parsed.command is None:
            parser.print_help()
            return 0
        status = int(parsed.function(parsed) or 0)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has enough: nothing is left to say, not even at exit
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (UsageError, UnknownBackendError, BackendUnavailableError) as error:
        return complain(error, 2)
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    return status
