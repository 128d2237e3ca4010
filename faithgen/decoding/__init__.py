"""Decoding: two branches in one forward (`engine`), one distribution out of two (`contrast`), one token (`sampling`)."""
