"""A notification and its address."""

ID = "msg_" + "0" * 32
EVENT = {"type": "job.succeeded", "data": {"text": "Zoë"}}
URL = "https://hooks.example.com/done"
