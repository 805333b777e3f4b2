"""A driver script whose transformations write: ``python output_driver.py SALT GATE``.

They wait until the file GATE exists, and then end.
"""

from __future__ import annotations

import sys

import seamless
import seamless.config
from seamless.transformer import delayed


def simulate(salt, gate):
    from seamless.transformer import delayed

    def score(number, gate):
        import os
        import sys
        import time

        print("scoring", number)
        print("careful", file=sys.stderr)
        while not os.path.exists(gate):
            time.sleep(0.05)
        print("scored", number)
        return number

    print("simulating", salt)
    nodes = [delayed(score)(number, gate) for number in (101, 102)]
    for node in nodes:
        node.start()
    return sum(node.run() for node in nodes)


if __name__ == "__main__":
    seamless.config.init(workdir=".")
    tf = delayed(simulate)(sys.argv[1], sys.argv[2])
    tf.streaming = len(sys.argv) > 3
    print("the result is", tf.run())
    seamless.close()
