"""The embedded journal: one SQLite file, written by one thread.

Read journal (the event loop's side), then thread (jobs and their outcomes), worker (group commit and errors), post_log
(which posts are kept, dropped and read), positions and recent (what is known without asking the file), database and
dead_letters (the SQL), layout (the file), recovery (what happens to a damaged file), check (whether it could be opened)
and archive (replay's view).
"""
