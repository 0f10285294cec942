"""Takes posts over HTTP. Read receiver, then memory (how much memory posts may occupy while they arrive)."""
