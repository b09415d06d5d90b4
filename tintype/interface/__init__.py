"""How tintype meets people: calls and results in Python, text in a shell, notebooks."""
