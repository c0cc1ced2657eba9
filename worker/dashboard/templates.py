"""Loads Flower's templates and ours, and adds our page to Flower's navigation."""

import logging
from pathlib import Path
from typing import Any

from tornado.template import Loader, Template

OURS = Path(__file__).parent / "templates"
_NAVBAR = "navbar.html"
_END_OF_LIST = "</ul>"
_ENTRY = """\
  <li class="nav-item">
          <a class="nav-link{% if active_tab == 'keys' %} active{% end %}"
            href="{{ reverse_url('keys') }}"
            {% if active_tab == 'keys' %}aria-current="page"{% end %}>Keys</a>
        </li>
      """
_logger = logging.getLogger(__name__)


class KeysLoader(Loader):
    """Loads our templates from our folder and every other from Flower's, with our navigation entry.

    Flower has no plugin interface. Its navigation is one template whose first list holds the pages.
    """

    def _create_template(self, name: str) -> Any:
        ours = OURS / name
        if ours.is_file():
            return Template(ours.read_bytes(), name=name, loader=self)
        if name != _NAVBAR:
            return super()._create_template(name)
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        before, end, after = text.partition(_END_OF_LIST)
        if not end:
            _logger.warning(
                "this version of Flower has a different navigation, so it has no link to the page "
                "/keys"
            )
            return Template(text, name=name, loader=self)
        return Template(before + _ENTRY + end + after, name=name, loader=self)
