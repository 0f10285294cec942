"""Posts that do not come from a live AppMon: recorded or generated, and where they go.

replay sends recorded posts, capture records them. generate makes them from a profile's visits. sending posts to a url.
"""
