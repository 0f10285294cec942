"""Sends traces and metrics to an OpenTelemetry collector, by OTLP over HTTP.

Read settings and packages, then exporter (what is sent, when, and what becomes of it if the collector is away) and registry
(the metrics of /metrics as OTLP has them). Which spans there are is decided in btfeed/app/tracing.py.

Unless it is enabled, only settings and packages are imported: OpenTelemetry's packages need not be installed.
"""
