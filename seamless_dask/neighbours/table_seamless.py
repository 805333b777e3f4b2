"""The private names of the packages of Seamless that we use."""

from __future__ import annotations

from .names import Module, Where

_DRIVER, _WORKER, _CHILD = Where.DRIVER, Where.WORKER, Where.CHILD
#: processes that call transformations, and processes that have a client
_CALLERS = _DRIVER | _CHILD
_CLIENTS = _DRIVER | _WORKER
_ALL = _DRIVER | _WORKER | _CHILD

# -- seamless-transformer ----------------------------------------------------------

_TRANSFORMER = "seamless-transformer"
_worker = Module(_TRANSFORMER, "seamless_transformer.worker")
_manager = Module(_TRANSFORMER, "seamless_transformer.process.manager")
_channel = Module(_TRANSFORMER, "seamless_transformer.process.channel")
_class = Module(_TRANSFORMER, "seamless_transformer.transformation_class")
_cache = Module(_TRANSFORMER, "seamless_transformer.transformation_cache")
_run = Module(_TRANSFORMER, "seamless_transformer.run")
_records = Module(_TRANSFORMER, "seamless_transformer.record_assembly")

TRANSFORMER = (
    # -- in a Seamless process
    _worker.replaced("_buffer_tempref", _CHILD, "scratch values go to the worker"),
    _worker.replaced("_checksum_resolve", _CHILD, "shared memory, trivial checksums"),
    _worker.replaced("run_transformation_dict", _CHILD, "scratch values; error texts"),
    _worker.replaced("_upload_buffer_to_parent", _CHILD, "memory without a name"),
    _worker.replaced("_LOCAL_BUFFERS", _CHILD, "small buffers, in bounded memory"),
    _worker.replaced("_buffer_ref_op", _CHILD, "small buffers go with the result"),
    _worker.replaced("_request_parent_async", _CHILD, "small buffers go along"),
    _worker.replaced("_execute_transformation_request", _CHILD, "inputs come along"),
    _worker.replaced("_execute_transformation_impl", _CHILD, "output is looked at"),
    _worker.replaced("_CURRENT_OWNER_DASK_KEY", _CHILD, "inherited by tasks, threads"),
    _worker.replaced("_CURRENT_OWNER_DASK_PRIORITY", _CHILD, "the same"),
    _worker.replaced("_require_child_channel", _CHILD, "forked jobs have no channel"),
    _worker.read("_request_parent_sync", _CHILD, "asks the worker"),
    _worker.read("_get_current_owner_dask_key", _CHILD, "which job runs a command"),
    _worker.read("_child_initializer", _CHILD, "ends the start of a process"),
    _channel.read("ChildChannel._endpoint", _CHILD, "its pipe is read without threads"),
    Module(_TRANSFORMER, "seamless_transformer.execute_bash").replaced(
        "subprocess", _CHILD, "no lock is held while a command runs"
    ),
    Module(_TRANSFORMER, "seamless_transformer.compiler").replaced(
        "get_compiled_module_info", _CHILD, "modules are shared by processes"
    ),
    Module(_TRANSFORMER, "seamless_transformer.compiler").read(
        "_stable_digest", _CHILD, "the identity of a module"
    ),
    Module(_TRANSFORMER, "seamless_transformer.probe_index").replaced(
        "get_execution", _CHILD, "probes learn that they run remotely"
    ),
    _run.replaced("exec_code", _CHILD, "tells when the code of a job has ended"),
    _cache.replaced("run_transformation_dict", _CHILD, "a nested job executes"),
    _cache.replaced(
        "TransformationCache._active_submissions", _CHILD, "each job asks for itself"
    ),
    # -- the pool of a worker
    _worker.replaced("_worker_manager", _CLIENTS, "the pool of this process is ours"),
    _worker.read("_DELEGATE_PROXY_LOCK", _DRIVER, "is free after a fork"),
    _cache.read("TransformationCache._active_lock", _DRIVER, "is free after a fork"),
    _worker.set("_has_spawned", _DRIVER, "a forked driver has no processes"),
    _worker.read("_set_has_spawned", _WORKER, "the pool of this process is there"),
    _worker.read("_set_dask_available", _WORKER, "nested calls are delegated"),
    _worker.read("_ALLOW_REMOTE_CLIENTS_ENV", _WORKER, "processes ask hashservers"),
    _worker.read("_DaemonThreadPoolExecutor", _WORKER, "its threads end at exit"),
    _worker.read("_Pointer", _WORKER, "memory that is lent"),
    _worker.read("_WorkerManager", _WORKER, "the pool, without processes"),
    _worker.replaced("_WorkerManager._executor", _WORKER, "threads for any number"),
    _worker.replaced("_WorkerManager._prefetched_buffers", _WORKER, "ours are bounded"),
    _worker.replaced("_WorkerManager._dispatch", _WORKER, "allocation decides"),
    _worker.read("_WorkerManager._manager", _WORKER, "starts processes, has handlers"),
    _worker.read("_WorkerManager._pointers", _WORKER, "memory that is lent"),
    _worker.read("_WorkerManager._handle_download", _WORKER, "without shared memory"),
    _worker.read("_WorkerManager._handle_downloaded", _WORKER, "ends a loan"),
    _worker.read("_WorkerManager._handle_ref_op", _WORKER, "for buffers of others"),
    _worker.read("_WorkerManager._handle_upload", _WORKER, "without shared memory"),
    _worker.read("_WorkerManager._release_pointer", _WORKER, "removes shared memory"),
    _manager.replaced("_CTX", _WORKER, "our fork server starts the processes"),
    _manager.read("ProcessManager._handles", _WORKER, "forgets processes that ended"),
    # -- the pipe between both
    _channel.overridden("Endpoint._send", _WORKER | _CHILD, "no threads"),
    _channel.overridden("Endpoint._reader_loop", _WORKER | _CHILD, "no threads"),
    *(
        _channel.read(f"Endpoint.{name}", _WORKER | _CHILD, "state that our pipe uses")
        for name in (
            "_closed",
            "_closed_event",
            "_conn",
            "_handle_message",
            "_loop",
            "_name",
            "_pending",
            "_request_tasks",
            "_send_lock",
        )
    ),
    _channel.set("Endpoint._reader_task", _WORKER | _CHILD, "another one reads"),
    # -- event loops and threads
    _class.replaced("get_event_loop", _CALLERS, "one loop for each thread, which runs"),
    _class.replaced("_ensure_loop_running", _CALLERS, "waits until the loop runs"),
    _class.replaced("_COMPUTE_EXECUTOR", _CALLERS, "its threads act for their job"),
    # -- a Transformation
    *(
        _class.replaced(f"Transformation.{name}", _CALLERS, reason)
        for name, reason in (
            ("_compute", "waits for an ongoing evaluation; a job lets others execute"),
            ("_mark_cancelled", "ends the evaluation"),
            ("cancel", "changes nothing after the end"),
            ("cancel_async", "changes nothing after the end"),
            ("clear_exception", "another evaluation may begin"),
            ("start", "its task may be thrown away"),
            ("task", "it may be thrown away"),
            ("computation", "they begin some at a time"),
            ("__del__", "takes no lock when the interpreter ends"),
        )
    ),
    Module(_TRANSFORMER, "seamless_transformer.multi").replaced(
        "_ParallelIterator.__next__", _CALLERS, "ends its tasks when interrupted"
    ),
    Module(_TRANSFORMER, "seamless_transformer.multi").read(
        "_ParallelIterator._loop", _CALLERS, "where these tasks are"
    ),
    *(
        _class.set(f"Transformation.{name}", _CALLERS, "the outcome of a task")
        for name in (
            "_constructed",
            "_evaluated",
            "_exception",
            "_result_checksum",
            "_transformation_checksum",
        )
    ),
    _class.set("Transformation._cancel_requested", _CALLERS, "why its task ends"),
    _class.set("Transformation._computation_task", _CALLERS, "forgets its task"),
    _class.read("Transformation._computation_future", _CALLERS, "is it started"),
    _class.read("_dask_available", _CALLERS, "whether it starts on a cluster"),
    Module(_TRANSFORMER, "seamless_transformer.pretransformation").replaced(
        "PreTransformation.__del__", _CALLERS, "takes no lock when the interpreter ends"
    ),
    _class.set("Transformation._dask_futures", _CALLERS, "the handles of its task"),
    _class.read("Transformation._cancelled", _CALLERS, "its state"),
    *(
        _class.read(f"Transformation.{name}", _CALLERS, "its definition")
        for name in (
            "_constructor_sync",
            "_definition_payload_template",
            "_evaluator_sync",
            "_meta",
            "_prefer_local_execution",
            "_strict_dunder",
            "_tf_dunder",
            "_upstream_dependencies",
        )
    ),
    _class.read("Transformation._ensure_result_value", _CALLERS, "fetches the value"),
    *(
        _class.read(
            f"transformation_from_pretransformation.{name}",
            _CALLERS,
            "a variable in which the definition is",
        )
        for name in (
            "post_prepare_async",
            "post_prepare_sync",
            "prepared_execution_dict",
            "prepared_tf_dunder",
        )
    ),
    _run.read("_driver_context", _CALLERS, "the caller is a driver transformation"),
    # -- caches and records
    *(
        _cache.replaced(f"TransformationCache.{name}", _ALL, "bounded")
        for name in (
            "_rev_transformation_cache",
            "_transformation_cache",
            "_transformation_dunder_cache",
        )
    ),
    _cache.read(
        "TransformationCache._register_transformation_result",
        _CALLERS,
        "recomputes scratch results",
    ),
    _cache.read("_dunder_envelope_checksum", _ALL, "compares envelopes"),
    _records.read("_normalize_job_validation_payload", _WORKER, "for full records"),
    Module(_TRANSFORMER, "seamless_transformer.record_utils").read(
        "_utcnow_iso", _WORKER, "the time in records"
    ),
)

