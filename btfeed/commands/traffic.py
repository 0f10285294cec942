"""The commands that send, record and generate posts. Each has a module of its own; `posting` is what they share."""

import typer

from btfeed.commands.capture import capture
from btfeed.commands.generate import generate
from btfeed.commands.replay import replay

traffic = typer.Typer()
for command in (replay, capture, generate):
    traffic.command()(command)
