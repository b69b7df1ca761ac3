# Two images from one file: the publisher (what a plain build makes) and, with --target sandbox,
# the simulated API. The base may be any image that holds Python 3.11 or newer with pip.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# For a package index of your own: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
WORKDIR /build
# Dependencies first: they change less often than the code, so this layer stays in the cache.
# Wheels only: the base needs no compiler.
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv --without-pip /opt/publisher \
 && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
 && python3 -m pip --python /opt/publisher/bin/python install --no-cache-dir --no-compile \
      --only-binary :all: --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY publisher publisher
# Nothing changes in an image, so bytecode need not be compared with its source.
RUN python3 -m pip --python /opt/publisher/bin/python install --no-cache-dir --no-compile --no-deps . \
 && /opt/publisher/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/publisher/lib
COPY deploy/healthcheck.py /opt/publisher/
COPY sandbox/__init__.py /opt/sandbox/sandbox/
COPY sandbox/wolkvox /opt/sandbox/sandbox/wolkvox
# A file keeps the rights it has where the image is built. Under a strict umask that would be none
# for the user below.
RUN chmod -R a+rX /opt/publisher/healthcheck.py /opt/sandbox


FROM ${PYTHON_IMAGE} AS runtime
COPY --from=build /opt/publisher /opt/publisher
# pip goes: nothing is installed into a running container. Then everything is imported once,
# because slim images hold no bytecode of the standard library, and a container cannot keep it.
RUN rm -rf /usr/local/bin/pip* /usr/bin/pip* $(python3 -c \
      "import site, sysconfig; print(sysconfig.get_path('stdlib') + '/ensurepip', *site.getsitepackages())") \
 && /opt/publisher/bin/python -c "import aiohttp.web, http.client, publisher.app, publisher.cli"
ENV PATH=/opt/publisher/bin:$PATH
USER 10001:10001


FROM runtime AS sandbox
COPY --from=build /opt/sandbox /opt/sandbox
ENV PYTHONPATH=/opt/sandbox
EXPOSE 8089
HEALTHCHECK --interval=5s --timeout=5s --retries=3 \
  CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8089), 4)"]
ENTRYPOINT ["python", "-m", "sandbox.wolkvox", "--host=0.0.0.0"]


FROM runtime AS publisher
LABEL org.opencontainers.image.title="wolkvox-publisher" \
      org.opencontainers.image.description="Publishes Wolkvox chat conversations to Kafka, each message exactly once" \
      org.opencontainers.image.licenses="Apache-2.0"
EXPOSE 9108
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-I", "-S", "/opt/publisher/healthcheck.py"]
# Exec form: the service is process 1 and gets SIGTERM itself.
ENTRYPOINT ["wolkvox-publisher"]
CMD ["run"]
