"""The file that describes a folder, as a part of its page.

Markdown is rendered without any HTML of its own, with links that lead nowhere but to http, https, mailto and
relative addresses, and without images from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererProtocol
    from markdown_it.token import Token
    from markdown_it.utils import OptionsDict

# A longer one is cut: it is a page of its own.
MAX_README_BYTES = 256 * 1024

_ELSEWHERE = r"(?i)[a-z][a-z0-9+.\-]*:|//"
_ALLOWED_SCHEME = r"(?i)(?:https?|mailto):"
_MARKDOWN = (b".md", b".markdown")


class Readme(NamedTuple):
    """`is_whole` is False when `data` is only the beginning of the file."""

    name: bytes
    data: bytes
    is_whole: bool

    @property
    def text(self) -> str:
        return self.data.decode("utf-8-sig", "replace")

    @property
    def is_markdown(self) -> bool:
        return self.name.lower().endswith(_MARKDOWN)


def render_markdown(text: str) -> str:
    """HTML that is safe to stand in a page, whatever the text holds."""
    html: str = _load_markdown().render(text)
    return html


@cache
def _load_markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt  # only a folder that has one pays for it

    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    markdown.validateLink = is_safe_link  # type: ignore[method-assign]
    markdown.add_render_rule("link_open", _render_link)
    markdown.add_render_rule("image", _render_image)
    markdown.core.ruler.push("headings", _lower_headings)
    return markdown


def is_safe_link(url: str) -> bool:
    """Whether a link may lead there: it can only be followed, never run."""
    # Browsers pass over blanks and control characters where a scheme may stand.
    bare = re.sub(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028\u2029\ufeff]", "", url)
    head = re.split(r"[/?#]", bare, maxsplit=1)[0]
    return ":" not in head or re.match(_ALLOWED_SCHEME, bare) is not None


def _lower_headings(state: Any) -> None:
    """The page has a heading of its own, and so has the part that this text is."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"


def _render_link(
    renderer: RendererProtocol,
    tokens: list[Token],
    index: int,
    options: OptionsDict,
    env: MutableMapping[str, Any],
) -> str:
    token = tokens[index]
    token.attrSet("rel", "noopener noreferrer nofollow")
    return _open_link(renderer, token)


def _render_image(
    renderer: RendererProtocol,
    tokens: list[Token],
    index: int,
    options: OptionsDict,
    env: MutableMapping[str, Any],
) -> str:
    token = tokens[index]
    alt = renderer.renderInlineAsText(token.children, options, env)  # type: ignore[attr-defined]
    source = str(token.attrs.get("src", ""))
    if not re.match(_ELSEWHERE, source):
        token.attrSet("alt", alt)
        token.attrSet("loading", "lazy")
        return f"<img{renderer.renderAttrs(token)}>"  # type: ignore[attr-defined]
    from markdown_it.common.utils import escapeHtml

    depth = sum((token.type == "link_open") - (token.type == "link_close") for token in tokens[:index])
    if depth:
        return escapeHtml(alt or source)
    # A page that asks others for its images would tell them who reads it.
    link = type(token)("link_open", "a", 1, {"href": source, "rel": "noopener noreferrer nofollow"})
    return f"{_open_link(renderer, link)}{escapeHtml(alt or source)}</a>"


def _open_link(renderer: RendererProtocol, token: Token) -> str:
    # With a blank before "=": programs that read the list by a pattern take only what is in it for entries.
    attributes: str = renderer.renderAttrs(token)  # type: ignore[attr-defined]
    return f"<a{attributes}>".replace(' href="', ' href ="', 1)
