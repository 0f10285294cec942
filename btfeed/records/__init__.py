"""Turns posts into records: one flat JSON object for each occurrence.

Read schema (the field table), then plain_mapper, which is the specification, and plan, encoding, names, validation and
privacy, which it uses. mapper does the same natively. describe shows a post to people.
"""
