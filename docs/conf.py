"""Sphinx: ``sphinx-build -W -b html docs docs/_build/html``."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

import django
from django.conf import settings
from docutils.nodes import Element
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

# Some modules are only importable in a Django project.
settings.configure(INSTALLED_APPS=["channels", "channels_pg_secrets"], USE_TZ=True)
django.setup()

project = "channels_pg_secrets"
copyright = "the channels_pg_secrets contributors"
release = version = version_of("channels-pg-secrets")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"channels_pg_secrets {version}"
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_mock_imports = ["pytest"]  # the contract suite's; the docs need not run it
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False

nitpicky = True
nitpick_ignore_regex = [
    # Other projects'. Their inventories would have to be fetched for every build.
    ("py:.*", r"(asyncio|collections|pathlib|random|ssl|time|typing)\..*"),
    ("py:.*", r"(asyncpg|channels|django|hvac|psycopg)\..*"),
    (
        "py:.*",
        r"BaseChannelLayer|ChannelFull|MessageTooLarge|ImproperlyConfigured|AuthenticationError",
    ),
    # Type variables, and a union that Sphinx takes for one name.
    ("py:class", r"(.*\.)?[A-Z]|str \| ~.*|dict\[str|Keys"),
    # Public in the code, and described in words.
    ("py:.*", r"pg_secrets\.clock\.Clock|STATIC|answering|newer|requests"),
]


def resolve_short(app: Sphinx, env: Any, node: Element, content: Element) -> Element | None:
    """Find what a docstring calls by its last name alone, if there is just one of that name."""
    if node.get("refdomain") != "py":
        return None
    objects = env.get_domain("py").objects
    name = node["reftarget"].rpartition(".")[2]
    # By place, since a name that is exported elsewhere is entered twice.
    places = {
        (entry.docname, entry.node_id)
        for full, entry in objects.items()
        if full.rpartition(".")[2] == name
    }
    if len(places) != 1:
        return None
    document, anchor = places.pop()
    return make_refnode(app.builder, node.get("refdoc", env.docname), document, anchor, content)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve_short)
