"""The command line: one file per command, none of which imports torch before it is called."""

from limbeck.cli.app import main

__all__ = ["main"]
