"""One run on disk: its folder, checkpoints, model, files and catalogue."""
