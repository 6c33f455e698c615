"""`python -m keras_lrs.checkpoints`: maintains a folder from a terminal."""

import argparse
import sys
import warnings
from collections.abc import Sequence

from keras_lrs.checkpoints import folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the status of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_lrs.checkpoints",
        description="Maintains a folder that callbacks of keras_lrs write to.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in {
        "list": "list the files",
        "verify": "read every byte; the status is 1 if a file is missing or altered",
        "rebuild": "rewrite the manifests from the files",
        "prune": "remove all but the last files",
    }.items():
        command = commands.add_parser(name, help=does, description=does)
        command.add_argument("directory", help="the folder: a path, or s3:// and such")
        if name == "prune":
            command.add_argument("--keep-last", type=int, required=True, metavar="N")
            command.add_argument("--kind", choices=folder.KINDS)
    options = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        # A name that the terminal cannot show is no error.
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
    try:
        return _run(options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


def _run(options):
    if options.command == "verify":
        wrong = folder.verify(options.directory)
        print("\n".join(wrong or ["Everything is whole."]))
        return int(bool(wrong))
    if options.command == "prune":
        removed = folder.prune(options.directory, options.keep_last, options.kind)
        for name in removed:
            print(f"removed {name}")
        return 0
    look = folder.rebuild if options.command == "rebuild" else folder.files
    for file in look(options.directory):
        size = "missing" if file.size is None else file.size
        print(f"{file.kind:11} {file.step:>10} {size:>12}  {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
