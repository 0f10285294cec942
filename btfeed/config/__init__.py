"""The configuration file: TOML, assembled from the settings that each component declares.

Read `loading` first. `substitution` replaces `${NAME}` and the like in strings. `keys` says what each key is, in words: the
documentation and the modules below are made from it.
"""

from btfeed.config.loading import TABLES, Config, Sections, load, parse

__all__ = ["TABLES", "Config", "Sections", "load", "parse"]
