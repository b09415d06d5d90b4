"""How a page out of a run folder is served: somebody else may have made it, so it gets no access to what serves it."""

# A report brings its own scripts, styles and pictures. The sandbox takes it out of the origin, so that it can neither call
# the service or the board nor see a cookie.
SANDBOX = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
