"""Calls Groq, judges its answers, and reads the limits that they state."""
