"""Groq: its client, what its answers mean, and what it says about limits."""
