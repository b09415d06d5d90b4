"""What a task may offer to a verb."""
