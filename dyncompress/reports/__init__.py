"""Present plans, profiles, files and certificates: tables, drawings, an HTML page, a JSON object. Values are only read here."""

from dyncompress.reports.certificate import certificate_json, certificate_text
from dyncompress.reports.html import page
from dyncompress.reports.plain import plain_json
from dyncompress.reports.summary import as_json, as_text, left_alone_sentence, predicted_sentence
from dyncompress.reports.table import Table, layer_table, measures_sentence, number, profile_table

__all__ = [
    "Table",
    "as_json",
    "as_text",
    "certificate_json",
    "certificate_text",
    "layer_table",
    "left_alone_sentence",
    "measures_sentence",
    "number",
    "page",
    "plain_json",
    "predicted_sentence",
    "profile_table",
]
