"""Settings of the documentation."""

from __future__ import annotations

import base64
import inspect
import json
import os
import shutil
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike
from sphinx.ext.napoleon import NumpyDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent

project = "cantata"
author = "The cantata developers"
copyright = f"2026, {author}"
release = version = installed_version("cantata")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
if os.environ.get("READTHEDOCS"):
    # Needs a network; without one its warnings would fail a build that treats warnings as errors.
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/en/latest/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
# The pages that autosummary generates take the first suffix, and are reStructuredText.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
suppress_warnings = [
    "config.cache",  # autosummary_context holds a function
    "mystnb.unknown_mime_type",
]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

# Every name of cantata has to be found. Those of other packages are links where their
# inventories can be read, and plain text elsewhere.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!cantata\b)[A-Za-z]\w*(\.\w+)+"),
    (r"py:data", r"Ellipsis"),
    (r"py:class", r"Module|Tensor"),  # torch's, without their module
]

autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = False
napoleon_use_rtype = True
typehints_defaults = "braces"
typehints_document_rtype_none = False
always_use_bars_union = True

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"navbar_persistent": []}  # the sidebar has a search field
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# What scvi-tools' base classes give and every user needs; its own pages show their other members.
INHERITED = {"history", "load", "load_query_data", "prepare_query_mudata", "save"}
NOT_FOR_USERS = {"setup_anndata"}

FRONT_PAGE = "front-page"


def own_members(fullname: str, names: list[str]) -> list[str]:
    """Members of a class that cantata defines, and those that every user of a model needs.

    Parameters
    ----------
    fullname
        Name of the class with its module.
    names
        Names of its public members.

    Returns
    -------
    The names to document, in the given order.
    """
    module, _, name = fullname.rpartition(".")
    cls = getattr(import_module(module), name)
    ours = {
        member
        for base in inspect.getmro(cls)
        if base.__module__.partition(".")[0] == "cantata"
        for member in vars(base)
    }
    return [
        member
        for member in names
        if not member.startswith("_") and member in (ours | INHERITED) - NOT_FOR_USERS
    ]


autosummary_context = {"own_members": own_members}


def typehints_formatter(annotation: object, _config: object) -> str | None:
    """Name numpy's ``ArrayLike`` instead of spelling out the union behind it."""
    return "``ArrayLike``" if annotation == ArrayLike else None


def public_module(module: str) -> str:
    """Module by which users import a class: the part before a private component."""
    public: list[str] = []
    for part in module.split("."):
        if part.startswith("_") or (public and part == "core"):
            break
        public.append(part)
    return ".".join(public)


typehints_fixup_module_name = public_module


def attribute_as_prose(self: NumpyDocstring) -> tuple[str, list[str]]:
    """Read the docstring of an attribute as text: its type stands in the annotation."""
    return "", self._dedent(self._consume_to_end())


def returns_as_prose(self: NumpyDocstring, _section: str) -> list[str]:
    """Read a "Returns" section as text: types stand in the annotations, never before a colon."""
    lines = self._dedent(self._consume_to_next_section())
    if lines[:1] == [":"]:  # put there by sphinx-autodoc-typehints for napoleon's own reading
        lines = lines[1:]
    return [*self._format_block(":returns: ", lines), ""]


NumpyDocstring._consume_inline_attribute = attribute_as_prose
NumpyDocstring._parse_returns_section = returns_as_prose


def copy_tutorials(_app: Sphinx, _config: object) -> None:
    """Bring the notebooks, which are stored once, outside ``docs``, into the source folder.

    The picture of the cell tagged ``front-page`` becomes a file beside its notebook.
    """
    target = HERE / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for notebook in (HERE.parent / "tutorials").glob("*.ipynb"):
        shutil.copy2(notebook, target)
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if FRONT_PAGE in cell["metadata"].get("tags", []):
                shown = [output["data"] for output in cell["outputs"] if "data" in output]
                picture = next(data["image/png"] for data in shown if "image/png" in data)
                (target / f"{notebook.stem}.png").write_bytes(base64.b64decode(picture))


def setup(app: Sphinx) -> None:
    """Register what this documentation needs beyond its extensions."""
    app.connect("config-inited", copy_tutorials)
