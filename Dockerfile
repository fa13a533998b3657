# One text for every image of the fleet. SERVICE names a folder of services/, or `operator` (the command quantum) or
# `training` (the same with the training frameworks): docker build --build-arg SERVICE=meta-svc .
ARG PYTHON=python:3.11-slim-bookworm

# Our own packages as wheels, and what the wanted one needs from others.
FROM ${PYTHON} AS packages
ENV PIP_CACHE_DIR=/cache
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=cache,target=/cache pip install -q -c constraints.txt hatchling editables
COPY libs libs
COPY services services
COPY cli cli
RUN pip wheel -q --no-deps --no-build-isolation -w /packages libs/* services/* ./cli

FROM packages AS needs
ARG SERVICE
COPY ops/docker/third_party.py ./
RUN case ${SERVICE} in operator) echo quantum-cli ;; training) echo "quantum-cli[train]" ;; *) echo quantum-${SERVICE} ;; esac > /package && \
    python third_party.py /packages "$(cat /package)" > /third-party.txt && \
    case ${SERVICE} in operator|training) echo '-m quantum_cli "$@"' ;; *) echo "-m $(echo ${SERVICE} | tr - _)" ;; esac > /command

# What comes from others changes seldom, and images that need the same share the layer. Torch before all that needs it,
# and from an index of one's own where pip's default offers the CUDA build.
FROM ${PYTHON} AS closure
ARG PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
ENV PIP_CACHE_DIR=/cache
RUN python -m venv --without-pip /venv
COPY constraints.txt ./
COPY --from=needs /third-party.txt ./
RUN --mount=type=cache,target=/cache \
    if grep -qx torch third-party.txt; then pip --python /venv/bin/python install -q -c constraints.txt torch==2.13.0; fi && \
    pip --python /venv/bin/python install -q -c constraints.txt -r third-party.txt && \
    find /venv -type d -name tests -path '*/site-packages/*' -prune -exec rm -r {} +

FROM closure AS own
RUN --mount=type=bind,from=needs,target=/needs \
    pip --python /venv/bin/python install -q --no-index --find-links /needs/packages --prefix /own "$(cat /needs/package)" && \
    install -d /own/bin && printf '#!/bin/sh\nexec /venv/bin/python %s\n' "$(cat /needs/command)" > /own/bin/run && \
    chmod +x /own/bin/run

FROM ${PYTHON}
ARG SERVICE
# LightGBM and XGBoost bring everything but GCC's OpenMP.
RUN test ${SERVICE} != training || \
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; }
# The group may write what a volume is made of: each container of the fleet has a user of its own.
RUN groupadd -g 10001 quantum && useradd -u 10001 -g quantum -d /tmp -M quantum && \
    install -d -o quantum -g quantum -m 2775 /state /models /market /secrets
COPY --from=closure /venv /venv
COPY --from=own /own /venv
ENV PATH=/venv/bin:$PATH SERVICE=${SERVICE} HOME=/tmp PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 \
    QT_HOST=0.0.0.0 QT_STATE_DIR=/state QT_MODELS_DIR=/models QT_SECRETS_DIR=/secrets/${SERVICE}
USER quantum
WORKDIR /tmp
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["python", "-m", "quantum_common.probe"]
ENTRYPOINT ["run"]
