"""The output of transformations while they run: driver script, events, processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.polling import wait_until
from seamless.transformer import delayed, direct

from scheduler_ext import outputs
from seamless_dask import SeamlessDaskClient, get_dummy_scheduler_address
from seamless_dask.submit import streamed as streamed_module

pytestmark = pytest.mark.cluster


@pytest.fixture
def events(dummy: SeamlessDaskClient) -> Iterator[list[Any]]:
    """All events about output that the scheduler gets."""
    found: list[Any] = []
    run(first, 1)  # it subscribes
    handlers = dummy.client._event_handlers
    topic = outputs.topic_of(dummy.client.id)
    original = handlers[topic]

    def arrived(event: Any) -> None:
        found.append(event[1])
        original(event)

    handlers[topic] = arrived
    yield found
    handlers[topic] = original


def first(x):
    return x


def run(function: Any, *arguments: Any, stream: bool = True) -> tuple[Any, str]:
    """Result and error of a transformation."""
    tf = delayed(function)(*arguments)
    tf.streaming = stream
    tf.compute()
    error = tf.exception
    return (None if error else tf.run()), error or ""


def status(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it."""
    address = get_dummy_scheduler_address()
    assert address is not None
    return subprocess.run(
        [sys.executable, "-m", "seamless_dask.status", address, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def writes(salt):
    import logging
    import os
    import subprocess
    import sys
    import warnings

    print("to stdout", salt)
    print("to stderr", file=sys.stderr)
    warnings.warn("of warnings", stacklevel=1)
    logging.getLogger("some").warning("of logging")
    os.write(1, b"of a descriptor\n")
    subprocess.run("echo of a command; echo its error >&2", shell=True, check=True)
    sys.stdout.buffer.write(b"no UTF-8: \xff\xfe, NUL: \0\n")
    return salt


def test_lines_have_the_name_in_front_and_streams_stay_apart(dummy, capsys) -> None:
    assert run(writes, "lines") == ("lines", "")
    said = capsys.readouterr()
    out = [line.partition(" | ") for line in said.out.splitlines()]
    err = [line.partition(" | ") for line in said.err.splitlines()]
    assert {name.split()[0] for name, _, _ in out + err} == {"writes"}
    assert {len(name.split()[1]) for name, _, _ in out + err} == {12}
    assert [text for _, _, text in out] == [
        "to stdout lines",
        "no UTF-8: \ufffd\ufffd, NUL:",
        "of a descriptor",
        "of a command",
    ]
    errors = [text for _, _, text in err]
    assert "to stderr" in errors and "of logging" in errors and "its error" in errors
    assert any("UserWarning: of warnings" in text for text in errors)


def test_without_streaming_there_is_no_message_and_no_line(
    dummy, events, capsys
) -> None:
    assert run(writes, "quiet", stream=False) == ("quiet", "")
    assert run(writes, "loud")[0] == "loud"
    wait_until(lambda: events, "an event of the other one")
    assert {each["pieces"][0][1].split()[2] for each in events} == {"loud"}
    assert "quiet" not in capsys.readouterr().out


def test_streaming_changes_no_checksum_and_no_result(dummy) -> None:
    def same(x):
        print("said")
        return x + 1

    plain, streamed = delayed(same)(1), delayed(same)(1)
    streamed.streaming = True
    assert plain.run() == streamed.run() == 2
    assert plain.transformation_checksum == streamed.transformation_checksum
    assert plain.streaming is False


@pytest.mark.parametrize("value", [1, "yes", None])
def test_streaming_is_true_or_false(dummy, value) -> None:
    tf = delayed(writes)("x")
    with pytest.raises(TypeError, match="True and False"):
        tf.streaming = value


def test_calls_of_a_streamed_transformation_are_streamed(dummy, capsys) -> None:
    def outer(x):
        from seamless.transformer import delayed

        def inner(n):
            print("inner", n)
            return n

        print("outer")
        return sum(delayed(inner)(x + n).run() for n in range(3))

    assert run(outer, 100)[0] == 303
    lines = {line.partition(" | ")[2] for line in capsys.readouterr().out.splitlines()}
    assert lines == {"outer", "inner 100", "inner 101", "inner 102"}


def test_direct_print_is_heard(dummy, capsys) -> None:
    """Of a transformer at the top, and of one that a streamed transformation calls."""

    def says(x):
        print("directly", x)
        return x

    transformer = direct(says)
    transformer.direct_print = True
    assert transformer(5) == 5
    assert "directly 5" in capsys.readouterr().out


def test_a_variable_streams_everything(dummy, monkeypatch) -> None:
    for value, expected in (("1", True), ("0", False)):
        monkeypatch.setenv("SEAMLESS_DASK_STREAMING", value)
        streamed = streamed_module.Streamed(dummy.client, shows=True)
        assert streamed._all is expected
    monkeypatch.setenv("SEAMLESS_DASK_STREAMING", "yes")
    with pytest.raises(ValueError, match="got 'yes', allowed are '0' and '1'"):
        streamed_module.Streamed(dummy.client, shows=True)


def test_a_failed_transformation_keeps_its_whole_output(dummy, capsys) -> None:
    def fails(x):
        import sys

        print("all of it", x)
        print("and this", file=sys.stderr)
        raise ValueError(x)

    for stream in (True, False):
        _, error = run(fails, f"stream {stream}", stream=stream)
        assert "* Standard output" in error and "all of it" in error
        assert "* Standard error" in error and "and this" in error
        assert "ValueError" in error
    out = capsys.readouterr().out
    assert "all of it stream True" in out and "all of it stream False" not in out


def test_what_user_code_does_to_its_streams(dummy, capsys) -> None:
    """Streamed or not, the result is the same, and the next one finds a fresh process."""

    def does(what, salt):
        import contextlib
        import io
        import os
        import sys

        print("before")
        if what == "replaces":
            sys.stdout = io.StringIO()
            print("nowhere")
        elif what == "redirects":
            with contextlib.redirect_stdout(io.StringIO()) as text:
                print("inside")
            return text.getvalue()
        elif what == "redirects descriptors":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.write(1, b"nowhere\n")
        elif what == "forks":
            pid = os.fork()
            if pid == 0:
                print("in the fork")
                os._exit(0)
            os.waitpid(pid, 0)
        elif what == "deletes":
            del sys.stdout
        elif what == "truncates":
            sys.stdout.buffer.seek(0)
            sys.stdout.buffer.truncate()
            print("again")
        elif what == "closes descriptors":
            sys.__stdout__.write("lost")
            os.close(1)
            os.close(2)
        elif what == "detaches the process's":
            sys.__stdout__.detach()
        elif what == "deletes the process's":
            del sys.__stdout__
        elif what == "replaces the process's":
            sys.__stderr__ = object()
        elif what == "prints a surrogate":
            try:
                print("\ud800")
            except UnicodeEncodeError as error:
                return type(error).__name__
        return f"{what} done"

    actions = (
        "replaces",
        "redirects",
        "redirects descriptors",
        "forks",
        "deletes",
        "truncates",
        "closes descriptors",
        "detaches the process's",
        "deletes the process's",
        "replaces the process's",
        "prints a surrogate",
    )
    for what in actions:
        plain = run(does, what, 1, stream=False)
        capsys.readouterr()
        assert run(does, what, 2) == plain, what
        assert plain[1] == "", what
        out = capsys.readouterr().out
        assert "nowhere" not in out and "inside" not in out
        assert ("in the fork" in out) == (what == "forks")
    assert run(writes, "after all")[0] == "after all"
    assert "of a descriptor" in capsys.readouterr().out


def test_output_of_a_bash_command_comes_while_it_runs(
    dummy, events, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    command = (
        f"echo first; echo wrong >&2; until test -e {gate}; do sleep 0.1; done; "
        "echo last; echo 7 > RESULT"
    )
    transformer = delayed(command, language="bash")
    transformer.celltypes.result = "int"
    tf = transformer()
    tf.streaming = True
    tf.start()

    def texts() -> str:
        return "".join(p[1] for each in events for p in each["pieces"])

    wait_until(lambda: "first" in texts() and "wrong" in texts(), "the first lines")
    assert "last" not in texts()
    gate.touch()
    assert tf.run() == 7
    assert texts().count("first") == texts().count("last") == 1


def test_a_bar_does_not_become_thousands_of_lines(dummy, events, capsys) -> None:
    def bars(n):
        import tqdm
        import tqdm.auto
        import tqdm.std

        for kind in (tqdm.tqdm, tqdm.auto.tqdm, tqdm.std.tqdm):
            for _ in kind(range(n), mininterval=0):
                continue
        return n

    assert run(bars, 2000)[0] == 2000
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all("2000/2000" in line for line in lines)
    assert sum(len(p[1]) for each in events for p in each["pieces"]) < 10_000


def test_a_million_lines_are_bounded_events(dummy, events, capsys) -> None:
    def babbles(n):
        for i in range(n):
            print("line", i)
        return n

    assert run(babbles, 300_000)[0] == 300_000
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("line 299999")
    assert "bytes left out" in lines[0]
    assert all(len(p[1].encode()) <= 8192 for each in events for p in each["pieces"])
    assert len(events) < 20


def test_the_scheduler_keeps_no_topics(dummy) -> None:
    run(writes, "kept")

    def topics(dask_scheduler=None):
        return {
            name: len(topic.events)
            for name, topic in dask_scheduler._broker._topics.items()
            if name.startswith("seamless-output")
        }

    found = dummy.client.run_on_scheduler(topics)
    assert found and not any(found.values())


def waits(path):
    import os
    import sys
    import time

    print("began with", os.path.basename(path))
    print("an error line", file=sys.stderr)
    sys.stdout.write("no line end yet")
    until = time.time() + 60
    while not os.path.exists(path) and time.time() < until:
        time.sleep(0.05)
    print("\nat its end")
    return 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_command_shows_what_a_running_transformation_has_written(
    dummy, tmp_path: Path, stream: bool
) -> None:
    """Also if it was not asked to stream; by name and by checksum."""
    gate = tmp_path / f"gate {stream}"
    tf = delayed(waits)(str(gate))
    tf.streaming = stream
    tf.start()

    def shown() -> Any:
        done = status("output", "waits")
        return done if "began with" in done.stdout else None

    done = wait_until(shown, "the first lines")
    digits = tf.transformation_checksum.hex()[:12]
    assert f"waits {digits} | began with gate {stream}" in done.stdout
    assert f"waits {digits} | no line end yet" in done.stdout
    assert f"waits {digits} | an error line" in done.stderr
    assert done.returncode == 0
    assert status("output", digits).stdout == done.stdout
    gate.touch()
    assert tf.run() == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_command_follows(dummy, tmp_path: Path, stream: bool) -> None:
    gate = tmp_path / f"follow {stream}"
    tf = delayed(waits)(str(gate))
    tf.streaming = stream
    digits = tf.construct().hex()[:12]
    tf.start()
    address = get_dummy_scheduler_address()
    command = [sys.executable, "-m", "seamless_dask.status", str(address)]
    follow = [*command, "output", digits, "--follow"]
    with (
        subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as second,
    ):
        lines = [[each.stdout.readline()] for each in (first, second)]
        gate.touch()
        for each, found in zip((first, second), lines, strict=True):
            found += each.stdout.readlines()
            assert each.wait(60) == 0
    for found in lines:
        texts = [line.rstrip("\n").partition(" | ")[2] for line in found]
        expected = [f"began with follow {stream}", "no line end yet", "at its end"]
        assert texts == expected
    assert tf.run() == 1


def test_the_command_says_what_it_does_not_know(dummy) -> None:
    done = status("output", "nosuchfunction")
    assert done.returncode == 1
    assert "nosuchfunction: no transformation with this" in done.stderr
    assert status("output").returncode == 2
    assert status("--follow").returncode == 2


def test_a_lost_process_begins_again(dummy, tmp_path: Path, capsys) -> None:
    def dies(path):
        import os
        import time

        print("once more", flush=True)
        if not os.path.exists(path):
            time.sleep(1)
            open(path, "w").close()
            os._exit(1)
        return 3

    assert run(dies, str(tmp_path / "died"))[0] == 3
    texts = [line.partition(" | ")[2] for line in capsys.readouterr().out.splitlines()]
    assert texts == ["once more", "[begins again]", "once more"]


def test_a_cancelled_transformation_leaves_no_unfinished_line(
    dummy, events, tmp_path: Path
) -> None:
    """Its process could not say that it has ended; its worker does."""
    tf = delayed(waits)(str(tmp_path / "never"))
    tf.streaming = True
    tf.start()
    wait_until(lambda: events, "its first output")
    tf.cancel()
    wait_until(lambda: events[-1]["ended"], "its end")
