"""The engineer's door: `python -m serve up`, and everything else one asks of releases, users and experiments from a shell.

`towers` is another name of it. What a command line may say stands in `serve.command_line`, what it does in `serve.commands`.
"""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a request is one thread's; teams that wait for one another take 40 % more CPU

from serve import command_line

INTERRUPTED = 130


def main() -> int:
    """Read the command line and do what it says: the exit code."""
    told = command_line.read()
    if told.command == "completion":
        return command_line.completion(told.operand)
    try:
        from serve import commands  # late: help and a shell that completes wait for no model, no index and no server

        return commands.run(told)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
