"""A service and a web page for finished runs: classify, generate and upscale over HTTP (needs `tintype[serve]`).

`server.serve` runs it, `app.make_app` is the ASGI application, `batching.Compute` the one thread
that owns the networks.
"""
