"""Groq and Resend on this machine, and an embedded Redis.

For demos and tests without keys or network.
"""
