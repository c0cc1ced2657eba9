"""When jobs may start and end: before they are enqueued, and while they wait in a queue."""
