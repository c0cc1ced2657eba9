# One image for the worker and for Flower. Keys and other settings come from the environment at run time, never from here.

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The packages are installed first, because they change seldom: after a change of our code, their layer is reused. The
# lock files are complete, so pip resolves nothing.
COPY requirements-runtime.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/keywheel \
    && python -m pip --python /opt/keywheel install --require-hashes --no-deps -r requirements-runtime.lock \
    && python -m pip install --require-hashes --no-deps -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY .ci/wheel .ci/wheel
COPY config config
COPY worker worker
COPY tasks tasks
RUN python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /opt/keywheel install --no-deps --no-index /wheels/*.whl
# Deletes files that nothing here imports: the packages' own tests, and the grammars by which rich colours source code.
RUN find /opt/keywheel -depth -type d \( -name test -o -name tests \) -exec rm -r {} + \
    && find /opt/keywheel -path '*/pygments/lexers/*' -type f ! -name '__init__.*' ! -name '_mapping.*' -delete

FROM python:3.12-slim
ENV PATH="/opt/keywheel/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --system --gid 10001 keywheel \
    && useradd --system --uid 10001 --gid keywheel --no-create-home --shell /usr/sbin/nologin keywheel
COPY --from=build /opt/keywheel /opt/keywheel
WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "keywheel"]
