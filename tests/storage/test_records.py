"""Execution records on the real stack: minimal by default, full in record mode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seamless_config.cluster
import yaml
from helpers.paths import DRIVERS
from helpers.stack import CLUSTERS_YAML, RealStack

from seamless_dask.cluster import record_mode
from seamless_dask.cluster.selection import definition_of

pytestmark = pytest.mark.cluster

SCRIPT = str(DRIVERS / "record_cases.py")
BUCKETS = ["environment", "node", "node_env", "queue", "queue_node"]


def select_record(stack: RealStack, record: bool) -> None:
    """Let later drivers have this record mode."""
    path = stack.project_dir / "seamless.profile.yaml"
    profile = [
        item for item in yaml.safe_load(path.read_text()) if "record" not in item
    ]
    path.write_text(yaml.safe_dump([*profile, {"record": record}]))


@pytest.fixture(scope="module")
def recording() -> Iterator[RealStack]:
    with RealStack(project="recording") as stack:
        select_record(stack, True)
        yield stack


def see(stack: RealStack, *case: str) -> dict[str, Any]:
    return stack.run(SCRIPT, *case, timeout=90).value


def test_a_transformation_needs_probes(recording: RealStack) -> None:
    """Those of the queue are among them; nothing is stored without."""
    before = recording.stored()
    seen = see(recording, "without_probes")
    assert "requires bucket probes for: node=" in seen["exception"]
    assert "queue='local/default/daskserver'" in seen["exception"]
    assert recording.stored() == before


def test_full_records(recording: RealStack) -> None:
    """Every field that only an execution can know is there."""
    seen = see(recording, "with_probes")
    assert seen["refreshed"] == BUCKETS
    top = seen["top"]["record"]
    assert seen["top"]["value"] == 1001
    assert [top[kind] for kind in BUCKETS] == [
        top["freshness"]["required_bucket_checksums"][kind] for kind in BUCKETS
    ]
    assert all(recording.has_buffer(top[kind]) for kind in BUCKETS)
    assert top["freshness"]["live_tokens"] == top["freshness"]["bucket_tokens"]
    assert (top["execution_mode"], top["remote_target"]) == ("remote", "daskserver")
    envelope = top["execution_envelope"]
    assert envelope["requested_cluster"] == "local"
    assert envelope["requested_queue"] == "default"
    assert envelope["scratch"] is False
    # "1000\n" and "1\n"; "1001\n"
    assert (top["input_total_bytes"], top["output_total_bytes"]) == (7, 5)
    assert top["contract_violations"] == []
    for name in (
        "started_at",
        "finished_at",
        "wall_time_seconds",
        "memory_peak_bytes",
        "hostname",
        "pid",
        "process_started_at",
        "process_create_time_epoch",
        "worker_execution_index",
    ):
        assert top[name], name
    assert recording.has_buffer(top["validation_snapshot"])
    assert seen["again"]["value"] == 2  # it had failed for want of probes
    scratch = seen["scratch"]["record"]
    assert scratch["execution_envelope"]["scratch"] is True
    assert scratch["output_total_bytes"] == 5


def test_every_result_has_a_full_record(recording: RealStack) -> None:
    """Nested ones too; only probes have none."""
    see(recording, "with_probes")
    stored = recording.stored()
    records = {checksum: json.loads(text) for checksum, text in stored.records.items()}
    assert len(records) >= 5
    assert all(record["queue"] for record in records.values())
    assert set(records) < set(stored.results)


def test_stale_probes(recording: RealStack) -> None:
    """The node was probed before its last boot."""
    before = len(recording.stored().records)
    seen = see(recording, "stale")
    assert "stale bucket probes for: node=" in seen["exception"]
    assert "node" in seen["refreshed"]
    assert len(recording.stored().records) == before


def test_a_record_that_cannot_be_written_fails_the_transformation(
    recording: RealStack,
) -> None:
    """The database refuses it; there is no result without its record."""
    see(recording, "with_probes")
    see(recording, "contest")
    before = recording.stored().results
    exception = see(recording, "contested")["exception"]
    assert "The execution record of transformation" in exception
    assert "already has irreproducible records" in exception
    assert recording.stored().results == before


def test_a_client_with_another_record_mode(recording: RealStack) -> None:
    """It is told so: when it connects, or when it computes."""
    assert "this client has record=False" in see(recording, "changed")["exception"]
    select_record(recording, False)
    try:
        text = see(recording, "minimal")["init"]
    finally:
        select_record(recording, True)
    assert "was started with record=True" in text
    assert "Restart the daskserver" in text


def test_minimal_records(real_stack: RealStack) -> None:
    """Without record mode there are times and memory, and no probes are needed."""
    seen = see(real_stack, "minimal")
    record = seen["record"]
    assert seen["value"] == 14
    assert record["wall_time_seconds"] > 0
    assert record["memory_peak_bytes"] > 0
    assert record["remote_target"] == "daskserver"
    assert "freshness" not in record


def test_what_a_transformation_costs(real_stack: RealStack, tmp_path: Path) -> None:
    """Times and memory are its own, whatever runs beside it."""
    seen = see(real_stack, "costs", str(tmp_path / "died"))

    def cpu(name: str) -> float:
        record = seen[name]
        return float(
            record["cpu_time_user_seconds"] + record["cpu_time_system_seconds"]
        )

    # What takes CPU time; the others take next to none.
    assert 1.5 <= cpu("burn") < 2.5
    assert 1.0 <= cpu("burn_elsewhere") < 2.5
    assert cpu("sleep") < 0.5
    assert cpu("call") < 0.8, "that of its call is not its own"
    assert 2.0 <= seen["sleep"]["wall_time_seconds"]
    assert 1.0 <= seen["call"]["wall_time_seconds"]
    peaks = {name: record["memory_peak_bytes"] for name, record in seen.items()}
    assert 300e6 <= peaks.pop("fill") < 500e6
    assert 310e6 <= peaks.pop("fill_elsewhere") < 500e6, "the largest child's"
    assert all(10e6 < peak < 200e6 for peak in peaks.values()), peaks
    counts = {name: record.get("retry_count", 0) for name, record in seen.items()}
    assert counts == {name: int(name == "dies_once") for name in seen}


def test_a_record_that_cannot_be_written_is_only_logged(real_stack: RealStack) -> None:
    """Without record mode the result is what counts."""
    see(real_stack, "contest")
    seen = see(real_stack, "contested")
    assert (seen["value"], seen["record"]) == (16, None)
    assert "No execution record for transformation" in real_stack.logs(200)


def test_the_definition_of_a_cluster_survives_the_journey() -> None:
    """As JSON, and back: the probes' digest is made of it."""
    definitions = yaml.safe_load(CLUSTERS_YAML.read_text())
    cluster = seamless_config.cluster.Cluster.from_dict("local", definitions["local"])
    text = json.dumps(definition_of(cluster))
    again = seamless_config.cluster.Cluster.from_dict("local", json.loads(text))
    assert again == cluster


def test_record_mode_concerns_drivers_only() -> None:
    """Others have no record mode of their own to compare."""
    record_mode.check(None)
    record_mode.check(False)
    with pytest.raises(record_mode.RecordModeMismatch, match="record=True"):
        record_mode.check(True)
