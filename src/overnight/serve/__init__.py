"""A local page and a JSON API on a trained byte model: features, scores, traces, classes, text; see docs/serve.md.

Requests of all kinds are lanes of one batch that goes on byte after byte (``lanes``, ``engine``); ``schema`` and
``openapi`` say what a request may hold, once for the checks and for the document; ``app`` joins them over HTTP.
"""
