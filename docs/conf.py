"""How the documentation site is built: `sphinx-build -W -n docs build/docs`, with the extra `docs`.

The pages are docs/*.md. They are read on a code host as well: `to_the_site` turns links to files of the
repository into links to pages of the site. The examples are docs/gallery/*.py, which run, and examples/*.py,
which do not: some of them train for minutes.
"""

import os
import re
import sys
from pathlib import Path

import aproarray

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))  # for draw_gallery

project = "aproarray"
author = "The aproarray developers"
project_copyright = author
release = aproarray.__version__
version = "dev" if "dev" in release else release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery.md", "gallery/*"]
templates_path = ["_templates"]
highlight_language = "none"
default_role = "autolink"
nitpicky = True
# Names of other libraries are links nowhere: a build needs no network.
nitpick_ignore_regex = [("py:.*", r"(numpy|scipy|skimage|torch|jax|dask|cupy|napari)(\..*)?")]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": ["gallery", "../examples"],
    "gallery_dirs": ["auto_gallery", "auto_programs"],
    "within_subsection_order": "draw_gallery.Place",
    "ignore_pattern": r"(results|scenes)\.py|__init__\.py",
    "doc_module": ("aproarray",),
    "backreferences_dir": "api/backreferences",
    "log_level": {"backreference_missing": "debug"},
    "show_signature": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_extra_path = ["versions.json"]  # for a build that lies alone
html_css_files = ["site.css"]
html_logo = html_favicon = "_static/logo.svg"
html_sidebars = {name: [] for name in ("index", "getting_started")}
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": project},
    # Versions lie side by side, as dev/ and 0.1.0/. Their list lies beside them: old ones learn of new ones.
    "switcher": {"json_url": "../versions.json", "version_match": version},
    "check_switcher": False,
    "navbar_end": ["version-switcher", "theme-switcher"],
    "header_links_before_dropdown": 6,
    "show_version_warning_banner": True,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}

# Pages of the site that stand for files of the repository, by their path there.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "docs/gallery.md": "auto_gallery/index.rst",
    "examples": "auto_programs/index.rst",
    "aproarray/reference.py": "api/definitions.rst",
}
NOT_RUN = """.. note::

   This program did not run when the page was built.
"""


def on_the_site(path: str) -> str:
    """Return a file of the repository, or the page that stands for it, as seen from docs/."""
    if path in PAGES:
        return PAGES[path]
    for folder, pages in (("docs/gallery", "auto_gallery"), ("examples", "auto_programs")):
        if found := re.fullmatch(rf"{folder}/(?!scenes)(\w+)\.py", path):
            return f"{pages}/{found[1]}.rst"
    return os.path.relpath(ROOT / path, DOCS)


def to_the_site(text: str, folder: Path) -> str:
    """Turn a page's links to files of the repository into links to pages. Other links stay.

    A text that is the file's name gives way to the page's title.
    """

    def link(found: re.Match[str]) -> str:
        text, path, anchor = found.groups()
        target = (folder / path).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return found[0]
        name = target.relative_to(ROOT).as_posix()
        page = "concepts.md" if anchor and name == "README.md" else on_the_site(name)
        names_page = text.removeprefix("docs/") == Path(path).name and Path(page).suffix in (".md", ".rst")
        return f"[{'' if names_page else text}]({page}{anchor})"

    return re.sub(r"\[([^][]*)\]\((?!https?:)([\w./-]+)((?:#[^)]*)?)\)", link, text)


def read_page(app, docname, content):
    """Turn links of a page. Say of a program that it did not run."""
    if app.env.doc2path(docname).suffix == ".md":
        content[0] = to_the_site(content[0], DOCS)
    elif re.match("auto_programs/(?!index)", docname):
        content[0] = re.sub(r"(?m)(^=+\n.+\n=+\n)", rf"\1\n{NOT_RUN}\n", content[0], count=1)


def read_included(app, relative_path, parent_docname, content):
    """Turn links of a file that a page includes."""
    if relative_path.suffix == ".md":
        content[0] = to_the_site(content[0], (DOCS / relative_path).resolve().parent)


def mend_docstring(app, what, name, obj, options, lines):
    """Make links of the pages that docstrings name, as docs/torch.md. "W. Li et al." begins no list."""
    lines[:] = [re.sub(r"\bdocs/(\w+)\.md\b", r":doc:`/\1`", line) for line in lines]
    lines[:] = [re.sub(r"^(\s*\.\. \[\w+\] [A-Z])\. ", r"\1\\. ", line) for line in lines]


def skip_members(app, what, name, obj, skip, options):
    """Leave out fields of named tuples, and what a `ChunkedTree` has for its module alone.

    The section "Attributes" describes fields. Users see of a `ChunkedTree` what a `SpanningTree` has.
    """
    owner = getattr(getattr(obj, "fget", obj), "__qualname__", "").partition(".")[0]
    inner = owner == "ChunkedTree" and not hasattr(aproarray.SpanningTree, name) and name != "chunks"
    return True if inner or type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.connect("autodoc-process-docstring", mend_docstring)
    app.connect("autodoc-skip-member", skip_members)
