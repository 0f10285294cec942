"""The journal: what was answered with 200, until every sink has it.

Read base (the contract), then sqlite (the event loop's side), engine (its thread: group commit and recovery), ledger (what
is taken, forgotten and handed out), recent (the newest posts), store (the statements), layout (the file), salvage (a
damaged file).
"""
