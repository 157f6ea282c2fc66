-- The SQL interface. Functions are in C, where the library sets its own search path for its statements. The two
-- exceptions only change the form of what such a function returns.

-- Enqueue

CREATE FUNCTION jobqueue.enqueue(type text, payload jsonb DEFAULT '{}', queue text DEFAULT NULL,
	priority integer DEFAULT 0, run_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL,
	max_attempts integer DEFAULT NULL, timeout interval DEFAULT NULL, unique_key text DEFAULT NULL,
	on_conflict text DEFAULT 'keep', group_key text DEFAULT NULL, after bigint[] DEFAULT NULL,
	on_parent_failure text DEFAULT 'cancel', metadata jsonb DEFAULT NULL, unique_scope text DEFAULT 'live')
	RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_enqueue';
COMMENT ON FUNCTION jobqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, interval, text,
	text, text, bigint[], text, jsonb, text) IS
	'adds a task in the caller''s transaction; returns its id';

CREATE FUNCTION jobqueue.enqueue_unique(type text, payload jsonb DEFAULT '{}', queue text DEFAULT NULL,
	priority integer DEFAULT 0, run_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL,
	max_attempts integer DEFAULT NULL, timeout interval DEFAULT NULL, unique_key text DEFAULT NULL,
	on_conflict text DEFAULT 'keep', group_key text DEFAULT NULL, after bigint[] DEFAULT NULL,
	on_parent_failure text DEFAULT 'cancel', metadata jsonb DEFAULT NULL, unique_scope text DEFAULT 'live',
	unique_for interval DEFAULT NULL,
	OUT id bigint, OUT is_new boolean)
	RETURNS record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_enqueue_unique';
COMMENT ON FUNCTION jobqueue.enqueue_unique(text, jsonb, text, integer, timestamptz, interval, integer, interval, text,
	text, text, bigint[], text, jsonb, text, interval) IS
	'adds a task unless its unique_key is taken; returns its id, or that of the task that has the key, and '
	'whether it is new';

CREATE FUNCTION jobqueue.enqueue_many(type text, payloads jsonb[], queue text DEFAULT NULL, priority integer DEFAULT 0,
	run_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL, max_attempts integer DEFAULT NULL,
	timeout interval DEFAULT NULL, group_key text DEFAULT NULL, after bigint[] DEFAULT NULL,
	on_parent_failure text DEFAULT 'cancel', metadata jsonb DEFAULT NULL)
	RETURNS SETOF bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_enqueue_many';
COMMENT ON FUNCTION jobqueue.enqueue_many(text, jsonb[], text, integer, timestamptz, interval, integer, interval, text,
	bigint[], text, jsonb) IS
	'adds one task per payload; returns their ids in the order of the payloads';

CREATE FUNCTION jobqueue.enqueue_row() RETURNS trigger LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_enqueue_row';
COMMENT ON FUNCTION jobqueue.enqueue_row() IS
	'row trigger: enqueues {"op", "table", "new", "old"} as a task of the type given as its argument';

-- Outside workers

CREATE FUNCTION jobqueue.claim(queue text DEFAULT 'default', max_tasks integer DEFAULT 1,
	lease interval DEFAULT '5 minutes', types text[] DEFAULT NULL, claimed_by text DEFAULT NULL)
	RETURNS SETOF jobqueue.tasks LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_claim';
COMMENT ON FUNCTION jobqueue.claim(text, integer, interval, text[], text) IS
	'takes up to max_tasks waiting tasks for a worker outside the server, until the lease expires';

CREATE FUNCTION jobqueue.claim_json(queue text DEFAULT 'default', max_tasks integer DEFAULT 1,
	lease interval DEFAULT '5 minutes', types text[] DEFAULT NULL, claimed_by text DEFAULT NULL)
	RETURNS SETOF jsonb LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT pg_catalog.to_jsonb(t) FROM jobqueue.claim($1, $2, $3, $4, $5) t
$$;
COMMENT ON FUNCTION jobqueue.claim_json(text, integer, interval, text[], text) IS
	'claim() for clients that cannot read all of its types: each task as an object';

CREATE FUNCTION jobqueue.complete(id bigint, attempt integer, result jsonb DEFAULT NULL)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_complete';
COMMENT ON FUNCTION jobqueue.complete(bigint, integer, jsonb) IS
	'reports a claimed task as done; false if the claim is no longer the caller''s';

