"""The engine: one loop that trains, measures, checkpoints and resumes."""
