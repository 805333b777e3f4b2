"""The drivers of ``soak.py --faults``; they are told in JSON what to do, and answer so.

``fault_driver.py run JSON`` runs the batches of trees of one slot until it is time to
stop. ``fault_driver.py cancel`` cancels the transformations whose checksums it reads, as
``seamless-cancel`` does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from traceback import format_exception
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "tests"))

import faults  # noqa: E402
import seamless  # noqa: E402
import seamless.config  # noqa: E402
from drivers.workloads import Grower, bulk, tree_node  # noqa: E402
from seamless.transformer import Transformation, delayed, parallel  # noqa: E402

DEPTH, WIDTH = 4, 4


_saying = threading.Lock()


def say(**message: Any) -> None:
    """Tell the soak test; any thread may."""
    with _saying:
        print(json.dumps(message), flush=True)


class Slot:
    """Runs batches of trees."""

    def __init__(self, seed: int, number: int, slot: int, buffers: str) -> None:
        #: where the hashserver keeps them
        self._buffers = Path(buffers)
        self._seed, self._number, self._slot = seed, number, slot
        self._forest = faults.Forest(Grower(DEPTH, WIDTH), seed, number)
        self._salt = faults.salt(seed, number)
        self._pause = faults.pause(seed, number)
        self._make = delayed(tree_node)
        self._produce, self._consume = bulk()

    def run(self, position: int) -> None:
        """Run one batch, and tell how each tree has ended."""
        batch = faults.batch(self._seed, self._number, self._slot, position)
        begin = time.time()
        nodes = [
            self._make(self._salt, self._forest[tree], 0, self._pause)
            for tree in batch.trees
        ]
        names = [("tree", tree) for tree in batch.trees]
        for blob in batch.blobs:
            produced = self._produce(self._salt, blob, faults.BLOB)
            nodes.append(self._consume(produced))
            names.append(("blob", blob))
        say(batch=position, plan=asdict(batch))
        ways = {
            "parallel": self._in_parallel,
            "start": self._started,
            "threads": self._in_threads,
            "task": self._as_tasks,
        }
        results = ways[batch.way](nodes, batch.cancels)
        for place, result in enumerate(results):
            failed = isinstance(result, BaseException)
            say(
                sort=names[place][0],
                number=names[place][1],
                begin=begin,
                end=time.time(),
                value=None if failed else result,
                error=f"{type(result).__name__}: {result}" if failed else None,
                trace="".join(format_exception(result)) if failed else None,
                batch=position,
                way=batch.way,
            )

    def _cancel(self, node: Transformation) -> None:
        # Before the cancel itself: what it ends may be told before it returns.
        say(cancels=node.construct().hex(), at=time.time())
        node.cancel()

    def _timers(
        self, nodes: Sequence[Transformation], cancels: dict[int, float]
    ) -> list[threading.Timer]:
        timers = [
            threading.Timer(delay, self._cancel, (nodes[place],))
            for place, delay in cancels.items()
        ]
        for timer in timers:
            timer.start()
        return timers

    def _in_parallel(
        self, nodes: Sequence[Transformation], cancels: dict[int, float]
    ) -> list[Any]:
        for _finished in parallel(nodes):
            continue
        return [self._outcome(node) for node in nodes]

    def _started(
        self, nodes: Sequence[Transformation], cancels: dict[int, float]
    ) -> list[Any]:
        timers = self._timers(nodes, cancels)
        for node in nodes:
            node.start()
        results = [self._outcome(node) for node in nodes]
        for timer in timers:
            timer.join()
        return results

    def _in_threads(
        self, nodes: Sequence[Transformation], cancels: dict[int, float]
    ) -> list[Any]:
        timers = self._timers(nodes, cancels)
        with ThreadPoolExecutor(len(nodes)) as pool:
            results = list(pool.map(self._outcome, nodes))
        for timer in timers:
            timer.join()
        return results

    def _as_tasks(
        self, nodes: Sequence[Transformation], cancels: dict[int, float]
    ) -> list[Any]:
        async def together() -> list[Any]:
            loop = asyncio.get_running_loop()
            for place, delay in cancels.items():
                loop.call_later(delay, self._cancel, nodes[place])
            return await asyncio.gather(*map(self._task, nodes))

        return asyncio.run(together())

    async def _task(self, node: Transformation) -> Any:
        try:
            await node.computation()
            self._see_whether_stored(node)
            return await node.task()
        except Exception as error:  # noqa: BLE001 - the soak test judges it
            return error

    def _outcome(self, node: Transformation) -> Any:
        """Return the value of a transformation, or its error."""
        try:
            node.compute()
            self._see_whether_stored(node)
            return node.run()
        except Exception as error:  # noqa: BLE001 - the soak test judges it
            return error

    def _see_whether_stored(self, node: Transformation) -> None:
        """What was announced to this process must be on the hashserver now."""
        if node.exception is not None:
            return
        checksum = node.result_checksum.hex()
        if not (self._buffers / checksum[:2] / checksum).is_file():
            say(missing=checksum, of=node.transformation_checksum.hex())


def run(order: dict[str, Any]) -> None:
    """Run one batch after the other until the round is over: a file says so."""
    seamless.config.init(workdir=".")
    say(ready=True)
    slot = Slot(order["seed"], order["round"], order["slot"], order["buffers"])
    position = order["position"]
    over = Path(order["over"])
    while not over.exists():
        slot.run(position)
        position += 1
    seamless.close()
    say(closed=True)


def cancel() -> None:
    """Cancel what standard input names, until it ends."""
    from seamless import Checksum
    from seamless_transformer.api.cancel import cancel_by_checksum

    seamless.config.init(workdir=".")
    say(ready=True)
    for line in sys.stdin:
        cancelled, messages = cancel_by_checksum(Checksum(line.strip()))
        say(checksum=line.strip(), cancelled=cancelled, messages=messages)
    seamless.close()
    say(closed=True)


def main() -> None:
    if sys.argv[1] == "cancel":
        cancel()
    else:
        run(json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
