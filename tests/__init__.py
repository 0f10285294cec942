"""Tests of btfeed; `posts` makes what they post."""
