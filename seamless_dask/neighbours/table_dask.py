"""The private names of Dask, and of packages that Dask or jobs use, that we use.

For distributed, bokeh and tornado also names without an underscore that are undocumented.
"""

from __future__ import annotations

from .names import Module, Where

_DRIVER, _WORKER, _CHILD = Where.DRIVER, Where.WORKER, Where.CHILD
_WRAPPER = Where.WRAPPER
_CLIENTS = _DRIVER | _WORKER

# -- distributed: clients and workers ----------------------------------------------

_DISTRIBUTED = "distributed"
_client = Module(_DISTRIBUTED, "distributed.client")
_worker = Module(_DISTRIBUTED, "distributed.worker")
_spec = Module(_DISTRIBUTED, "distributed.deploy.spec")
_adaptive = Module(_DISTRIBUTED, "distributed.deploy.adaptive")

CLIENTS = (
    _client.read("Client._stream_handlers", _CLIENTS, "messages of the scheduler"),
    _client.read("Client._send_to_scheduler", _CLIENTS, "messages without an answer"),
    _client.set("Client._timeout", _DRIVER, "a link that is away"),
    _client.read("Client.scheduler_comm", _CLIENTS, "keeps few messages"),
    Module(_DISTRIBUTED, "distributed.batched").set(
        "BatchedSend.recent_message_log", _CLIENTS | _WRAPPER, "keeps few messages"
    ),
    _client.read("Future._state", _CLIENTS, "why a future was cancelled"),
    _client.read("ClosedClientError", _CLIENTS, "the client has ended"),
    _client.read("_global_clients", _DRIVER, "a forked driver has no client"),
    _spec.read("SpecCluster._instances", _DRIVER, "a forked driver has no cluster"),
    *(
        _worker.read(f"Worker.{name}", _WORKER, reason)
        for name, reason in (
            ("batched_stream", "messages without an answer"),
            ("digests_max", "sums for codes that nobody runs"),
            ("digests_total", "sums for codes that nobody runs"),
            ("handle_stimulus", "a task that waits secedes"),
            ("handlers", "our calls"),
            ("nanny", "whether the process is the worker's own"),
            ("periodic_callbacks", "nothing to profile"),
            ("plugins", "tasks find our plugin"),
            ("state", "its resources and tasks"),
            ("stream_handlers", "our messages"),
        )
    ),
    Module(_DISTRIBUTED, "distributed.worker_state_machine").read(
        "SecedeEvent", _WORKER, "a task that waits secedes"
    ),
    *(
        Module(_DISTRIBUTED, "distributed.worker_state_machine").read(
            f"WorkerState.{name}", _WORKER, "units that the worker offers"
        )
        for name in ("available_resources", "total_resources")
    ),
    Module(_DISTRIBUTED, "distributed.worker_state_machine").read(
        "WorkerState.task_counter", _WORKER, "sums for codes that nobody runs"
    ),
    *(
        Module(_DISTRIBUTED, "distributed.worker_state_machine").read(
            f"TaskCounter.{name}", _WORKER, "sums for codes that nobody runs"
        )
        for name in ("cumulative_elapsed", "current_count")
    ),
)

# -- distributed: scheduler and clusters -------------------------------------------

_scheduler = Module(_DISTRIBUTED, "distributed.scheduler")

SCHEDULER = (
    *(
        _scheduler.read(f"Scheduler.{name}", _WRAPPER, reason)
        for name, reason in (
            ("UNKNOWN_TASK_DURATION", "how long an unknown task may take"),
            ("_reschedule", "a worker gives a task back"),
            ("add_resources", "units that a worker offers"),
            ("aliases", "workers by their names"),
            ("bulk_schedule_unrunnable_after_adding_worker", "tasks that fit a worker"),
            ("client_comms", "keeps few messages"),
            ("client_releases_keys", "cancelling by checksum"),
            ("client_send", "messages to clients"),
            ("cumulative_worker_metrics", "figures of functions that are forgotten"),
            ("extensions", "no spans of transformations"),
            ("handle_worker_status_change", "a worker that leaves gets no tasks"),
            ("handlers", "our calls"),
            ("listeners", "where it listens"),
            ("periodic_callbacks", "our heartbeat"),
            ("plugins", "finds our plugin"),
            ("report", "tells clients which tasks were cancelled"),
            ("stream_comms", "keeps few messages"),
            ("stream_handlers", "our messages"),
            ("task_prefixes", "how long tasks take"),
            ("transitions", "tasks that can run now"),
            ("worker_send", "messages to workers"),
            ("workers_to_close", "which workers are idle"),
        )
    ),
    _scheduler.set("WorkerState.last_seen", _WRAPPER, "clocks that jump"),
    _scheduler.read("ClientState.client_key", _WRAPPER, "cancelling by checksum"),
    _scheduler.read("Scheduler._broker", _WRAPPER, "events are kept by us, bounded"),
    *(
        Module(_DISTRIBUTED, "distributed.spans").overridden(
            f"SpansSchedulerExtension.{name}", _WRAPPER, "none of transformations"
        )
        for name in ("heartbeat", "observe_tasks")
    ),
    Module(_DISTRIBUTED, "distributed.spans").read(
        "SpansSchedulerExtension.spans", _WRAPPER, "none of transformations"
    ),
    Module(_DISTRIBUTED, "distributed.broker").read(
        "Broker._topics", _WRAPPER, "topics of clients that are gone"
    ),
    _spec.read("SpecCluster._created", _WRAPPER, "workers that are being started"),
    _spec.read("SpecCluster.new_spec", _WRAPPER, "class and options of a worker"),
    _spec.read("SpecCluster.worker_spec", _WRAPPER, "workers that are to be there"),
    _adaptive.overridden("Adaptive.adapt", _WRAPPER, "our policy decides"),
    _adaptive.overridden("Adaptive.stop", _WRAPPER, "ends starts as well"),
    _adaptive.read("Adaptive.plan", _WRAPPER, "workers that are to be there"),
)

