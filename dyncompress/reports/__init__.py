"""What people and machines read: tables, drawings, one HTML page, one JSON object. Pure readers of the nouns."""

from dyncompress.reports.html import page
from dyncompress.reports.summary import as_json, as_text, certificate_text, share_sentence
from dyncompress.reports.table import Table, layer_table, profile_table

__all__ = ["Table", "as_json", "as_text", "certificate_text", "layer_table", "page", "profile_table", "share_sentence"]
