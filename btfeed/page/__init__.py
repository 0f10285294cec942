"""The page that the admin listener shows in a browser: HTML made of a snapshot (docs/status.md). Read `page`, then `view`.

`templates` has the HTML, `static` the stylesheet and the script, which need no build step. `charts` draws SVG.
"""
