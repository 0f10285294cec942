"""Delivers records to sinks: one loop per sink and partition.

Read loop first, then the path of a batch: batching (cuts posts into batches), mapped_posts (maps each post once for all
sinks), writer (writes a batch until each record has an outcome: expiry, halving, retries), retry (how long to wait before
a retry), outcome (what becomes of each record, and what is a dead letter), offsets (saves the cursor), and report (what
status and metrics show).
"""
