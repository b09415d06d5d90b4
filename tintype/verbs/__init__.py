"""One folder or file for each thing that a user asks for."""
