"""Real servers for tests, stand-ins for services, and what installs the servers."""