CREATE FUNCTION jobqueue.complete_many(ids bigint[], attempts integer[], results jsonb[] DEFAULT NULL)
	RETURNS SETOF bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_complete_many';
COMMENT ON FUNCTION jobqueue.complete_many(bigint[], integer[], jsonb[]) IS
	'reports claimed tasks as done; returns the ids that were accepted';

CREATE FUNCTION jobqueue.complete_and_claim(ids bigint[], attempts integer[], results jsonb[] DEFAULT NULL,
	queue text DEFAULT 'default', max_tasks integer DEFAULT 1, lease interval DEFAULT '5 minutes',
	types text[] DEFAULT NULL, claimed_by text DEFAULT NULL)
	RETURNS SETOF jobqueue.tasks LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_complete_and_claim';
COMMENT ON FUNCTION jobqueue.complete_and_claim(bigint[], integer[], jsonb[], text, integer, interval, text[], text) IS
	'reports claimed tasks as done, and takes the next ones; claims that are no longer the caller''s are '
	'skipped';

CREATE FUNCTION jobqueue.complete_and_claim_json(ids bigint[], attempts integer[], results jsonb[] DEFAULT NULL,
	queue text DEFAULT 'default', max_tasks integer DEFAULT 1, lease interval DEFAULT '5 minutes',
	types text[] DEFAULT NULL, claimed_by text DEFAULT NULL)
	RETURNS SETOF jsonb LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT pg_catalog.to_jsonb(t) FROM jobqueue.complete_and_claim($1, $2, $3, $4, $5, $6, $7, $8) t
$$;
COMMENT ON FUNCTION jobqueue.complete_and_claim_json(bigint[], integer[], jsonb[], text, integer, interval, text[],
	text) IS
	'complete_and_claim() for clients that cannot read all of its types: each task as an object';

CREATE FUNCTION jobqueue.fail(id bigint, attempt integer, error text, sqlstate text DEFAULT NULL,
	retry_in interval DEFAULT NULL, retryable boolean DEFAULT true)
	RETURNS text LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_fail';
COMMENT ON FUNCTION jobqueue.fail(bigint, integer, text, text, interval, boolean) IS
	'reports a claimed task as failed; returns its new status, null if the claim is no longer the caller''s';

CREATE FUNCTION jobqueue.extend_lease(id bigint, attempt integer, lease interval DEFAULT '5 minutes')
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_extend_lease';
COMMENT ON FUNCTION jobqueue.extend_lease(bigint, integer, interval) IS
	'holds a claimed task for the given time from now; false if it was lost or cancelled';

CREATE FUNCTION jobqueue.release(id bigint, attempt integer)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_release';
COMMENT ON FUNCTION jobqueue.release(bigint, integer) IS 'gives a claimed task back at once; costs no attempt';

CREATE FUNCTION jobqueue.snooze(id bigint, attempt integer, delay interval)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_snooze_claim';
COMMENT ON FUNCTION jobqueue.snooze(bigint, integer, interval) IS
	'gives a claimed task back until the delay is over; costs no attempt; false if the claim is no longer the '
	'caller''s';

CREATE FUNCTION jobqueue.discard(id bigint, attempt integer, reason text)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_discard_claim';
COMMENT ON FUNCTION jobqueue.discard(bigint, integer, text) IS
	'ends a claimed task as failed, even if it has attempts left; false if the claim is no longer the caller''s';

CREATE FUNCTION jobqueue.set_progress(id bigint, attempt integer, fraction real, message text DEFAULT NULL)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_set_progress_claim';
COMMENT ON FUNCTION jobqueue.set_progress(bigint, integer, real, text) IS
	'reports how much of a claimed task is done, 0 to 1; false if the claim is no longer the caller''s';

-- In a handler

CREATE FUNCTION jobqueue.snooze(delay interval)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_snooze';
COMMENT ON FUNCTION jobqueue.snooze(interval) IS
	'in a handler: when it returns, the task is not completed but runs again after the delay; costs no attempt';

CREATE FUNCTION jobqueue.discard(reason text)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_discard';
COMMENT ON FUNCTION jobqueue.discard(text) IS
	'in a handler: raises an error that ends the task as failed, even if it has attempts left';

