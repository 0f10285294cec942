"""Servers that tests talk to in the place of real ones."""
