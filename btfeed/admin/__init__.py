"""The admin listener: health, readiness, metrics and status over HTTP."""