CREATE FUNCTION jobqueue.set_progress(fraction real, message text DEFAULT NULL)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_set_progress';
COMMENT ON FUNCTION jobqueue.set_progress(real, text) IS
	'in a handler: reports how much is done, 0 to 1; seen at once in running_tasks';

-- Everybody

CREATE FUNCTION jobqueue.wait_for(id bigint, timeout interval DEFAULT NULL)
	RETURNS jobqueue.tasks LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_wait_for';
COMMENT ON FUNCTION jobqueue.wait_for(bigint, interval) IS
	'waits until a task is completed, failed or cancelled, and this is as safe as a commit; returns the task, '
	'null on timeout';

CREATE FUNCTION jobqueue.current_task()
	RETURNS jobqueue.tasks LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'jobqueue_current_task';
COMMENT ON FUNCTION jobqueue.current_task() IS 'in a handler: the task that is running; null elsewhere';

-- Administration

CREATE FUNCTION jobqueue.cancel(id bigint, reason text DEFAULT NULL)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_cancel';
COMMENT ON FUNCTION jobqueue.cancel(bigint, text) IS
	'cancels a task that is not finished; a running handler is interrupted and its effects are rolled back';

CREATE FUNCTION jobqueue.retry(id bigint, run_at timestamptz DEFAULT pg_catalog.now())
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_retry';
COMMENT ON FUNCTION jobqueue.retry(bigint, timestamptz) IS
	'makes a failed, cancelled or scheduled task run again at run_at, with one more attempt if it has none left';

CREATE FUNCTION jobqueue.cancel_tasks(queue text DEFAULT NULL, type text DEFAULT NULL, status text DEFAULT NULL,
	since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, max_tasks integer DEFAULT 1000)
	RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_cancel_tasks';
COMMENT ON FUNCTION jobqueue.cancel_tasks(text, text, text, timestamptz, timestamptz, integer) IS
	'cancels up to max_tasks tasks that are not finished and match; returns how many';

CREATE FUNCTION jobqueue.retry_failed(queue text DEFAULT NULL, type text DEFAULT NULL,
	since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, max_tasks integer DEFAULT 1000)
	RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_retry_failed';
COMMENT ON FUNCTION jobqueue.retry_failed(text, text, timestamptz, timestamptz, integer) IS
	'makes up to max_tasks failed tasks and dead letters that match run again; returns how many';

CREATE FUNCTION jobqueue.delete_tasks(queue text DEFAULT NULL, type text DEFAULT NULL, status text DEFAULT NULL,
	since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, max_tasks integer DEFAULT 1000)
	RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_delete_tasks';
COMMENT ON FUNCTION jobqueue.delete_tasks(text, text, text, timestamptz, timestamptz, integer) IS
	'removes up to max_tasks tasks that match and are not being processed; returns how many';

CREATE FUNCTION jobqueue.purge_queue(queue text)
	RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_purge_queue';
COMMENT ON FUNCTION jobqueue.purge_queue(text) IS
	'removes all waiting tasks of a queue (pending, scheduled, blocked); returns how many';

CREATE FUNCTION jobqueue.drain(queue text DEFAULT NULL, max_tasks integer DEFAULT NULL,
	include_scheduled boolean DEFAULT false, raise_errors boolean DEFAULT false)
	RETURNS SETOF jobqueue.tasks LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_drain';
COMMENT ON FUNCTION jobqueue.drain(text, integer, boolean, boolean) IS
	'for tests: runs the waiting tasks of the caller''s own handlers in the caller''s session and transaction';

CREATE FUNCTION jobqueue.register_handler(type text, handler regprocedure, queue text DEFAULT 'default',
	run_as name DEFAULT CURRENT_USER, max_attempts integer DEFAULT 20, backoff text DEFAULT 'exponential',
	backoff_function regprocedure DEFAULT NULL, first_delay interval DEFAULT '5 seconds',
	max_delay interval DEFAULT '1 hour', jitter real DEFAULT 0.2, timeout interval DEFAULT NULL,
	discard_sqlstates text[] DEFAULT NULL, dead_letter_queue text DEFAULT NULL, max_running integer DEFAULT NULL,
	batch_size integer DEFAULT 1, rate_limit integer DEFAULT NULL, rate_period interval DEFAULT NULL,
	rate_burst integer DEFAULT NULL, group_limit integer DEFAULT NULL, on_failure text DEFAULT NULL)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_register_handler_2';
