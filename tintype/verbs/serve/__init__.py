"""A service and a web page for finished models of every task (needs `tintype[serve]`).

`server.serve` runs it, `app.make_app` is the ASGI application, `batching.Compute` the one thread
that owns the networks.
"""
