"""Resend: the wire, and what its answers mean."""
