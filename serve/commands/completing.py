"""`completion`: what a shell runs once so that TAB knows the words of `towers`."""

import argparse

import argcomplete

from serve.command_line import SHELLS
from serve.commands.telling import say
from serve.settings import Settings, SettingsError


def completion(_: Settings, arguments: argparse.Namespace) -> None:
    """Print the script for a shell."""
    if arguments.operand not in SHELLS:
        raise SettingsError(f"completion needs the name of a shell: {' or '.join(SHELLS)}")
    say(argcomplete.shellcode(["towers"], shell=arguments.operand))
