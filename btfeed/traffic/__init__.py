"""Posts that do not come from a live AppMon: recorded or generated ones.

replay reads recorded posts, and capture records them. visits simulates the visits that a profile
describes, and generate makes posts of them. sending sends posts, to a file or with http_target to a URL.
"""
