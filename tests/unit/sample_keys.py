"""Texts in the format of real keys."""

GROQ = "gsk_abc123" + "D4eF5gH6" * 5 + "iJ"
GROQ_2 = "gsk_def456" + "D4eF5gH6" * 5 + "iJ"
RESEND = "re_def456Gh_" + "D4eF5gH6" * 3
