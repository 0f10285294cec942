"""A dashboard and a notebook for Dynatrace: `queries` has what they ask in DQL, `make` their format."""
