"""Answers held to a structure: which tokens a JSON schema, regular expression, choice or grammar allows next."""

from fathom_server.engine.grammar.compiler import Grammar, GrammarCompiler
from fathom_server.engine.grammar.mask_pool import MaskJob, MaskPool
from fathom_server.engine.grammar.matcher import Matcher

__all__ = ["Grammar", "GrammarCompiler", "MaskJob", "MaskPool", "Matcher"]
