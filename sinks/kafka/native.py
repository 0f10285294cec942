"""Whether native code (native/messages) makes messages, or plain Python. Both do the same.

It runs if it was built, unless BTFEED_PLAIN=1 is in the environment.
"""

from sinks.shared.optional import optional

INTERFACE = 3
"""The interface of sinks._messages that this version calls. A module with another one is not used."""

native = optional("sinks._messages", INTERFACE)
"""sinks._messages, or None if the plain path runs."""
