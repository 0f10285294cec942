"""Posts: raw `BusinessTransactions` messages. Read post, then files (posts in files). bt_pb2 is generated from proto/."""
