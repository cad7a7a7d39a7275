"""Fills the object store of the node that it is a driver of, twice over, until it is ended; needs RAY_ADDRESS."""

from __future__ import annotations

import sys
import time

import ray

BLOCK = 8_000_000


def main(size: int) -> None:
    ray.init(log_to_driver=False)
    held = [ray.put(bytes(BLOCK)) for _ in range(2 * size // BLOCK)]
    print(f"{len(held)} objects of {BLOCK} bytes", flush=True)
    while held:
        time.sleep(1.0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
