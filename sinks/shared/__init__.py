"""What several sinks use: HTTP, OAuth, Avro, CloudEvents, native modules."""
