# docker build -t pg-lightning .
# docker run --rm -v "$PWD/runs:/home/agent/runs" pg-lightning fit --config cartpole
FROM python:3.11-slim

# PyTorch for CPUs alone: a fifth of the size of the one with CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0"

COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt /src && rm -rf /src

RUN useradd --create-home agent
USER agent
WORKDIR /home/agent
ENV OMP_NUM_THREADS=1
ENTRYPOINT ["pg-lightning"]
CMD ["--help"]
