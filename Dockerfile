# Builds with or without BuildKit. The CUDA libraries come with torch; `docker run --gpus all` makes a GPU available.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
# Before the sources, so that a change of the sources does not install torch again. To fit or evaluate in the container,
# or for the engine openvino, build with `--build-arg REQUIREMENTS=requirements.txt`.
ARG REQUIREMENTS=requirements-serve.txt
COPY requirements*.txt /src/
RUN /venv/bin/pip install --requirement /src/$REQUIREMENTS
COPY . /src
WORKDIR /src
# setuptools is a pinned requirement, so the build downloads nothing.
RUN /venv/bin/pip install --no-deps --no-build-isolation .
# An artifact to include, as a path in the build context; without it, mount one at /artifact.
ARG ARTIFACT=
RUN if [ -n "$ARTIFACT" ]; then cp -r "$ARTIFACT" /artifact && chmod -R a+rX /artifact; else mkdir /artifact; fi


FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin plumbline
COPY --from=build /venv /venv
COPY --from=build /artifact /artifact
# The root filesystem may be read-only: libraries write to /tmp, where a tmpfs is mounted.
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
# Metrics stay on the container's loopback. PLUMBLINE_ADMIN_HOST=0.0.0.0 opens them and needs PLUMBLINE_ADMIN_KEYS_FILE;
# as a default it would prevent a start without keys.
USER 10001
WORKDIR /tmp
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PLUMBLINE_PORT']), timeout=2); c.request('GET', '/v2/health/live'); sys.exit(c.getresponse().status != 200)"]
# On SIGTERM the process answers the requests it has accepted and exits with 0.
ENTRYPOINT ["plumbline"]
CMD ["serve", "--artifact", "model=/artifact"]
