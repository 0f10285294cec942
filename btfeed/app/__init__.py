"""Joins the parts into a running server. Start with serve."""
