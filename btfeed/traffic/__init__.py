"""Posts that do not come from a live AppMon: recorded or generated ones.

replay reads recorded posts, and capture records them. generate makes posts of the visits that visits simulates for a
profile. sending sends posts to a URL or to a file.
"""
