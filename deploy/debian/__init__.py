"""The Debian package: `make deb` builds it (make.py) with Debian's own tools. The other files go into it."""
