"""An analysis as one HTML page: what was found in words, then every plot. It needs no other file and no network."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines.plots_analysis import Plot

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #555; --ground: #fff }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #eceef2; --soft: #b0b5be; --ground: #17191d } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin-bottom: .2rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem }
.facts, figcaption { color: var(--soft); font-size: .92rem }
figure { margin: 0 } img { max-width: 100%; height: auto; vertical-align: bottom }
.plot { overflow-x: auto; margin-bottom: .4rem } .plot:focus-visible { outline: 2px solid #4a90d9 }
@media (max-width: 40rem) { .plot img { max-width: none; width: 40rem } } /* or its letters could not be read */
li { margin-bottom: .5rem }
"""


def page(document: Mapping[str, Any], plots: Mapping[str, Plot]) -> str:
    """`document` is analysis.json's content."""
    said = "\n".join(f"<li>{escape(sentence)}</li>" for sentence in document["findings"])
    figures = "\n".join(
        f"<h2>{escape(plot.title)}</h2>\n<figure>"
        f"<div class='plot' role='region' aria-label='{escape(plot.title)}' tabindex='0'>"
        f"<img alt='{escape(plot.title)}' "
        f"src='data:image/svg+xml;base64,{base64.b64encode(plot.svg).decode()}'></div>"
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
        for plot in plots.values()
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>radet analysis of {escape(document['model'])}</title><style>{_STYLE}</style></head><body><main>\n"
        f"<h1>What the evidence of {escape(document['model'])} is made of</h1>\n"
        f"<p class='facts'>{_facts(document)}</p>\n"
        f"<ul>\n{said}\n</ul>\n{figures}\n"
        "<p class='facts'>The numbers are in <code>analysis.json</code> and in one CSV file for each table.</p>\n"
        "</main></body></html>\n"
    )


def _facts(document: Mapping[str, Any]) -> str:
    facts = [
        f"model <code>{escape(document['model_id'])}</code>",
        f"{document['real']:,} real and {document['generated']:,} generated pictures of {document['listed']:,} in "
        f"<code>{escape(document['data'])}</code>",
    ]
    if document["reference_data"] is not None:
        facts.append(f"reference: {document['reference']:,} of <code>{escape(document['reference_data'])}</code>")
    if document["broken"]:
        facts.append(f"{len(document['broken']):,} could not be read and were left out")
    return " · ".join(facts)
