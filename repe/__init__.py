"""Multilingual human value concepts in large language models: collect, recognise, compare, transfer."""
