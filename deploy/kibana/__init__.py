"""The saved objects for Kibana: `dashboard` describes them, `objects` knows their format, `make` the file."""