# -- distributed, bokeh, tornado: pages --------------------------------------------

_prometheus = Module(_DISTRIBUTED, "distributed.http.scheduler.prometheus.core")

PAGES = (
    _prometheus.read("COLLECTORS", _WRAPPER, "our figures on /metrics"),
    _prometheus.set("PrometheusHandler._collectors", _WRAPPER, "collectors in use"),
    *(
        Module(_DISTRIBUTED, module).read(name, _WRAPPER, "our page, and its link")
        for module, name in (
            ("distributed.dashboard.components", "DashboardComponent"),
            ("distributed.dashboard.components", "add_periodic_callback"),
            ("distributed.dashboard.components.scheduler", "BOKEH_THEME"),
            ("distributed.dashboard.components.scheduler", "env"),
            ("distributed.dashboard.core", "BokehApplication"),
            ("distributed.dashboard.scheduler", "template_variables"),
            ("distributed.http.prometheus", "PrometheusCollector"),
            ("distributed.utils", "log_errors"),
        )
    ),
    *(
        # assigned when it starts
        Module(_DISTRIBUTED, "distributed.node").read(
            f"ServerNode.start_http_server.{name}", _WRAPPER, reason
        )
        for name, reason in (
            ("http_application", "our pages"),
            ("http_server", "the port of the pages"),
        )
    ),
    *(
        Module(_DISTRIBUTED, "distributed.http.routing").read(
            f"RoutingApplication.{name}", _WRAPPER, "adds and removes our pages"
        )
        for name in ("add_application", "applications")
    ),
    Module("bokeh", "bokeh.core.properties").read(
        "without_property_validation", _WRAPPER, "draws without checks"
    ),
    *(
        Module("bokeh", "bokeh.server.tornado").read(
            f"BokehTornado.{name}", _WRAPPER, "a page that comes and goes"
        )
        for name in ("initialize", "prefix", "start", "stop")
    ),
)

# -- dask_jobqueue -----------------------------------------------------------------

_job = Module("dask_jobqueue", "dask_jobqueue.core")

JOBQUEUE = (
    _job.overridden("Job._call", _WRAPPER, "how commands are run"),
    _job.overridden("Job._job_id_from_submit_output", _WRAPPER, "reads the answer"),
    _job.overridden("Job.job_file", _WRAPPER, "a script for our eyes only"),
)

# -- connections -------------------------------------------------------------------

_AIOHTTP = "aiohttp"

AIOHTTP = (
    Module(_AIOHTTP, "aiohttp.client").read(
        "ClientSession._loop", _CLIENTS, "closes a session where it lives"
    ),
    Module(_AIOHTTP, "aiohttp.connector").read(
        "BaseConnector._acquired", _CLIENTS, "whether a session is used"
    ),
    Module(_AIOHTTP, "aiohttp.connector").read(
        "BaseConnector._waiters", _CLIENTS, "whether a session is used"
    ),
)

# -- random numbers ----------------------------------------------------------------

#: modules with threads of their own that use the functions of ``random``
DRAWING = (
    (_AIOHTTP, "aiohttp.connector"),
    ("dask", "dask.sizeof"),
    (_DISTRIBUTED, "distributed.comm.core"),
    (_DISTRIBUTED, "distributed.scheduler"),
    (_DISTRIBUTED, "distributed.utils_comm"),
    (_DISTRIBUTED, "distributed.worker"),
    ("tornado", "tornado.ioloop"),
)

RANDOM = tuple(
    Module(distribution, module).replaced(
        "random",
        _DRIVER | _WORKER | _CHILD,
        "draws on numbers of its own",
        needed=False,
    )
    for distribution, module in DRAWING
)

# -- state that jobs change in their process, and that is put back -----------------

PUT_BACK = (
    Module("numpy", "numpy.random").read(
        "mtrand._rand", _CHILD, "numbers of the module"
    ),
    Module("numpy", "numpy.random").read(
        "mtrand._rand._bit_generator", _CHILD, "numbers of the module"
    ),
    Module("matplotlib", "matplotlib").read(
        "_rc_params_in_file", _CHILD, "its settings"
    ),
    Module("pandas", "pandas._config.config").read("_get_root", _CHILD, "its options"),
    Module("pandas", "pandas._config.config").read(
        "_registered_options", _CHILD, "its options"
    ),
    *(
        Module(distribution, module).read(name, _CHILD, "ends this helper of a job")
        for distribution, module in (
            ("joblib", "joblib.externals.loky.backend.resource_tracker"),
            ("loky", "loky.backend.resource_tracker"),
        )
        for name in ("_resource_tracker._pid", "_resource_tracker._stop")
    ),
)

NAMES = (
    *CLIENTS,
    *SCHEDULER,
    *PAGES,
    *JOBQUEUE,
    *AIOHTTP,
    *RANDOM,
    *PUT_BACK,
)
