# The page and the REST interface of anchorsr:
#     docker build -t anchorsr .
#     docker run --rm -p 127.0.0.1:8765:8765 -e ANCHORSR_TOKEN=choose-one anchorsr
FROM python:3.13 AS build
WORKDIR /source
COPY . .
# The slim image has no compiler for the kernel, without which upscaling takes twice as long.
RUN ANCHORSR_KERNEL=required \
    pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt ".[web,heic,video]"

FROM python:3.13-slim
COPY --from=build /wheels /wheels
# The versions are those of the wheels.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-index --find-links /wheels "anchorsr[web,heic,video]" \
    && rm -r /wheels \
    && useradd --create-home --uid 10001 anchorsr
USER 10001
# Jobs are kept here: mount a volume, and they outlive the container.
ENV ANCHORSR_CACHE=/home/anchorsr/cache
RUN mkdir "$ANCHORSR_CACHE"
VOLUME /home/anchorsr/cache
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/healthz', timeout=4)"]
ENTRYPOINT ["anchorsr", "serve", "--host", "0.0.0.0", "--no-open"]
