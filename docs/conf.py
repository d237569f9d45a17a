"""Settings of the site: `python -m sphinx -W --keep-going -n -b html docs docs/_build/html`.

The pages under `docs/generated/` are written at the start of every build from the code and the recipes; they are not committed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

from _generate import docstrings, mathml, write_all

import dyncompress

project = "dyncompress"
author = "the dyncompress authors"
release = version = dyncompress.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_generate", "generated/*_in_short.md", "generated/examples.md"]  # parts that other pages include
default_role = "code"

# Markdown
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a README that is included begins below the first level

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90  # a longer one has a line for each argument
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source", "Assumes", "Cost", "Fails when"]
# Names of other packages have no page here, and no network is needed to build. Everything of dyncompress is checked.
nitpick_ignore_regex = [(r"py:.*", r"(?!dyncompress\.).*")]

# Doctests of the docstrings on these pages
doctest_test_doctest_blocks = "default"
doctest_global_setup = "import numpy as np\nfrom dyncompress import *\nfrom dyncompress.types import *"

# Links: those inside the site are always checked. DOCS_EXTERNAL_LINKS=1 also asks the servers of others.
if os.environ.get("DOCS_EXTERNAL_LINKS") != "1":
    linkcheck_ignore = [r"https?://"]
linkcheck_timeout = 20

# Pages
html_theme = "furo"
html_title = f"dyncompress {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: object) -> None:
    """Write the generated pages, and read docstrings as text with `code` in it."""
    write_all(DOCS)
    docstrings.connect(app)
    mathml.connect(app)
