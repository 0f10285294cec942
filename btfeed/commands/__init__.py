"""The command line: one module per topic. Read main first.

Results go to stdout, progress and logs to stderr. Exit codes: 0 success, 1 failure, 2 wrong usage or configuration.
"""
