"""The page: explanations to explore in a browser, as one HTML file that needs neither a server nor a network."""

from captum_sgcampp.page.contents import MAX_BYTES
from captum_sgcampp.page.document import frame, save_page

__all__ = ["MAX_BYTES", "frame", "save_page"]
