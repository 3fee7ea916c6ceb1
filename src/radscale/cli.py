"""The command line: its commands, and how it ends. A mistake of the user is one line and exit code 2."""

import errno
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from radscale import __version__
from radscale.commands import benchmarks, datasets, encoders, evaluation, statistics, studies
from radscale.commands.shared import complain, console
from radscale.errors import InputError, OtherProcessError

app = typer.Typer(
    name="radscale",
    help="How much of our own data does it take to beat the open chest X-ray models, with which objective, and what "
    "will more data bring?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (studies, datasets, encoders, evaluation, statistics, benchmarks):  # the order of `--help`
    app.add_typer(commands.app)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        console.print(__version__, highlight=False)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one line and exit code 2, never a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    warnings.showwarning = _show_warning
    sys.exit(_run(lambda: app(args=arguments, standalone_mode=True)))


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt, which click would turn into "Aborted!"."""


def _stop(number: int, frame: object) -> None:
    # A second signal while workers are being ended finds the default: it ends at once, and still loses nothing.
    signal.signal(number, signal.SIG_DFL)
    raise _Stopped(number)


def _run(command: Callable[[], Any]) -> int:
    try:
        command()
    except OtherProcessError:
        return 2
    except InputError as error:
        return complain(str(error), 2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        from radscale.execution.runner import describe_error

        return complain(describe_error(error), 2)
    except _Stopped as stop:
        return complain("stopped; what is done stays done: run the same command again to go on", 128 + stop.args[0])
    return 0


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """What we say ourselves is a line for a person, without the place in the code; of others as Python shows it."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parent):
        Console(stderr=True).print(f"note: {message}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


if __name__ == "__main__":
    main()
