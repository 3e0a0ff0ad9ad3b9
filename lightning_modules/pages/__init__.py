"""What the HTML pages of all tools share: a page is one file, which needs no network and no other file."""

from lightning_modules.pages.picture import Picture, lay_out
from lightning_modules.pages.scaffold import figure_element, notes_element, whole_page
from lightning_modules.pages.svg import swatch

__all__ = ["Picture", "figure_element", "lay_out", "notes_element", "swatch", "whole_page"]
