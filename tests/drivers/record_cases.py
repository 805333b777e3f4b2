"""Cases for ``test_records.py`` as driver scripts: ``python record_cases.py NAME``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import seamless
import seamless.config
from seamless.transformer import delayed
from seamless_config.select import select_record
from seamless_remote import database_remote
from seamless_transformer.probe_capture import refresh_required_buckets_sync

Seen = dict[str, Any]


def add(a, b):
    return a + b


def record_of(transformation: Any) -> Any:
    checksum = transformation.transformation_checksum
    return asyncio.run(database_remote.get_execution_record(checksum))


def outcome(transformation: Any) -> Seen:
    transformation.compute()
    if transformation.exception is not None:
        return {"exception": transformation.exception}
    return {"value": transformation.run(), "record": record_of(transformation)}


def refresh() -> list[str]:
    answer = refresh_required_buckets_sync({"__language__": "python"}, {})
    return sorted(bucket["bucket_kind"] for bucket in answer["refreshed"])


def without_probes() -> Seen:
    """Nobody has probed this place."""
    return outcome(delayed(add)(1, 1))


def with_probes() -> Seen:
    """After probing: at the top, scratch, nested, and a second time."""

    def outer(a):
        from seamless.transformer import direct

        @direct
        def inner(b):
            return 2 * b

        return inner(a)

    refreshed = refresh()
    again = delayed(add)(1, 1)
    scratch = delayed(add)
    scratch.scratch = True
    return {
        "refreshed": refreshed,
        "top": outcome(delayed(add)(1000, 1)),
        "again": outcome(again),
        "scratch": outcome(scratch(1000, 2)),
        "nested": outcome(delayed(outer)(3)),
    }


def stale() -> Seen:
    """A probe's tokens are those of another boot."""
    refresh()

    async def spoil() -> None:
        import socket

        label = socket.gethostname()
        probe = await database_remote.get_bucket_probe("node", label)
        await database_remote.set_bucket_probe(
            "node",
            label,
            probe["bucket_checksum"],
            {**probe["freshness_tokens"], "boot_id": "another"},
            probe["captured_at"],
        )

    asyncio.run(spoil())
    seen = outcome(delayed(add)(5, 5))
    return {**seen, "refreshed": refresh()}


def changed() -> Seen:
    """The driver changes its record mode while it is connected."""
    select_record(False)
    return outcome(delayed(add)(6, 6))


def minimal() -> Seen:
    """Record mode is off."""
    return outcome(delayed(add)(7, 7))


def costs() -> Seen:
    """Transformations that need time, CPU time or memory, all at once."""

    def burn(seconds):
        import time

        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return seconds

    def burn_elsewhere(seconds):
        import subprocess
        import sys

        code = f"import time\nwhile time.process_time() < {seconds}: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
        return seconds

    def fill(megabytes):
        return len(bytearray(megabytes * 1_000_000)) // 1_000_000

    def fill_elsewhere(megabytes):
        import subprocess
        import sys

        code = f"print(len(bytearray({megabytes} * 1_000_000)))"
        ended = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True
        )
        return int(ended.stdout) // 1_000_000

    def sleep(seconds):
        import time

        time.sleep(seconds)
        return seconds

    def call(seconds):
        from seamless.transformer import direct

        def burn(seconds):
            import time

            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass
            return seconds

        return direct(burn)(seconds)

    def dies_once(path):
        import os

        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)
        return path

    transformations = {
        "burn": delayed(burn)(1.5),
        "burn_elsewhere": delayed(burn_elsewhere)(1.0),
        "fill": delayed(fill)(300),
        "fill_elsewhere": delayed(fill_elsewhere)(310),
        "sleep": delayed(sleep)(2.0),
        "call": delayed(call)(1.0),
        "dies_once": delayed(dies_once)(sys.argv[2]),
    }
    for transformation in transformations.values():
        transformation.start()
    seen = {name: outcome(tf) for name, tf in transformations.items()}
    assert all("record" in found for found in seen.values()), seen
    return {name: found["record"] for name, found in seen.items()}


def contest() -> Seen:
    """A result is contested: the database takes no record for the transformation."""
    transformation = delayed(add)(8, 8)
    transformation.compute()
    asyncio.run(
        database_remote.undo_transformation_result(
            transformation.transformation_checksum, transformation.result_checksum
        )
    )
    return {}


def contested() -> Seen:
    """What `contest` has contested, once more."""
    return outcome(delayed(add)(8, 8))


CASES: dict[str, Callable[[], Seen]] = {
    function.__name__: function
    for function in (
        without_probes,
        with_probes,
        stale,
        changed,
        minimal,
        costs,
        contest,
        contested,
    )
}


def main() -> None:
    try:
        seamless.config.init(workdir=".")
    except RuntimeError as exc:
        seen = {"init": str(exc)}
    else:
        seen = CASES[sys.argv[1]]()
    seamless.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
