# Builds with or without BuildKit. The CUDA libraries come with torch, so `docker run --gpus all` is all a GPU needs.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
# Ahead of the sources, so that a change of ours does not install torch again.
COPY requirements.txt /src/
RUN /venv/bin/pip install --requirement /src/requirements.txt
COPY . /src
WORKDIR /src
# setuptools is among the pinned requirements; nothing else is fetched.
RUN /venv/bin/pip install --no-deps --no-build-isolation .
# An artifact to bake in, as a path in the build's folder; without it, mount one at /artifact.
ARG ARTIFACT=
RUN if [ -n "$ARTIFACT" ]; then cp -r "$ARTIFACT" /artifact && chmod -R a+rX /artifact; else mkdir /artifact; fi


FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin plumbline
COPY --from=build /venv /venv
COPY --from=build /artifact /artifact
# The root filesystem may be read-only: whatever a library wants to write goes to /tmp, where a tmpfs is mounted.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PLUMBLINE_HOST=0.0.0.0 \
    PLUMBLINE_PORT=8000 \
    PLUMBLINE_ADMIN_PORT=8001
# Figures stay on the container's own loopback until somebody says PLUMBLINE_ADMIN_HOST=0.0.0.0, and then need keys of
# their own, PLUMBLINE_ADMIN_KEYS_FILE: an image that listened for all by itself could not start without them.
USER 10001
WORKDIR /tmp
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PLUMBLINE_PORT']), timeout=2); c.request('GET', '/v2/health/live'); sys.exit(c.getresponse().status != 200)"]
# The process itself hears SIGTERM: it answers what it has and ends with 0.
ENTRYPOINT ["plumbline"]
CMD ["serve", "--artifact", "model=/artifact"]
