"""The offline bundle: `make bundle` makes it (make.py), and install.sh, which is in it, installs btfeed from it."""
