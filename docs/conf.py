"""Configuration of Sphinx, which builds the project's Markdown into build/site (`make docs`).

The source folder is the project's root, so that the pages are the files themselves and their links
work on a forge and on the site alike.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "pyspark_theflash"
author = "The pyspark_theflash authors"
release = (ROOT / "pyspark_theflash" / "version.py").read_text().split('"')[-2]
version = release

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md"]
# Folders without pages, which would only be searched.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
nitpicky = True

myst_heading_anchors = 3
highlight_language = "text"

html_theme = "alabaster"
html_theme_options = {
    "description": "A columnar replica of TiDB for Spark",
    "fixed_sidebar": True,
    "page_width": "75rem",
    "show_powered_by": False,
}
html_show_copyright = False
html_copy_source = False
html_use_index = False
# The site's first address leads to its first page.
templates_path = ["_templates"]
html_additional_pages = {"index": "redirect.html"}
