"""Groq: the wire, what its answers mean, and what it says about limits."""
