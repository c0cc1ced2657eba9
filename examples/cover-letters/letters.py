"""The application's task: three completions, a file and an email, with keys of the pool."""

import asyncio
import os
from pathlib import Path
from typing import Any

from worker.celery import app
from worker.clients import groq, once, resend

MODEL = os.environ.get("LETTERS_MODEL", "openai/gpt-oss-20b")
FOLDER = Path(os.environ.get("LETTERS_FOLDER", "letters"))


async def ask(prompt: str) -> str:
    """Return a model's answer to a prompt."""
    answer = await groq.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}]
    )
    return answer.choices[0].message.content or ""


def keep(file: str, text: str) -> None:
    """Write a letter to the folder of letters."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / file).write_text(text, encoding="utf-8")


@app.task(bind=True)
async def write_letter(self: Any, name: str, address: str, opening: str) -> dict[str, Any]:
    """Write a cover letter, keep it in a file, and send it.

    A job may run several times: if no key is free, it goes back to its queue, and if its worker
    dies, another worker runs it. Steps whose results `once` has kept are not repeated.

    Args:
        self: The task.
        name: The name of the applicant.
        address: The email address of the company.
        opening: The position that is open.
    """

    def report(step: str) -> None:
        self.update_state(state="PROGRESS", meta={"step": step})

    report("outline")
    outline = await once("outline", lambda: ask(f"[{name}] Outline a cover letter for {opening}."))
    report("draft")
    draft = await once("draft", lambda: ask(f"[{name}] Write it out: {outline}"))
    report("polish")
    letter = await once("letter", lambda: ask(f"[{name}] Polish it: {draft}"))
    await asyncio.to_thread(keep, f"{self.request.id}.txt", letter)
    report("email")
    sent = await resend.send(to=address, subject=f"Application of {name}", text=letter)
    return {"email": sent["id"], "characters": len(letter)}
