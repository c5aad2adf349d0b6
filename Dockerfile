# docker build -t kvsmith .
# docker run --rm --gpus all -v "$PWD:/work" kvsmith --help
FROM debian:12

WORKDIR /opt/kvsmith
COPY run ./
RUN ./run setup && rm -rf /var/lib/apt/lists/* ~/.cache
COPY . .
RUN ./run build && rm -rf ~/.cache \
    && useradd --create-home kvsmith && install -d -o kvsmith /work

USER kvsmith
WORKDIR /work
ENTRYPOINT ["/opt/kvsmith/build/release/kvsmith"]
