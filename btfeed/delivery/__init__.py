"""Delivers records to sinks, one loop for each sink.

Read loop, then batching (cuts posts into batches), offsets (tracks what is delivered and saves the cursor) and
mapped_posts (maps each post once for all sinks).
"""
