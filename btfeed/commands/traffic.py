"""The commands that send, record and generate posts. Each has a module of its own; `posting` is what they share."""

from btfeed.commands.capture import capture
from btfeed.commands.cli import App
from btfeed.commands.generate import generate
from btfeed.commands.replay import replay

traffic = App()
for command in (replay, capture, generate):
    traffic.command()(command)
