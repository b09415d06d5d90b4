"""How a page out of a run folder is served: somebody else may have made it, so it gets no access to
what serves it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

# A report brings its own scripts, styles and pictures. The sandbox takes it out of the origin, so
# that it can neither call the service or the board nor see a cookie.
SANDBOX = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def without_dead_links(page: bytes, served: Sequence[str] = ()) -> bytes:
    """Return a page that does not show links to files of its folder which are not served with it.

    `served` holds the suffixes of the files that are, as ".png". The rule is added when the page is
    served, so that it holds for pages of earlier versions too.
    """
    kept = ", ".join(f'a[href$="{suffix}"]' for suffix in served)
    hidden = f"footer .files li:not(:has({kept}))" if served else "footer .files, footer .beside"
    start, end, rest = page.rpartition(b"</body>")
    rule = f"<style>{hidden} {{ display: none; }}</style>".encode()
    return start + rule + end + rest if end else page + rule


def with_way_back(page: bytes, links: Sequence[tuple[str, str]]) -> bytes:
    """Return a page with links, each an address and what it is called, beside its wordmark: a page
    alone has none.
    """
    wordmark = b'<p class="wordmark">tintype'
    anchors = " ".join(
        f'<a href="{html.escape(address)}">{html.escape(title)}</a>' for address, title in links
    )
    style = "margin-left: 1.4rem; font: .85rem/1 system-ui, sans-serif"
    return page.replace(
        wordmark, wordmark + f' <span class="way-back" style="{style}">{anchors}</span>'.encode(), 1
    )
