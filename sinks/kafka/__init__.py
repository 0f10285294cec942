"""The Kafka sink.

Read in this order: sink (settings and the way of a batch), partition_queue (what is left to send to a partition,
and how a refused batch is halved),
partitions (which partition a record goes to), messages (from records to Kafka's batches; with columns and finished_batch
for native code), producer (sends batches), topics, access (connections and security), registry (Avro schemas).
"""

from sinks.kafka.sink import SINK as SINK
