# syntax=docker/dockerfile:1.7
# Touchline's images, told apart by --target: server, push, cli. docs/image.md says what is in them.
#
#   docker build --target server --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) \
#       --build-arg REVISION=$(git rev-parse HEAD) -t touchline-server .
#
# Tags move. Whoever wants the same bytes again next year names both images with their digests:
# --build-arg BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot@sha256:…
ARG RUST_IMAGE=docker.io/library/rust:1.94-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BASE_IMAGE} AS base

# Lists the crates that a binary is made of.
FROM ${RUST_IMAGE} AS cyclonedx
ARG CARGO_CYCLONEDX_VERSION=0.5.9
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked --version "$CARGO_CYCLONEDX_VERSION" --root /cyclonedx cargo-cyclonedx

FROM ${RUST_IMAGE} AS build
WORKDIR /src
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} CARGO_INCREMENTAL=0
# No path of the machine that builds is in a binary, neither of Rust's nor of C's.
ENV RUSTFLAGS="--remap-path-prefix=/src=/touchline --remap-path-prefix=/usr/local/cargo=/cargo --remap-path-prefix=/usr/local/rustup=/rustup" \
    CFLAGS="-ffile-prefix-map=/usr/local/cargo=/cargo -ffile-prefix-map=/src=/touchline"
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --profile dist --locked -p touchline-server -p touchline-push -p touchline-cli \
        --bin touchline-server --bin touchline-push --bin touchline \
        --features touchline-server/ssm,touchline-push/ssm \
    && install -D --target-directory=/out target/dist/touchline-server target/dist/touchline-push target/dist/touchline
COPY --from=cyclonedx /cyclonedx/bin/cargo-cyclonedx /usr/local/bin/
COPY --from=base /var/lib/dpkg/status.d /base
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    for binary in touchline-server touchline-push touchline; do \
        python3 tests/real/image/sbom.py "$binary" --packages /base --output "/out/$binary.cdx.json" || exit 1; \
    done

# What the three have in common.
FROM base AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Touchline" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.source="https://github.com/touchline/touchline" \
    org.opencontainers.image.documentation="https://github.com/touchline/touchline/blob/main/docs/image.md" \
    org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# By number, so that a cluster sees that it is not root.
USER 65532:65532
STOPSIGNAL SIGTERM

FROM runtime AS server
LABEL org.opencontainers.image.title="touchline-server" \
    org.opencontainers.image.description="The gRPC recommendation service of Touchline"
COPY --from=build /out/touchline-server /usr/local/bin/touchline-server
COPY --from=build /out/touchline-server.cdx.json /usr/share/sbom/touchline-server.cdx.json
# gRPC; metrics and health.
EXPOSE 50051 9090
ENTRYPOINT ["/usr/local/bin/touchline-server"]

FROM runtime AS push
LABEL org.opencontainers.image.title="touchline-push" \
    org.opencontainers.image.description="Touchline's push adapter and, as `touchline-push gateway`, its WebSocket front"
COPY --from=build /out/touchline-push /usr/local/bin/touchline-push
COPY --from=build /out/touchline-push.cdx.json /usr/share/sbom/touchline-push.cdx.json
# gRPC of the push adapter, of a gateway; fans; management; metrics and health.
EXPOSE 50052 50053 8081 8082 9091
ENTRYPOINT ["/usr/local/bin/touchline-push"]

FROM runtime AS cli
LABEL org.opencontainers.image.title="touchline" \
    org.opencontainers.image.description="Touchline's command line: the page, tables, checks of an installation"
COPY --from=build /out/touchline /usr/local/bin/touchline
COPY --from=build /out/touchline.cdx.json /usr/share/sbom/touchline.cdx.json
# The page.
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/touchline"]
