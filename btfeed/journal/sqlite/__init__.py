"""The embedded journal: one SQLite file, written by one thread.

Read journal (the event loop's side), then worker (the thread's side: group commit, errors), post_log (which
posts are kept, forgotten and read), recent (the newest posts in memory), database (the SQL), layout (the file) and
recovery (what happens to a damaged file).
"""
