"""Blocks: functions of a GraphBuilder and a hidden state that return the next one. Architectures compose them."""
