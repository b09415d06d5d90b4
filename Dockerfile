# A service for finished runs: `tintype serve` in a small image that runs as nobody in particular, on the CPU.
#
#   docker build -t tintype .
#   docker run --rm -p 8000:8000 -v "$PWD/runs/digits:/models/digits:ro" -e TINTYPE_TOKEN tintype /models/digits
#
# The usual wheels of torch bring libraries for GPUs, some gigabytes of them. PyTorch publishes wheels for the CPU alone;
# give their index at the build: --build-arg PIP_EXTRA_INDEX_URL=ADDRESS (see "Get started" on PyTorch's site).
FROM python:3.12-slim

ARG PIP_EXTRA_INDEX_URL=""
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TINTYPE_CACHE=/tmp/tintype

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tintype ./tintype
RUN PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL}" pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[serve]' \
    && rm -rf /src/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tintype

WORKDIR /models
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["tintype", "serve", "--host", "0.0.0.0"]
CMD ["--help"]