COMMENT ON FUNCTION jobqueue.register_handler(text, regprocedure, text, name, integer, text, regprocedure, interval,
	interval, real, interval, text[], text, integer, integer, integer, interval, integer, integer, text) IS
	'defines which function or procedure runs the tasks of a type, and how; a second call by the same owner '
	'replaces it';

CREATE FUNCTION jobqueue.alter_handler(type text, handler regprocedure DEFAULT NULL, queue text DEFAULT NULL,
	run_as name DEFAULT NULL, max_attempts integer DEFAULT NULL, backoff text DEFAULT NULL,
	backoff_function regprocedure DEFAULT NULL, first_delay interval DEFAULT NULL, max_delay interval DEFAULT NULL,
	jitter real DEFAULT NULL, timeout interval DEFAULT NULL, discard_sqlstates text[] DEFAULT NULL,
	dead_letter_queue text DEFAULT NULL, max_running integer DEFAULT NULL, batch_size integer DEFAULT NULL,
	rate_limit integer DEFAULT NULL, rate_period interval DEFAULT NULL, rate_burst integer DEFAULT NULL,
	group_limit integer DEFAULT NULL, on_failure text DEFAULT NULL)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_alter_handler_2';
COMMENT ON FUNCTION jobqueue.alter_handler(text, regprocedure, text, name, integer, text, regprocedure, interval,
	interval, real, interval, text[], text, integer, integer, integer, interval, integer, integer, text) IS
	'changes a handler; arguments that are left out stay; 0, no SQLSTATEs and an empty dead_letter_queue mean '
	'none';

CREATE FUNCTION jobqueue.unregister_handler(type text)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_unregister_handler';
COMMENT ON FUNCTION jobqueue.unregister_handler(text) IS
	'removes the handler of a type; its tasks stay queued; false if it had none';

CREATE FUNCTION jobqueue.pause_queue(queue text)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_pause_queue';
COMMENT ON FUNCTION jobqueue.pause_queue(text) IS
	'pauses a queue, null = all: nothing more is claimed from it, running tasks go on; false if it was already '
	'paused';

CREATE FUNCTION jobqueue.resume_queue(queue text)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_resume_queue';
COMMENT ON FUNCTION jobqueue.resume_queue(text) IS 'ends pause_queue; null = all queues; false if nothing was paused';

CREATE FUNCTION jobqueue.alter_queue(queue text, max_running integer DEFAULT NULL, weight integer DEFAULT NULL,
	rate_limit integer DEFAULT NULL, rate_period interval DEFAULT NULL, rate_burst integer DEFAULT NULL,
	group_limit integer DEFAULT NULL, group_hold_on_retry boolean DEFAULT NULL, group_rate_limit integer DEFAULT NULL,
	group_rate_period interval DEFAULT NULL, group_rate_burst integer DEFAULT NULL, aging interval DEFAULT NULL)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_alter_queue';
COMMENT ON FUNCTION jobqueue.alter_queue(text, integer, integer, integer, interval, integer, integer, boolean, integer,
	interval, integer, interval) IS
	'sets how many tasks of a queue run at once, how fast they start, and its weight; arguments that are left '
	'out stay, 0 means none';

CREATE FUNCTION jobqueue.adopt()
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_adopt';
COMMENT ON FUNCTION jobqueue.adopt() IS
	'lets the workers of a restored or copied database start; false if the database was not paused';

-- Triggers, and functions that the views use. Not part of the interface.

CREATE FUNCTION jobqueue._tasks_inserted() RETURNS trigger LANGUAGE C AS 'MODULE_PATHNAME', 'jobqueue_tasks_inserted';
COMMENT ON FUNCTION jobqueue._tasks_inserted() IS
	'internal: notes that a plain statement adds tasks, so that its commit wakes workers';
CREATE FUNCTION jobqueue._task_updated() RETURNS trigger LANGUAGE C AS 'MODULE_PATHNAME', 'jobqueue_task_updated';
COMMENT ON FUNCTION jobqueue._task_updated() IS 'internal: sets the times of a task that is updated by hand';
CREATE FUNCTION jobqueue._serves_all(role oid) RETURNS boolean
	LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'jobqueue_serves_all';
