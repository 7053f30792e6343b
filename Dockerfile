# The image of the installer DaemonSet in deploy/kubernetes: Restow's programs, linked statically, and nothing else.
#
#   podman build --tag restow .                                                        from the sources here
#   podman build --tag restow --target prebuilt --file Dockerfile "$(cargo xtask dist)"   from programs that are built already
#
# Both are the same image. docker build does the same.

# What the sources are built in: Rust as in rust-toolchain.toml, a C compiler, and apt-get or protoc.
ARG BUILDER=docker.io/library/rust:1.95.0-trixie
# What the programs are put into. They need nothing of it.
ARG BASE=scratch

FROM ${BASE} AS prebuilt
COPY criu containerd-shim-restow-v2 restow restow-runtime /usr/lib/restow/
ENTRYPOINT ["/usr/lib/restow/restow"]
CMD ["install", "--root", "/host", "--restart", "--stay"]

FROM ${BUILDER} AS build
RUN command -v protoc || { apt-get update && apt-get install --yes --no-install-recommends protobuf-compiler; }
# What is built needs no rights here.
RUN useradd --create-home builder
USER builder
WORKDIR /home/builder/restow
COPY --chown=builder:builder . .
ARG PROFILE=dist
RUN programs=$(cargo xtask dist --profile "${PROFILE}") \
    && mkdir ../programs \
    && cp "${programs}/criu" "${programs}/containerd-shim-restow-v2" "${programs}/restow" "${programs}/restow-runtime" ../programs/

FROM ${BASE}
COPY --from=build --chown=0:0 /home/builder/programs/ /usr/lib/restow/
ENTRYPOINT ["/usr/lib/restow/restow"]
CMD ["install", "--root", "/host", "--restart", "--stay"]
