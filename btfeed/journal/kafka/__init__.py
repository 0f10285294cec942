"""The replicated journal: posts in a topic of Kafka, for receivers and deliveries on any number of machines.

Read settings (what is configured), names (of topics and groups), messages (a post as a message), then intake (posts go in)
with senders (how posts reach the brokers) and spill (where they wait while the brokers are away), and cluster (topics made,
checked and looked at). Dead letters: letter_messages (what is in their topics), letter_index (what is known of them), and
letters (what outlets and the journal ask of them) with letter_view (what commands do).

Posts go out through outlets: outlet (what one partition gives and saves) with reading, progress and metadata, then session
(the assignments of one consumer) and group (a sink's membership, whatever happens to its consumers). journal joins it all.
"""
