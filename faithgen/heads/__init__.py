"""Heads: which ones retrieve (`HeadSet`), what they look at (`AttentionCapture`), and a model without them."""
