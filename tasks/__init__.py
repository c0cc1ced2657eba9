"""What a user of the queue sees: tasks named as the providers name their things."""