# -- seamless-core -----------------------------------------------------------------

_CORE = "seamless-core"
_writer = Module(_CORE, "seamless.caching.buffer_writer")
_pylru = Module(_CORE, "seamless.util.pylru")

#: methods of Seamless' small caches that several threads use at a time
CACHE_METHODS = (
    "__contains__",
    "__delitem__",
    "__getitem__",
    "__setitem__",
    "clear",
    "get",
    "peek",
    "pop",
    "popitem",
    "setdefault",
    "update",
)

CORE = (
    *(
        _pylru.replaced(f"lrucache.{name}", _ALL, "threads share it")
        for name in CACHE_METHODS
    ),
    _writer.replaced(
        "_process_entry", _ALL, "order, promises; those that wait learn of the end"
    ),
    _writer.read("_entries", _ALL, "buffers that are being written"),
    _writer.read("_lock", _CLIENTS, "guards these"),
    Module(_CORE, "seamless.caching.eviction_cost").read(
        "CostModule._lock", _DRIVER, "is free after a fork"
    ),
    _writer.read("_loop", _CLIENTS, "that of its thread, if it runs"),
    _writer.read("_stop_worker", _WORKER, "no thread when processes are forked"),
    Module(_CORE, "seamless.caching.buffer_cache").replaced(
        "BufferCache._sizes", _CLIENTS, "bounded"
    ),
    Module(_CORE, "seamless.caching.eviction_cost").replaced(
        "BufferLengthSubsystem._lengths", _CLIENTS, "bounded"
    ),
    Module(_CORE, "seamless.caching.eviction_cost").read(
        "_cost_module", _CLIENTS, "has these lengths"
    ),
    Module(_CORE, "seamless").set(
        "_require_close", _DRIVER, "a forked driver has nothing to close"
    ),
)

