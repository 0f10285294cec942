"""What several sinks use: http and oauth, tls, redaction, files, clock, avro, cloud_events, and optional native modules."""
