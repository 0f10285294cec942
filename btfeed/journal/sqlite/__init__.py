"""The embedded journal: one SQLite file, written by one thread.

Read journal (the event loop's side), then thread (jobs and their outcomes), appender (posts without Python), worker
(group commit and errors), post_log (which posts are kept, dropped and read), positions and recent (what is known
without asking the file), database (the SQL of posts and cursors), dead_letter_table (that of dead letters;
dead_letter_block: how they are compressed; dead_letter_bound: which ones are deleted), dead_letters (the commands'
view), layout (the file), recovery (what happens to a damaged file), check (whether it could be opened) and archive
(replay's view).
"""
