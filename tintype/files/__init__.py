"""Files: bounded reading of what a stranger may have made, and writing that is whole or nothing."""