# -- seamless-remote ---------------------------------------------------------------

_REMOTE = "seamless-remote"
_client = Module(_REMOTE, "seamless_remote.client")
_buffers = Module(_REMOTE, "seamless_remote.buffer_remote")
_database = Module(_REMOTE, "seamless_remote.database_remote")

REMOTE = (
    _client.read("_keepalive_lock", _DRIVER, "is free after a fork"),
    _client.replaced("_build_request_timeout", _CLIENTS, "requests wait their turn"),
    _client.replaced("_close_session", _CLIENTS, "not while it is used"),
    _client.replaced("Client._get_session", _ALL, "reads answers; forgets threads"),
    _client.replaced("Client.healthcheck", _CLIENTS, "callers share one request"),
    _client.replaced("Client.restart", _CLIENTS, "leaves connections of others open"),
    _client.set(
        "Client._initialized", _CLIENTS, "the next request checks health first"
    ),
    _client.read("Client._sessions", _CLIENTS, "the sessions of threads"),
    _client.read("Client._close_sessions_for_thread", _CLIENTS, "of ended threads"),
    _client.read("Client._healthcheck_timeout", _CLIENTS, "of a health check"),
    _client.read("Client._request_timeout", _CLIENTS, "of a write"),
    _client.read("Client._require_url", _CLIENTS, "where the server is"),
    _client.read("_is_resource_busy_error", _CLIENTS, "asks again, or fails"),
    _client.read("_retry_operation", _CLIENTS, "writes as it would"),
    _buffers.replaced("promise", _ALL, "goes together with the write"),
    _buffers.replaced("get_buffer", _CLIENTS, "waits while the hashserver is away"),
    *(
        _database.replaced(name, _CLIENTS, "waits while the database is away")
        for name in (
            "get_rev_transformations",
            "get_transformation_result",
            "set_execution_record",
            "set_transformation_result",
        )
    ),
    *(
        _buffers.read(name, _CLIENTS, "the hashservers of this process")
        for name in (
            "_launched_clients",
            "_read_folders_clients",
            "_read_server_clients",
            "_write_server_clients",
        )
    ),
    *(
        _database.read(name, _CLIENTS, "the databases of this process")
        for name in (
            "_launched_clients",
            "_read_database_clients",
            "_write_database_clients",
        )
    ),
)

# -- seamless-config ---------------------------------------------------------------

CONFIG = (
    Module("seamless-config", "seamless_config").read(
        "_initialized", _WORKER, "the process has a configuration of its own"
    ),
    Module("seamless-config", "seamless_config.config_files").read(
        "_load_clusters", Where.WRAPPER, "what clusters.yaml says, as it is written"
    ),
)

NAMES = (*TRANSFORMER, *CORE, *REMOTE, *CONFIG)
