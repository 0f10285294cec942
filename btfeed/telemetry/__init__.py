"""What btfeed reports about itself. Read metrics, then sink_status (what /status says of a sink), then logs
and warnings (those that are summed up). The package opentelemetry sends metrics and traces elsewhere."""
