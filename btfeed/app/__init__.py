"""Joins the parts into a running server.

Read serve first, then deliveries (one delivery per sink and partition) and parts (builds each part from its settings).
check is what `btfeed check` does, advice what it and serve warn of.
"""
