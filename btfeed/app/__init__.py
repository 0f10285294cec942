"""Joins the parts into a running server.

Read server first (all parts, and the order in which they start and stop), then deliveries (one delivery per sink and
partition) and parts (builds each part from its settings). serve runs a server until it is asked to stop, and reload takes
over a changed configuration meanwhile. check is what `btfeed check` does, advice what it and the server warn of.
instruments and tracing are for OpenTelemetry.
"""
