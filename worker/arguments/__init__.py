"""Arguments of our tasks, validated at the edge: one wrong field is one clear sentence."""
