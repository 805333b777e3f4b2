"""Carries out ``soak.py --faults``: a real stack, two drivers at a time, and faults.

What is done and what is right is decided in ``faults.py``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import psutil

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "tests"))

from fault_checks import Checks, until_none  # noqa: E402
from fault_stack import Driver, Stack, shared_memory, spawned  # noqa: E402
from helpers.stack import call_scheduler  # noqa: E402

from scheduler_ext.task_keys import checksum_of  # noqa: E402

#: drivers at a time
SLOTS = 2
#: seconds that a driver may take beyond the end of its round, or to begin or end
DEADLINE = 300.0
#: seconds in which the cluster must come to rest once all drivers have ended
REST = 90.0
#: seconds below which no round begins
SHORTEST = 5.0
#: seconds after Ctrl-C from which a driver that closes as usual has not seen it
WENT_ON = 30.0
#: texts that no driver may print on stderr
NEVER = ("Task was destroyed", "exception was never retrieved")


class FaultSoak:
    """One run: rounds of faults, each with a quiet point at its end.

    Parameters
    ----------
    stack
        A fresh one.
    seed
        Of all decisions.
    say
        Told one line for each fault and each check.
    """

    def __init__(self, stack: Stack, seed: int, say: Callable[[str], None]) -> None:
        self.stack = stack
        self.seed = seed
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.logs = Path(tempfile.mkdtemp(prefix=f"soak-faults-{seed}-"))
        self._say = say
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        #: held by whoever starts a driver, and while a server is away: a driver that
        #: starts meanwhile would have the launcher start another server
        self._starts = threading.Lock()
        self._away: set[str] = set()
        self._memory: set[Path] = set()
        self._over = threading.Event()
        self._drivers: dict[int, Driver] = {}
        self._canceller: Driver | None = None
        self._checks = Checks(stack, seed)

    # -- telling -----------------------------------------------------------------

    def note(self, text: str) -> None:
        """Print a line with its time."""
        self._say(f"{time.monotonic() - self._begin:7.1f} s  {text}")

    def problem(self, text: str) -> None:
        """Something is wrong."""
        with self._lock:
            self.problems.append(text)
        self.note(f"WRONG: {text}")

    # -- the run -----------------------------------------------------------------

    def run(self, seconds: float, **plan: Any) -> None:
        """Do rounds for so many seconds; see `faults.rounds` for the plan."""
        with self._starts:
            self._canceller = self._start("canceller", self._hear_cancelled, "cancel")
        try:
            end = time.monotonic() + seconds
            for planned in faults.rounds(self.seed, **plan):
                left = end - time.monotonic()
                if left < SHORTEST or self._over.is_set():
                    break
                self._round(planned, min(planned.seconds, left))
        except BaseException:
            self._over.set()
            raise
        finally:
            assert self._canceller.process.stdin is not None
            self._canceller.process.stdin.close()
            self._ended(self._canceller, "the canceller", self.logs)

    def _start(
        self, name: str, hear: Callable[[dict[str, Any]], None], *arguments: str
    ) -> Driver:
        """Start a driver and wait until it is connected."""
        driver = Driver(self.stack, self.logs / f"{name}.log", hear, *arguments)
        if not driver.ready.wait(DEADLINE):
            self._hang(driver, f"{name} has not connected")
        return driver

    def _round(self, planned: faults.Round, seconds: float) -> None:
        self.note(
            f"round {planned.number}: {seconds:.1f} s, {len(planned.faults)} faults"
        )
        happened = self._happened = faults.Happened()
        self._outcomes: list[tuple[str, faults.Outcome]] = []
        self._round_number = planned.number
        over = self.logs / f"round-{planned.number}-is-over"
        begun = [threading.Event() for _ in range(SLOTS)]
        slots = [
            threading.Thread(
                target=self._slot, args=(slot, planned.number, over, begun[slot])
            )
            for slot in range(SLOTS)
        ]
        for thread in slots:
            thread.start()
        for event in begun:
            event.wait()
        begin = time.monotonic()
        try:
            for fault in planned.faults:
                if fault.at > seconds:
                    break
                wait = begin + fault.at - time.monotonic()
                if self._over.wait(max(0.0, wait)):
                    break
                self._carry_out(fault)
        except BaseException:
            self._over.set()
            raise
        else:
            self._over.wait(max(0.0, begin + seconds - time.monotonic()))
        finally:
            over.touch()
            for kind in list(self._away):
                self._back(kind)
            for thread in slots:
                thread.join()
        self._judge(happened)
        if not self._over.is_set():
            self._quiet()

    def _slot(self, slot: int, number: int, over: Path, begun: threading.Event) -> None:
        """Have one driver after the other, until the round is over."""
        position = attempt = 0

        def hear(message: dict[str, Any]) -> None:
            nonlocal position
            if "plan" in message:
                position = message["batch"] + 1
            elif "cancels" in message:
                self._cancelled(message["cancels"], message["at"])
            elif "missing" in message:
                self.problem(
                    f"transformation {message['of']}: its result was announced when "
                    f"the hashserver had no buffer {message['missing']}"
                )
            else:
                self._told(f"driver {number}.{slot}.{attempt}", message)

        while not (over.exists() or self._over.is_set()):
            name = f"driver-{number}-{slot}-{attempt}"
            order = {
                "seed": self.seed,
                "round": number,
                "slot": slot,
                "position": position,
                "over": str(over),
                "buffers": str(self.stack.buffers),
            }
            with self._starts:
                driver = self._start(name, hear, "run", json.dumps(order))
            with self._lock:
                self._drivers[slot] = driver
            begun.set()
            self._ended(driver, name.replace("-", " ", 1), over)
            with self._lock:
                self._drivers.pop(slot, None)
            self.counts["drivers"] += 1
            attempt += 1

    def _ended(self, driver: Driver, name: str, over: Path) -> None:
        """Wait for the end of a driver, and see how it was.

        It is to come within `DEADLINE` once it was interrupted or killed, or once a
        file is there that says that it may end.
        """
        deadline: float | None = None
        while not driver.wait(0.5):
            if self._over.is_set():
                driver.signal(signal.SIGKILL)
                driver.wait(DEADLINE)
                return
            if deadline is None and (driver.fate or over.exists()):
                deadline = time.monotonic() + DEADLINE
            if deadline is not None and time.monotonic() > deadline:
                fate = f", which was {driver.fate}" if driver.fate else ""
                self._hang(driver, f"{name}{fate} has not ended")
                return
        text = driver.log.read_text(errors="replace")
        for never in NEVER:
            if never in text:
                self.problem(f"{name} printed '{never}': {driver.log}")
        late = time.monotonic() - driver.fate_time > WENT_ON
        if driver.fate == "interrupted" and driver.closed and late:
            self.problem(f"{name} went on after it was interrupted")
        if driver.fate is None and (driver.process.returncode or not driver.closed):
            code = driver.process.returncode
            self.problem(f"{name} ended with exit code {code}: {text[-2000:]}")

    def _hang(self, driver: Driver, what: str) -> None:
        """Keep what shows why somebody does not get on; then nothing goes on."""
        self.counts["hangs"] += 1
        self.problem(f"{what} in time")
        self._over.set()
        (self.logs / "picture.txt").write_text(self.stack._picture())
        for process in (*self.stack.dask_workers(), *self.stack.seamless_processes()):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGABRT)
        driver.signal(signal.SIGABRT)
        driver.wait(10)
        driver.signal(signal.SIGKILL)

    # -- what drivers say --------------------------------------------------------

    def _hear_cancelled(self, message: dict[str, Any]) -> None:
        self.note(f"  {message['checksum'][:8]}: {', '.join(message['messages'])}")
        if message["cancelled"]:
            self.counts["cancelled by checksum"] += 1

    def _cancelled(self, checksum: str, at: float) -> None:
        self.counts["cancelled by their driver"] += 1
        with self._lock:
            self._happened.cancels.setdefault(checksum, []).append(at)

    def _told(self, name: str, message: dict[str, Any]) -> None:
        where = f"{name}, batch {message.pop('batch')} ({message.pop('way')})"
        with self._lock:
            self._outcomes.append((where, faults.Outcome(**message)))

    # -- faults ------------------------------------------------------------------

    def _carry_out(self, fault: faults.Fault) -> None:
        verb, _, rest = fault.kind.partition(" the ")
        if verb in faults.ENDS:
            if not self._away:
                self._starts.acquire()
            self._away.add(rest)
            if verb == "restart":
                self.stack.kill(rest)
            else:
                self.stack.process(rest).suspend()
            victim = ""
        elif rest and verb in faults.ENDS.values():
            if rest not in self._away:
                return
            self._back(rest)
            victim = ""
        else:
            victim = getattr(self, f"_{fault.kind.replace(' ', '_')}")(fault.number)
        self.counts[fault.kind] += 1
        self.note(f"{fault.kind} (planned {fault.at:.1f} s) {victim}")

    def _back(self, kind: str) -> None:
        """Let a server be there again."""
        try:
            process = self.stack.process(kind)
            process.resume()
        except psutil.NoSuchProcess:
            self.stack.start_again(kind)
        self._away.discard(kind)
        if not self._away:
            self._starts.release()

    def _choose(self, number: int, processes: list[psutil.Process]) -> Any:
        return processes[number % len(processes)] if processes else None

    def _shoot(self, victim: psutil.Process | None, times: list[float]) -> str:
        if victim is None:
            return "nobody there"
        self._memory |= shared_memory([victim])
        with self._lock:
            times.append(time.time())
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
        return f"pid {victim.pid}"

    def _kill_a_process(self, number: int) -> str:
        victim = self._choose(number, self.stack.seamless_processes())
        return self._shoot(victim, self._happened.processes)

    def _kill_all_processes_of_a_worker(self, number: int) -> str:
        server = self._choose(number, self.stack.fork_servers())
        victims = spawned(server, "forkserver") if server else []
        return ", ".join(self._shoot(v, self._happened.processes) for v in victims)

    def _kill_a_fork_server(self, number: int) -> str:
        server = self._choose(number, self.stack.fork_servers())
        return self._shoot(server, [])

    def _kill_a_worker(self, number: int) -> str:
        victim = self._choose(number, self.stack.dask_workers())
        return self._shoot(victim, self._happened.workers)

    def _cancel_by_checksum(self, number: int) -> str:
        busy = call_scheduler(
            self.stack.scheduler_address(), lambda s: s.processing(workers=None)
        )
        keys = sorted(str(k) for each in busy.values() for k in each)
        checksums = [c for c in map(checksum_of, keys) if c is not None]
        if not checksums:
            return "nothing under way"
        checksum = checksums[number % len(checksums)]
        with self._lock:
            self._happened.cancels.setdefault(checksum, []).append(time.time())
        assert self._canceller is not None
        assert self._canceller.process.stdin is not None
        self._canceller.process.stdin.write(f"{checksum}\n")
        self._canceller.process.stdin.flush()
        return checksum[:8]

    def _end_a_driver(self, number: int, how: signal.Signals, fate: str) -> str:
        with self._lock:
            drivers = [d for _, d in sorted(self._drivers.items()) if d.fate is None]
            if not drivers:
                return "nobody there"
            driver = drivers[number % len(drivers)]
        driver.end(how, fate)
        return driver.log.stem

    def _interrupt_a_driver(self, number: int) -> str:
        return self._end_a_driver(number, signal.SIGINT, "interrupted")

    def _kill_a_driver(self, number: int) -> str:
        return self._end_a_driver(number, signal.SIGKILL, "killed")

    # -- checks ------------------------------------------------------------------

    def _judge(self, happened: faults.Happened) -> None:
        """Compare what the drivers were given with what is right."""
        for where, outcome in self._outcomes:
            self.counts[faults.kind(outcome)] += 1
            what = self._checks.judge(self._round_number, outcome, happened)
            if what is not None:
                trace = f"\n{outcome.trace}" if outcome.trace else ""
                self.problem(f"{where}, {outcome.sort} {outcome.number}: {what}{trace}")

    def _quiet(self) -> None:
        """Nobody wants anything: see whether anything is left."""
        left = until_none(self._checks.at_rest, REST)
        if left:
            self.problem(f"not at rest: {left}")
        known = {self._canceller.process.pid} if self._canceller else set()
        # Seamless processes whose fork server was killed look like orphans as long as
        # their worker, which may be the last, lives.
        orphans = until_none(lambda: self.stack.orphans(known), REST)
        if orphans:
            self.problem(f"orphan processes: {'; '.join(orphans)}")
        self._memory |= shared_memory(self.stack.processes())
        missing = self._checks.stored()
        for text in missing:
            self.problem(text)
        self.note(
            f"quiet: leases and tasks at rest {sum(left.values())}, orphans "
            f"{len(orphans)}, results {self._checks.results}, of these wrong or not "
            f"stored {len(missing)}, hangs {self.counts['hangs']}"
        )

    def keep_logs(self) -> Path:
        """Copy all logs of the stack to where those of the drivers are."""
        launcher = self.stack.home / ".remote-http-launcher"
        for path in (*launcher.rglob("*.log"), *self.stack.home.glob("*.log")):
            shutil.copy(path, self.logs / path.name)
        return self.logs


def run(
    seed: int, seconds: float, say: Callable[[str], None] = print, **plan: Any
) -> list[str]:
    """Run everything; return what is wrong.

    Parameters
    ----------
    seed
        Of all decisions.
    seconds
        Until no further round begins.
    say
        Told each line.
    plan
        See `faults.rounds`.
    """
    soak = None
    stack = Stack()
    try:
        with stack:
            soak = FaultSoak(stack, seed, say)
            try:
                soak.run(seconds, **plan)
            finally:
                soak.keep_logs()
            for stop in stack.stop():
                how = (
                    f"by {stop.by} after {stop.seconds:.1f} s" if stop.by else "before"
                )
                soak.note(f"{stop.service} has ended {how}")
    except Exception:  # the end of a run is told like all else
        if soak is None:
            raise
        soak.problem(traceback.format_exc())
    left = sorted(str(path) for path in soak._memory if path.exists())
    if left:
        soak.problem(f"shared memory left: {', '.join(left)}")
    soak.note("counted: " + ", ".join(f"{n} {k}" for k, n in soak.counts.items()))
    if soak.problems:
        soak.note(f"{len(soak.problems)} wrong; seed {seed}, logs in {soak.logs}")
    else:
        shutil.rmtree(soak.logs)
        soak.note("nothing is wrong")
    return soak.problems
