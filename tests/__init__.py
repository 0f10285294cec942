"""Tests of btfeed. `support` holds what they share, `servers` the servers that they need."""
