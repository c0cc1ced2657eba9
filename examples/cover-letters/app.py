"""The page of the application, which enqueues letters and shows the progress of each."""

import os
from pathlib import Path
from typing import Any

from celery import Celery
from fastapi import FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
queue = Celery(broker=REDIS_URL, backend=REDIS_URL)
app = FastAPI(title="Cover letters")


class Application(BaseModel):
    """The fields of the form."""

    name: str = Field(min_length=1, max_length=100)
    address: str = Field(min_length=3, max_length=200)
    opening: str = Field(min_length=1, max_length=200)


@app.get("/", response_class=FileResponse)
def page() -> Path:
    """Show the page."""
    return Path(__file__).with_name("page.html")


@app.post("/letters", status_code=202)
def apply(application: Application) -> dict[str, str]:
    """Enqueue a letter."""
    job = queue.send_task("letters.write_letter", kwargs=application.model_dump(), queue="jobs")
    return {"id": job.id}


@app.get("/letters/{job_id}")
def progress(job_id: str) -> dict[str, Any]:
    """Return the progress of a letter."""
    job = queue.AsyncResult(job_id)
    state, result = job.state, job.result
    if state == "PROGRESS":
        return {"state": "writing", "step": result["step"]}
    if state == "SUCCESS":
        return {"state": "sent", **result}
    if state == "FAILURE":
        return {"state": "failed", "reason": str(result)}
    return {"state": "waiting"}
