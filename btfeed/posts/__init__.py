"""Posts: the raw messages that AppMon sends.

Read post (the body, its digest, its message), admission (which posts the receiver takes), files (posts in files). bt_pb2 is
generated from proto/bt.proto.
"""