COMMENT ON FUNCTION jobqueue._serves_all(oid) IS
	'internal: whether the role may work in all queues, by rights that jobqueue.access does not limit';

CREATE FUNCTION jobqueue._configuration_changed() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'jobqueue_configuration_changed';
COMMENT ON FUNCTION jobqueue._configuration_changed() IS 'internal: makes the processes read their configuration again';

CREATE FUNCTION jobqueue._workers(OUT pid integer, OUT database name, OUT role name, OUT state text, OUT task_id bigint,
	OUT started_at timestamptz, OUT state_since timestamptz, OUT progress real, OUT progress_message text)
	RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_workers';
COMMENT ON FUNCTION jobqueue._workers() IS
	'internal: the workers of this database, from shared memory; see worker_status';

CREATE FUNCTION jobqueue._shared_capacity(OUT resource text, OUT database oid, OUT role oid, OUT queue text,
	OUT held bigint, OUT share bigint, OUT capacity bigint)
	RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_shared_capacity';
COMMENT ON FUNCTION jobqueue._shared_capacity() IS 'internal: who holds how much of shared memory; see shared_capacity';

CREATE FUNCTION jobqueue._installed() RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'jobqueue_installed';
COMMENT ON FUNCTION jobqueue._installed() IS 'internal: tells the launcher about a new installation';

CREATE FUNCTION jobqueue._is_wanted(type text, is_dead_letter boolean) RETURNS boolean
	LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'jobqueue_is_wanted';
COMMENT ON FUNCTION jobqueue._is_wanted(text, boolean) IS
	'internal: whether the claim that is being made takes such a task';

CREATE FUNCTION jobqueue._raw_size(value jsonb) RETURNS bigint
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'jobqueue_raw_size';
COMMENT ON FUNCTION jobqueue._raw_size(jsonb) IS
	'internal: the number of bytes that a value takes in memory, without reading it';

CREATE TRIGGER tasks_inserted BEFORE INSERT ON jobqueue.tasks
	FOR EACH STATEMENT EXECUTE FUNCTION jobqueue._tasks_inserted();

-- Statements of the extension always change the lease, the time stamp, or are known by Session::active(); hand-written
-- ones do not.
CREATE TRIGGER task_updated BEFORE UPDATE ON jobqueue.tasks_live
	FOR EACH ROW WHEN (NEW.lease_expires_at IS NULL AND OLD.lease_expires_at IS NULL
		OR NEW.lease_expires_at OPERATOR(pg_catalog.=) OLD.lease_expires_at)
	EXECUTE FUNCTION jobqueue._task_updated();

-- The extension's triggers fire whatever session_replication_role is, because workers must be told in any case.
ALTER TABLE jobqueue.tasks ENABLE ALWAYS TRIGGER tasks_inserted;
ALTER TABLE jobqueue.tasks_live ENABLE ALWAYS TRIGGER task_updated;

CREATE TRIGGER handlers_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobqueue.handlers
	FOR EACH STATEMENT EXECUTE FUNCTION jobqueue._configuration_changed();
CREATE TRIGGER queues_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobqueue.queues
	FOR EACH STATEMENT EXECUTE FUNCTION jobqueue._configuration_changed();
CREATE TRIGGER access_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobqueue.access
	FOR EACH STATEMENT EXECUTE FUNCTION jobqueue._configuration_changed();
CREATE TRIGGER limits_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobqueue.limits
	FOR EACH STATEMENT EXECUTE FUNCTION jobqueue._configuration_changed();
CREATE TRIGGER incarnation_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobqueue.incarnation
	FOR EACH STATEMENT EXECUTE FUNCTION jobqueue._configuration_changed();
ALTER TABLE jobqueue.handlers ENABLE ALWAYS TRIGGER handlers_changed;
ALTER TABLE jobqueue.queues ENABLE ALWAYS TRIGGER queues_changed;
ALTER TABLE jobqueue.access ENABLE ALWAYS TRIGGER access_changed;
ALTER TABLE jobqueue.limits ENABLE ALWAYS TRIGGER limits_changed;
ALTER TABLE jobqueue.incarnation ENABLE ALWAYS TRIGGER incarnation_changed;
