"""Groq and Resend on this machine, and an embedded Redis: for demos and tests without keys or network."""
