"""Adaptors of the tokenizer models.

Export copies one of them as ``1/model.py`` into a tokenizer model, with ``fathom_server/text/tokenizer.py`` beside it
as ``fathom_text.py``: such a model must run where ``fathom_server`` is not installed.
"""
