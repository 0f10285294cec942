"""Delivers records to sinks: one loop per sink and partition.

Where is it decided

    loop          how a delivery starts, runs and stops; read it first
    sink_config   what a table [sinks.NAME] contains
    settings      the keys of [sinks.NAME.delivery] and [sinks.NAME.filter], and their defaults
    batching      which records make a batch, and when it is complete
    mapped_posts  when a post is mapped, and how long the result is kept
    writer        what happens to a batch until each record has an outcome: expiry, halving, retries, standing aside
    destinations  remembers which destinations the sink reported as blocked, and when to try them again
    retry         how long to wait before a retry
    outcome       what a batch leaves to be saved: dead letters, and those that were redelivered
    offsets       when the cursor moves, and is saved in one commit with the sink's state and the dead letters
    report        what status, metrics and logs show of a sink
"""
