"""The command line: each module has the commands of one topic. Start with main.

Results go to stdout, progress and logs to stderr. Exit codes: 0 done, 1 failed, 2 usage or configuration.
"""
