\echo Use "ALTER EXTENSION jobqueue UPDATE" to load this file. \quit

-- From 0.1.0 to 0.2.0. CONTRIBUTING.md says what a script like this may do. What can fail comes first, before any lock
-- on jobqueue.tasks.

-- A server, or a session, that has loaded the library of 0.1.0 does not have the functions below.
DO $$
BEGIN
	IF pg_catalog.string_to_array(jobqueue.version(), '.')::pg_catalog.int4[] OPERATOR(pg_catalog.<) '{0,2,0}' THEN
		RAISE EXCEPTION 'version % of the library of jobqueue is loaded, which is older than 0.2.0', jobqueue.version()
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Restart the server if it preloads the library, otherwise begin a new session. Then repeat '
					'ALTER EXTENSION jobqueue UPDATE.';
	END IF;
END
$$;

-- New functions and views

CREATE FUNCTION jobqueue._check_task(type text, status text, queue text, slot smallint, attempts integer,
	max_attempts integer, timeout interval, claimed_by text, last_error text, last_sqlstate text, unique_key text,
	unique_scope text, group_key text, metadata jsonb, failures jsonb, origin_queue text, progress_message text)
	RETURNS boolean LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'jobqueue_check_task';

CREATE FUNCTION jobqueue._serves_all(role oid) RETURNS boolean
	LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'jobqueue_serves_all';

CREATE FUNCTION jobqueue._shared_capacity(OUT resource text, OUT database oid, OUT role oid, OUT queue text,
	OUT held bigint, OUT share bigint, OUT capacity bigint)
	RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_shared_capacity';

CREATE FUNCTION jobqueue._raw_size(value jsonb) RETURNS bigint
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'jobqueue_raw_size';

CREATE FUNCTION jobqueue._index_waiting() RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF EXISTS (SELECT 1 FROM jobqueue.limits l WHERE l.max_queued IS NOT NULL)
		AND to_regclass('jobqueue.tasks_live_waiting_of') IS NULL THEN
		CREATE INDEX tasks_live_waiting_of ON jobqueue.tasks_live (created_by, id)
			WHERE status = ANY ('{pending,scheduled,blocked}'::text[]);
	END IF;
END
$$;

CREATE FUNCTION jobqueue.claim_json(queue text DEFAULT 'default', max_tasks integer DEFAULT 1,
	lease interval DEFAULT '5 minutes', types text[] DEFAULT NULL, claimed_by text DEFAULT NULL)
	RETURNS SETOF jsonb LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT pg_catalog.to_jsonb(t) FROM jobqueue.claim($1, $2, $3, $4, $5) t
$$;

CREATE FUNCTION jobqueue.complete_and_claim_json(ids bigint[], attempts integer[], results jsonb[] DEFAULT NULL,
	queue text DEFAULT 'default', max_tasks integer DEFAULT 1, lease interval DEFAULT '5 minutes',
	types text[] DEFAULT NULL, claimed_by text DEFAULT NULL)
	RETURNS SETOF jsonb LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT pg_catalog.to_jsonb(t) FROM jobqueue.complete_and_claim($1, $2, $3, $4, $5, $6, $7, $8) t
$$;

CREATE FUNCTION jobqueue.register_handler(type text, handler regprocedure, queue text DEFAULT 'default',
	run_as name DEFAULT CURRENT_USER, max_attempts integer DEFAULT 20, backoff text DEFAULT 'exponential',
	backoff_function regprocedure DEFAULT NULL, first_delay interval DEFAULT '5 seconds',
	max_delay interval DEFAULT '1 hour', jitter real DEFAULT 0.2, timeout interval DEFAULT NULL,
	discard_sqlstates text[] DEFAULT NULL, dead_letter_queue text DEFAULT NULL, max_running integer DEFAULT NULL,
	batch_size integer DEFAULT 1, rate_limit integer DEFAULT NULL, rate_period interval DEFAULT NULL,
	rate_burst integer DEFAULT NULL, group_limit integer DEFAULT NULL, on_failure text DEFAULT NULL)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_register_handler_2';

CREATE FUNCTION jobqueue.alter_handler(type text, handler regprocedure DEFAULT NULL, queue text DEFAULT NULL,
	run_as name DEFAULT NULL, max_attempts integer DEFAULT NULL, backoff text DEFAULT NULL,
	backoff_function regprocedure DEFAULT NULL, first_delay interval DEFAULT NULL, max_delay interval DEFAULT NULL,
	jitter real DEFAULT NULL, timeout interval DEFAULT NULL, discard_sqlstates text[] DEFAULT NULL,
	dead_letter_queue text DEFAULT NULL, max_running integer DEFAULT NULL, batch_size integer DEFAULT NULL,
	rate_limit integer DEFAULT NULL, rate_period interval DEFAULT NULL, rate_burst integer DEFAULT NULL,
	group_limit integer DEFAULT NULL, on_failure text DEFAULT NULL)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_alter_handler_2';

CREATE FUNCTION jobqueue.limit_role(role name, max_workers integer DEFAULT NULL, max_queued integer DEFAULT NULL,
	max_payload integer DEFAULT NULL, max_schedules integer DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF role IS NULL THEN
		RAISE EXCEPTION 'role must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF max_workers < 0 OR max_queued < 0 OR max_payload < 0 OR max_schedules < 0 THEN
		RAISE EXCEPTION 'limits must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'undefined_object';
	END IF;
	DELETE FROM jobqueue.limits l WHERE l.role = $1;
	IF max_workers IS NOT NULL OR max_queued IS NOT NULL OR max_payload IS NOT NULL OR max_schedules IS NOT NULL THEN
		INSERT INTO jobqueue.limits (role, max_workers, max_queued, max_payload, max_schedules)
			VALUES ($1, $2, $3, $4, $5);
		PERFORM jobqueue._index_waiting();
	END IF;
END
$$;

CREATE VIEW jobqueue.shared_capacity AS
SELECT c.resource, d.datname AS database, r.rolname AS role, c.queue, c.held, c.share, c.capacity,
	CASE
		WHEN c.resource OPERATOR(pg_catalog.=) ANY (ARRAY['running tasks', 'names'])
			THEN 'tasks of groups, and of limited queues and types, wait; beyond a share, those of its holder'
		WHEN c.resource OPERATOR(pg_catalog.=) 'positions'
			THEN 'the queue with most positions loses old ones, and is read once from the start'
		WHEN c.resource OPERATOR(pg_catalog.=) 'waiters' THEN 'wait_for looks at its task every 20 ms'
		WHEN c.resource OPERATOR(pg_catalog.=) 'ends of workers'
			THEN 'the database with most entries loses one; the reason of that end is then not known'
		WHEN c.resource OPERATOR(pg_catalog.=) 'databases' THEN 'databases take turns'
		WHEN c.resource OPERATOR(pg_catalog.=) 'workers' THEN 'tasks wait for a worker'
		WHEN c.resource OPERATOR(pg_catalog.=) 'announcements'
			THEN 'the oldest are overwritten; a process that has not read them looks at the tables'
	END AS when_full
FROM jobqueue._shared_capacity() c
LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) c.database
LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) c.role;

CREATE VIEW jobqueue.history_status AS
SELECT c.relname AS leaf, n.slot OPERATOR(pg_catalog.=) coalesce(r.slot, 1::pg_catalog.int2) AS filling, r.filled_since,
	pg_catalog.pg_total_relation_size(c.oid) AS bytes, h.held_by
FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8)) n(slot)
JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
	AND c.relname OPERATOR(pg_catalog.=)
		('tasks_history_' OPERATOR(pg_catalog.||) n.slot::pg_catalog.text)::pg_catalog.name
LEFT JOIN (SELECT s.slot, s.filled_since FROM jobqueue.history_ring s ORDER BY s.filled_since LIMIT 1) r ON true
CROSS JOIN LATERAL (
	SELECT pg_catalog.array_agg(DISTINCT l.pid) AS held_by FROM pg_catalog.pg_locks l, pg_catalog.pg_database d
	WHERE l.locktype OPERATOR(pg_catalog.=) 'relation' AND l.relation OPERATOR(pg_catalog.=) c.oid AND l.granted
		AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND l.database OPERATOR(pg_catalog.=) d.oid
		AND coalesce(l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid(), true)) h;

-- They belong to the owner of the extension, who need not be the one who updates it. Nobody else has a right to them,
-- neither PUBLIC nor roles that default privileges name.
DO $$
DECLARE
	new record;
	grantee oid;
BEGIN
	FOR new IN
		SELECT o.object, pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.extowner)) AS owner, e.extowner,
			o.class, o.oid
		FROM pg_catalog.pg_extension e, (
			SELECT 'FUNCTION ' OPERATOR(pg_catalog.||) p.oid::pg_catalog.regprocedure::pg_catalog.text AS object,
				'pg_catalog.pg_proc'::pg_catalog.regclass AS class, p.oid
			FROM pg_catalog.pg_proc p
			WHERE p.pronamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
				AND (p.proname OPERATOR(pg_catalog.=) ANY ('{_check_task,_serves_all,_shared_capacity,_raw_size,'
						'_index_waiting,claim_json,complete_and_claim_json}'::pg_catalog.name[])
					OR p.proname OPERATOR(pg_catalog.=) 'limit_role' AND p.pronargs OPERATOR(pg_catalog.=) 5
					OR p.proname OPERATOR(pg_catalog.=) ANY ('{register_handler,alter_handler}'::pg_catalog.name[])
						AND p.pronargs OPERATOR(pg_catalog.=) 20)
			UNION ALL
			SELECT 'TABLE ' OPERATOR(pg_catalog.||) c.oid::pg_catalog.regclass::pg_catalog.text,
				'pg_catalog.pg_class'::pg_catalog.regclass, c.oid
			FROM pg_catalog.pg_class c
			WHERE c.relnamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
				AND c.relname OPERATOR(pg_catalog.=) ANY ('{shared_capacity,history_status}'::pg_catalog.name[])
		) o
		WHERE e.extname OPERATOR(pg_catalog.=) 'jobqueue'
	LOOP
		EXECUTE pg_catalog.format('ALTER %s OWNER TO %s', new.object, new.owner);
		EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM PUBLIC', new.object);
		FOR grantee IN
			SELECT a.grantee FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
			WHERE new.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
				AND p.oid OPERATOR(pg_catalog.=) new.oid
			UNION
			SELECT a.grantee FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
			WHERE new.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
				AND c.oid OPERATOR(pg_catalog.=) new.oid
		LOOP
			IF grantee OPERATOR(pg_catalog.<>) new.extowner THEN
				EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %I CASCADE', new.object,
					pg_catalog.pg_get_userbyid(grantee));
			END IF;
		END LOOP;
	END LOOP;
END
$$;

-- The exception is the check of a row: every role that writes a row has to run it.
GRANT EXECUTE ON FUNCTION jobqueue._check_task(text, text, text, smallint, integer, integer, interval, text, text, text,
	text, text, text, jsonb, jsonb, text, text) TO PUBLIC;

-- Three functions have one more argument. Whoever could call the old form, by a level of access or by a GRANT, can call
-- the new one.
DO $$
DECLARE
	granted record;
BEGIN
	FOR granted IN
		SELECT n.oid::pg_catalog.regprocedure AS function, a.grantee, a.is_grantable
		FROM pg_catalog.pg_proc o
		JOIN pg_catalog.pg_proc n ON n.pronamespace OPERATOR(pg_catalog.=) o.pronamespace
			AND n.proname OPERATOR(pg_catalog.=) o.proname
			AND n.pronargs OPERATOR(pg_catalog.=) (o.pronargs OPERATOR(pg_catalog.+) 1)
		CROSS JOIN LATERAL pg_catalog.aclexplode(o.proacl) a
		WHERE o.pronamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
			AND (o.proname OPERATOR(pg_catalog.=) 'limit_role' AND o.pronargs OPERATOR(pg_catalog.=) 4
				OR o.proname OPERATOR(pg_catalog.=) ANY ('{register_handler,alter_handler}'::pg_catalog.name[])
					AND o.pronargs OPERATOR(pg_catalog.=) 19)
			AND a.grantee OPERATOR(pg_catalog.<>) o.proowner
	LOOP
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s%s', granted.function,
			CASE WHEN granted.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'
				ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(granted.grantee)) END,
			CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
	END LOOP;
END
$$;
DROP FUNCTION jobqueue.register_handler(text, regprocedure, text, name, integer, text, regprocedure, interval, interval,
	real, interval, text[], text, integer, integer, integer, interval, integer, integer);
DROP FUNCTION jobqueue.alter_handler(text, regprocedure, text, name, integer, text, regprocedure, interval, interval,
	real, interval, text[], text, integer, integer, integer, interval, integer, integer);
DROP FUNCTION jobqueue.limit_role(name, integer, integer, integer);

-- Changed functions and views

CREATE OR REPLACE FUNCTION jobqueue._access_rights(access text) RETURNS SETOF text
	LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT r.what FROM (VALUES
		('{producer,consumer,manager,sql}'::pg_catalog.text[], 'USAGE ON SCHEMA jobqueue'),
		('{producer,consumer,manager,sql}', 'USAGE ON TYPE jobqueue.governed'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.version()'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.current_task()'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.snooze(interval)'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.discard(text)'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.set_progress(real, text)'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.wait_for(bigint, interval)'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.next_runs(text, integer, text, timestamptz)'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, '
			'integer, interval, text, text, text, bigint[], text, jsonb, text)'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue_unique(text, jsonb, text, integer, timestamptz, interval, '
			'integer, interval, text, text, text, bigint[], text, jsonb, text, interval)'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue_many(text, jsonb[], text, integer, timestamptz, interval, '
			'integer, interval, text, bigint[], text, jsonb)'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue_row()'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue_flow(jsonb)'),
		('{producer,consumer,manager,sql}', 'EXECUTE ON FUNCTION jobqueue.parent_results()'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.parent_results(bigint, integer)'),
		-- any column but the id: the policy for new rows accepts what enqueue() would have written
		('{producer}', 'INSERT (type, payload, status, created_at, updated_at, processed_at, queue, priority, run_at, '
			'attempts, max_attempts, finished_at, lease_expires_at, claimed_by, last_error, last_sqlstate, result, '
			'unique_key, group_key, created_by, metadata, timeout, crashes, failures, origin_queue, progress, '
			'progress_message, unique_scope, slot) ON jobqueue.tasks'),
		-- not failures: the details of a handler's errors may come from tables that a producer must not see
		('{producer,sql}', 'SELECT (id, type, payload, status, created_at, updated_at, processed_at, queue, '
			'priority, run_at, attempts, max_attempts, finished_at, lease_expires_at, claimed_by, last_error, '
			'last_sqlstate, result, unique_key, group_key, created_by, metadata, timeout, crashes, origin_queue, '
			'progress, progress_message, unique_scope, slot) ON jobqueue.tasks'),
		('{sql}', 'EXECUTE ON FUNCTION jobqueue.enqueue_sql(text, text, interval, timestamptz)'),
		('{sql}', 'EXECUTE ON FUNCTION jobqueue.schedule_sql(text, text, text, text, text, interval, text, integer, '
			'text, name)'),
		('{producer}', 'USAGE ON SEQUENCE jobqueue.tasks_id_seq'),
		('{consumer,manager}', 'SELECT ON jobqueue.tasks'),
		('{consumer,manager}', 'SELECT ON jobqueue.queue_status'),
		('{consumer}', 'UPDATE (status, updated_at, processed_at) ON jobqueue.tasks'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.claim(text, integer, interval, text[], text)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.complete(bigint, integer, jsonb)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.complete_many(bigint[], integer[], jsonb[])'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.complete_and_claim(bigint[], integer[], jsonb[], text, integer, '
			'interval, text[], text)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.claim_json(text, integer, interval, text[], text)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.complete_and_claim_json(bigint[], integer[], jsonb[], text, '
			'integer, interval, text[], text)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.fail(bigint, integer, text, text, interval, boolean)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.extend_lease(bigint, integer, interval)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.release(bigint, integer)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.snooze(bigint, integer, interval)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.discard(bigint, integer, text)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.set_progress(bigint, integer, real, text)'),
		('{consumer,manager}', 'EXECUTE ON FUNCTION jobqueue.drain(text, integer, boolean, boolean)'),
		('{manager}', 'SELECT ON jobqueue.handlers, jobqueue.queues, jobqueue.worker_status, jobqueue.running_tasks'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue._workers()'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.cancel(bigint, text)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.retry(bigint, timestamptz)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.cancel_tasks(text, text, text, timestamptz, timestamptz, integer)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.retry_failed(text, text, timestamptz, timestamptz, integer)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.delete_tasks(text, text, text, timestamptz, timestamptz, integer)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.purge_queue(text)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.pause_queue(text)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.resume_queue(text)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.alter_queue(text, integer, integer, integer, interval, integer, '
			'integer, boolean, integer, interval, integer, interval)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.register_handler(text, regprocedure, text, name, integer, text, '
			'regprocedure, interval, interval, real, interval, text[], text, integer, integer, integer, interval, '
			'integer, integer, text)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.alter_handler(text, regprocedure, text, name, integer, text, '
			'regprocedure, interval, interval, real, interval, text[], text, integer, integer, integer, interval, '
			'integer, integer, text)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.unregister_handler(text)'),
		('{manager}', 'SELECT ON jobqueue.schedules'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.schedule(text, text, text, jsonb, text, text, integer, text, '
			'integer, text)'),
		('{manager,sql}', 'EXECUTE ON FUNCTION jobqueue.unschedule(text)'),
		('{manager,sql}', 'EXECUTE ON FUNCTION jobqueue.pause_schedule(text)'),
		('{manager,sql}', 'EXECUTE ON FUNCTION jobqueue.resume_schedule(text)')
	) r(levels, what) WHERE $1 OPERATOR(pg_catalog.=) ANY (r.levels)
$$;

CREATE OR REPLACE FUNCTION jobqueue._check_access(role name, access text, queue text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF role IS NULL OR access IS NULL THEN
		RAISE EXCEPTION 'role and access must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF access NOT IN ('producer', 'consumer', 'manager', 'sql') THEN
		RAISE EXCEPTION 'unknown access level "%"', access USING ERRCODE = 'invalid_parameter_value',
			HINT = 'The levels are producer, consumer, manager and sql.';
	END IF;
	IF octet_length(queue) NOT BETWEEN 1 AND 63 THEN
		RAISE EXCEPTION 'the name of a queue must have 1 to 63 bytes' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'undefined_object';
	END IF;
	-- two calls at once would update the same rows of the catalog
	LOCK TABLE jobqueue.access IN SHARE ROW EXCLUSIVE MODE;
END
$$;

CREATE OR REPLACE FUNCTION jobqueue._levels_of(role name) RETURNS SETOF text
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT l.access FROM (VALUES
		('producer', 'jobqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, interval, text, '
			'text, text, bigint[], text, jsonb, text)'),
		('consumer', 'jobqueue.claim(text, integer, interval, text[], text)'),
		('sql', 'jobqueue.enqueue_sql(text, text, interval, timestamptz)'),
		('manager', 'jobqueue.register_handler(text, regprocedure, text, name, integer, text, regprocedure, '
			'interval, interval, real, interval, text[], text, integer, integer, integer, interval, integer, integer, '
			'text)')
	) l(access, function), pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a, pg_catalog.pg_roles r
	WHERE p.oid OPERATOR(pg_catalog.=) l.function::pg_catalog.regprocedure AND r.oid OPERATOR(pg_catalog.=) a.grantee
		AND r.rolname OPERATOR(pg_catalog.=) $1 AND p.proowner OPERATOR(pg_catalog.<>) a.grantee
$$;

CREATE OR REPLACE FUNCTION jobqueue._is_governed(role name) RETURNS boolean
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (
		SELECT 1 FROM pg_catalog.pg_type t, pg_catalog.aclexplode(t.typacl) a, pg_catalog.pg_roles r
		WHERE t.oid OPERATOR(pg_catalog.=) 'jobqueue.governed'::pg_catalog.regtype
			AND r.oid OPERATOR(pg_catalog.=) a.grantee AND r.rolname OPERATOR(pg_catalog.=) $1
			AND t.typowner OPERATOR(pg_catalog.<>) a.grantee)
$$;

CREATE OR REPLACE FUNCTION jobqueue.grant_access(role name, access text, queue text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	what text;
BEGIN
	PERFORM jobqueue._check_access(role, access, queue);
	-- remove rows of another role that had this name, or of this role from before it lost all its rights
	DELETE FROM jobqueue.access a WHERE a.role = $1
		AND (NOT jobqueue._is_governed($1)
			OR a.role_oid <> (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = $1));
	INSERT INTO jobqueue.access (role, role_oid, access, queue)
		SELECT r.rolname, r.oid, $2, $3 FROM pg_catalog.pg_roles r WHERE r.rolname = $1 ON CONFLICT DO NOTHING;
	FOR what IN SELECT jobqueue._access_rights(access) LOOP
		EXECUTE format('GRANT %s TO %I', what, role);
	END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION jobqueue.revoke_access(role name, access text, queue text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	what text;
	held text[];
	governed boolean;
BEGIN
	PERFORM jobqueue._check_access(role, access, queue);
	governed := jobqueue._is_governed(role);
	IF queue IS NOT NULL
		AND EXISTS (SELECT 1 FROM jobqueue.access a WHERE a.role = $1 AND a.access = $2 AND a.queue IS NULL) THEN
		RAISE EXCEPTION 'role "%" has % access to all queues', role, access
			USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'Revoke that access, and grant access to the queues that remain.';
	END IF;
	DELETE FROM jobqueue.access a WHERE a.role = $1 AND a.access = $2 AND ($3 IS NULL OR a.queue = $3);
	IF EXISTS (SELECT 1 FROM jobqueue.access a WHERE a.role = $1 AND a.access = $2) THEN
		RETURN;
	END IF;
	held := ARRAY(SELECT l.level FROM jobqueue._levels_of(role) l(level) WHERE l.level <> $2);
	FOR what IN SELECT jobqueue._access_rights($2) LOOP
		EXECUTE format('REVOKE %s FROM %I', what, role);
	END LOOP;
	FOR what IN SELECT r.granted FROM unnest(held) l(level), jobqueue._access_rights(l.level) r(granted)
		WHERE governed OR r.granted <> 'USAGE ON TYPE jobqueue.governed' LOOP
		EXECUTE format('GRANT %s TO %I', what, role);
	END LOOP;
END
$$;

CREATE OR REPLACE VIEW jobqueue._watched_queues AS
WITH marked AS (
	SELECT a.grantee FROM pg_catalog.pg_type t, pg_catalog.aclexplode(t.typacl) a
	WHERE t.oid OPERATOR(pg_catalog.=) 'jobqueue.governed'::pg_catalog.regtype
		AND a.grantee OPERATOR(pg_catalog.<>) t.typowner
)
SELECT c.relname AS view, NULL::pg_catalog.text AS queue
FROM pg_catalog.pg_class c
WHERE c.relnamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace AND c.relkind OPERATOR(pg_catalog.=) 'v'
	AND (pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')
		OR EXISTS (
		SELECT 1 FROM pg_catalog.aclexplode(c.relacl) a
		WHERE a.privilege_type OPERATOR(pg_catalog.=) 'SELECT' AND a.grantee NOT IN (SELECT m.grantee FROM marked m)
			AND CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN true
				ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END))
UNION ALL
SELECT v.view, a.queue FROM jobqueue.access a
JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.role AND r.oid OPERATOR(pg_catalog.=) a.role_oid
CROSS JOIN (VALUES ('queue_status'::pg_catalog.name), ('worker_status'), ('running_tasks')) v(view)
WHERE a.access OPERATOR(pg_catalog.=) ANY (ARRAY['consumer', 'manager']) AND pg_catalog.pg_has_role(r.oid, 'USAGE')
	AND r.oid IN (SELECT m.grantee FROM marked m);

CREATE OR REPLACE VIEW jobqueue.queue_status WITH (security_barrier) AS
WITH RECURSIVE
lane AS (
	(SELECT t.queue, t.priority, t.created_at FROM jobqueue.tasks_live t
	 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
	 ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.id NULLS FIRST LIMIT 1)
	UNION ALL
	SELECT n.queue, n.priority, n.created_at FROM lane l, LATERAL (
		SELECT t.queue, t.priority, t.created_at FROM jobqueue.tasks_live t
		WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
			AND (t.queue COLLATE pg_catalog."C", t.priority) OPERATOR(pg_catalog.>) (l.queue, l.priority)
		ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.id NULLS FIRST LIMIT 1) n
),
-- the first 1000 groups
grouped AS (
	SELECT t.queue, t.created_at, 1 AS n, t.priority, t.group_key FROM (
		SELECT t.* FROM jobqueue.tasks_live t
		WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL
		ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.group_key COLLATE pg_catalog."C", t.id NULLS FIRST
		LIMIT 1) t
	UNION ALL
	SELECT n.queue, n.created_at, l.n OPERATOR(pg_catalog.+) 1, n.priority, n.group_key FROM grouped l, LATERAL (
		SELECT t.queue, t.created_at, t.priority, t.group_key FROM jobqueue.tasks_live t
		WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL AND l.n OPERATOR(pg_catalog.<) 1000
			AND (t.queue COLLATE pg_catalog."C", t.priority, t.group_key COLLATE pg_catalog."C")
				OPERATOR(pg_catalog.>) (l.queue, l.priority, l.group_key)
		ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.group_key COLLATE pg_catalog."C", t.id NULLS FIRST
		LIMIT 1) n
),
waiting AS (
	SELECT l.queue, pg_catalog.min(l.created_at) AS oldest_waiting
	FROM (SELECT l.queue, l.created_at FROM lane l UNION ALL SELECT g.queue, g.created_at FROM grouped g) l
	GROUP BY l.queue
),
scheduled AS (
	SELECT s.queue, pg_catalog.count(*) AS n FROM (
		SELECT t.queue FROM jobqueue.tasks_live t WHERE t.status OPERATOR(pg_catalog.=) 'scheduled'
		ORDER BY t.run_at, t.id LIMIT 100000) s GROUP BY s.queue
),
running AS (
	SELECT r.queue, pg_catalog.count(*) AS n FROM (
		SELECT t.queue FROM jobqueue.tasks_live t WHERE t.status OPERATOR(pg_catalog.=) 'processing'
		ORDER BY t.lease_expires_at LIMIT 100000) r GROUP BY r.queue
),
known AS (
	SELECT w.queue FROM waiting w
	UNION SELECT s.queue FROM scheduled s
	UNION SELECT r.queue FROM running r
	UNION SELECT h.queue FROM jobqueue.handlers h
	UNION SELECT q.queue FROM jobqueue.queues q
	UNION SELECT 'default'
)
SELECT k.queue,
	coalesce((SELECT pg_catalog.count(*) FROM (
		(SELECT 1 FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue)
		UNION ALL
		(SELECT 1 FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue)
		LIMIT 100000) c), 0) AS waiting,
	coalesce(s.n, 0) AS scheduled,
	coalesce(r.n, 0) AS running,
	w.oldest_waiting,
	(q.paused_at IS NOT NULL OR (
		SELECT pg_catalog.count(*) OPERATOR(pg_catalog.<>) 1 OR pg_catalog.bool_or(i.paused_at IS NOT NULL)
			OR pg_catalog.bool_or(i.database OPERATOR(pg_catalog.<>) d.oid)
		FROM jobqueue.incarnation i, pg_catalog.pg_database d
		WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) AS paused,
	(SELECT pg_catalog.array_agg(DISTINCT c.type ORDER BY c.type) FROM (
		(SELECT t.type FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue
		 ORDER BY t.priority, t.id NULLS FIRST LIMIT 1000)
		UNION ALL
		(SELECT t.type FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue
		 ORDER BY t.priority, t.group_key COLLATE pg_catalog."C", t.id NULLS FIRST LIMIT 1000)) c
	 WHERE NOT EXISTS (SELECT 1 FROM jobqueue.handlers h WHERE h.type OPERATOR(pg_catalog.=) c.type
		AND (NOT h.governed OR EXISTS (SELECT 1 FROM jobqueue.access a
			WHERE a.access OPERATOR(pg_catalog.=) ANY (ARRAY['consumer', 'manager'])
				AND (a.queue IS NULL OR a.queue OPERATOR(pg_catalog.=) k.queue)
				AND pg_catalog.pg_has_role(h.run_as_oid, a.role_oid, 'USAGE'))
			-- The same as _serves_all(), which not every reader of this view may call.
			OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) g
				WHERE p.pronamespace OPERATOR(pg_catalog.=) (
						SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'jobqueue')
					AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['register_handler', 'claim']::pg_catalog.name[])
					AND g.privilege_type OPERATOR(pg_catalog.=) 'EXECUTE'
					AND (g.grantee OPERATOR(pg_catalog.=) 0 OR pg_catalog.pg_has_role(h.run_as_oid, g.grantee, 'USAGE'))
					AND NOT EXISTS (SELECT 1 FROM jobqueue.access a
						WHERE a.role_oid OPERATOR(pg_catalog.=) g.grantee))))) AS unhandled_types
FROM known k
LEFT JOIN waiting w ON w.queue OPERATOR(pg_catalog.=) k.queue
LEFT JOIN scheduled s ON s.queue OPERATOR(pg_catalog.=) k.queue
LEFT JOIN running r ON r.queue OPERATOR(pg_catalog.=) k.queue
LEFT JOIN jobqueue.queues q ON q.queue OPERATOR(pg_catalog.=) k.queue
WHERE EXISTS (SELECT 1 FROM jobqueue._watched_queues m
	WHERE m.view OPERATOR(pg_catalog.=) 'queue_status' AND (m.queue IS NULL OR m.queue OPERATOR(pg_catalog.=) k.queue));

-- The schema belongs to the extension. It was the schema that the control file names, and such a one can be no member.
DO $$
DECLARE
	extension oid;
	owner name;
BEGIN
	SELECT e.oid, pg_catalog.pg_get_userbyid(e.extowner) INTO STRICT extension, owner
		FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'jobqueue';
	UPDATE pg_catalog.pg_extension SET extnamespace = 'pg_catalog'::pg_catalog.regnamespace
		WHERE oid OPERATOR(pg_catalog.=) extension;
	DELETE FROM pg_catalog.pg_depend
		WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
			AND objid OPERATOR(pg_catalog.=) extension
			AND refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
			AND refobjid OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace;
	EXECUTE pg_catalog.format('ALTER SCHEMA jobqueue OWNER TO %I', owner);
	ALTER EXTENSION jobqueue ADD SCHEMA jobqueue;
END
$$;

-- Tasks
LOCK TABLE jobqueue.tasks IN ACCESS EXCLUSIVE MODE;

-- One check instead of many. Tasks that are there are not read; one that does not pass is set aside when it is claimed.
ALTER TABLE jobqueue.tasks
	DROP CONSTRAINT tasks_type_not_empty,
	DROP CONSTRAINT tasks_status_known,
	DROP CONSTRAINT tasks_queue_length,
	DROP CONSTRAINT tasks_max_attempts_positive,
	DROP CONSTRAINT tasks_timeout_positive,
	DROP CONSTRAINT tasks_failures_array,
	DROP CONSTRAINT tasks_origin_queue_length,
	DROP CONSTRAINT tasks_unique_scope_known,
	ADD CONSTRAINT tasks_bounds CHECK (jobqueue._check_task(type, status, queue, slot, attempts, max_attempts, timeout,
		claimed_by, last_error, last_sqlstate, unique_key, unique_scope, group_key, metadata, failures, origin_queue,
		progress_message)) NOT VALID;
ALTER TABLE jobqueue.tasks ENABLE ALWAYS TRIGGER tasks_inserted;
ALTER TABLE jobqueue.tasks_live ENABLE ALWAYS TRIGGER task_updated;

-- Few rows belong to these indexes.
DROP INDEX jobqueue.tasks_live_lease;
CREATE INDEX tasks_live_lease ON jobqueue.tasks_live (lease_expires_at, id)
	WHERE status OPERATOR(pg_catalog.=) 'processing';
DROP INDEX jobqueue.tasks_live_finished;
CREATE INDEX tasks_live_finished ON jobqueue.tasks_live (updated_at, id)
	WHERE status OPERATOR(pg_catalog.=) ANY (ARRAY['completed', 'failed', 'cancelled']);

-- Many rows can belong to these: an administrator can create them beforehand, CONCURRENTLY. One that such a command has
-- left behind unfinished is made again.
DO $$
DECLARE
	unfinished regclass;
BEGIN
	FOR unfinished IN
		SELECT i.indexrelid FROM pg_catalog.pg_index i
		WHERE i.indexrelid OPERATOR(pg_catalog.=) ANY (ARRAY[
				pg_catalog.to_regclass('jobqueue.tasks_failed_finished'),
				pg_catalog.to_regclass('jobqueue.tasks_live_waiting_of')]::pg_catalog.oid[])
			AND NOT i.indisvalid
	LOOP
		EXECUTE pg_catalog.format('DROP INDEX %s', unfinished);
	END LOOP;
	IF pg_catalog.to_regclass('jobqueue.tasks_failed_finished') IS NULL THEN
		CREATE INDEX tasks_failed_finished ON jobqueue.tasks_failed (finished_at, id);
	END IF;
	PERFORM jobqueue._index_waiting();
END
$$;

-- Other tables. What their rows have is not checked, either: one that does not pass can stay as it is.
ALTER TABLE jobqueue.incarnation
	ADD COLUMN system_identifier     bigint,
	ADD COLUMN server_version        integer,
	ADD COLUMN server_started_at     timestamptz,
	ADD COLUMN adopted_subscriptions oid[] NOT NULL DEFAULT '{}';

ALTER TABLE jobqueue.handlers
	ADD COLUMN on_failure text CONSTRAINT handlers_on_failure_not_empty CHECK (on_failure OPERATOR(pg_catalog.<>) '')
		CONSTRAINT handlers_on_failure_length CHECK (pg_catalog.octet_length(on_failure) OPERATOR(pg_catalog.<=) 255),
	ADD CONSTRAINT handlers_type_length CHECK (pg_catalog.octet_length(type) OPERATOR(pg_catalog.<=) 255) NOT VALID,
	ADD CONSTRAINT handlers_handler_length CHECK (
		pg_catalog.octet_length(handler) OPERATOR(pg_catalog.<=) 1024) NOT VALID,
	ADD CONSTRAINT handlers_backoff_function_length CHECK (
		pg_catalog.octet_length(backoff_function) OPERATOR(pg_catalog.<=) 1024) NOT VALID,
	ADD CONSTRAINT handlers_discard_sqlstates_length CHECK (
		pg_catalog.pg_column_size(discard_sqlstates) OPERATOR(pg_catalog.<=) 16384) NOT VALID,
	DROP CONSTRAINT handlers_rate_period_positive,
	ADD CONSTRAINT handlers_rate_period_range CHECK (
		rate_period OPERATOR(pg_catalog.>) '0'::interval
		AND rate_period OPERATOR(pg_catalog.<=) '366 days'::interval) NOT VALID;

ALTER TABLE jobqueue.queues
	DROP CONSTRAINT queues_rate_period_positive,
	ADD CONSTRAINT queues_rate_period_range CHECK (
		rate_period OPERATOR(pg_catalog.>) '0'::interval
		AND rate_period OPERATOR(pg_catalog.<=) '366 days'::interval) NOT VALID,
	DROP CONSTRAINT queues_group_rate_period_positive,
	ADD CONSTRAINT queues_group_rate_period_range CHECK (
		group_rate_period OPERATOR(pg_catalog.>) '0'::interval
		AND group_rate_period OPERATOR(pg_catalog.<=) '366 days'::interval) NOT VALID;

ALTER TABLE jobqueue.limits
	ADD COLUMN max_schedules integer CONSTRAINT limits_max_schedules_positive CHECK (
		max_schedules OPERATOR(pg_catalog.>=) 0);

ALTER TABLE jobqueue.unique_keys
	ADD CONSTRAINT unique_keys_type_length CHECK (pg_catalog.octet_length(type) OPERATOR(pg_catalog.<=) 255) NOT VALID,
	ADD CONSTRAINT unique_keys_unique_key_length CHECK (
		pg_catalog.octet_length(unique_key) OPERATOR(pg_catalog.<=) 1024) NOT VALID;

ALTER TABLE jobqueue.schedules
	ADD CONSTRAINT schedules_name_length CHECK (pg_catalog.octet_length(name) OPERATOR(pg_catalog.<=) 255) NOT VALID,
	ADD CONSTRAINT schedules_cron_length CHECK (pg_catalog.octet_length(cron) OPERATOR(pg_catalog.<=) 1000) NOT VALID,
	ADD CONSTRAINT schedules_type_length CHECK (pg_catalog.octet_length(type) OPERATOR(pg_catalog.<=) 255) NOT VALID,
	ADD CONSTRAINT schedules_payload_length CHECK (
		pg_catalog.pg_column_size(payload) OPERATOR(pg_catalog.<=) 1048580) NOT VALID,
	ADD CONSTRAINT schedules_command_length CHECK (
		pg_catalog.octet_length(command) OPERATOR(pg_catalog.<=) 1000000) NOT VALID,
	ADD CONSTRAINT schedules_time_zone_length CHECK (
		pg_catalog.octet_length(time_zone) OPERATOR(pg_catalog.<=) 63) NOT VALID,
	ADD CONSTRAINT schedules_last_error_length CHECK (
		pg_catalog.octet_length(last_error) OPERATOR(pg_catalog.<=) 8192) NOT VALID;
DROP INDEX jobqueue.schedules_next;
CREATE INDEX schedules_next ON jobqueue.schedules (created_by, next_run_at)
	WHERE paused_at IS NULL AND last_error IS NULL;
DROP INDEX jobqueue.schedules_held;
CREATE INDEX schedules_held ON jobqueue.schedules (created_by, name)
	WHERE paused_at IS NULL AND last_error IS NULL AND held OPERATOR(pg_catalog.<>) '{}';
CREATE INDEX schedules_failing ON jobqueue.schedules (created_by, name)
	WHERE paused_at IS NULL AND last_error IS NOT NULL;

ALTER TABLE jobqueue.dependents
	ADD CONSTRAINT dependents_names_length CHECK (
		pg_catalog.pg_column_size(names) OPERATOR(pg_catalog.<=) 33554432) NOT VALID;

ALTER TABLE jobqueue.access REPLICA IDENTITY FULL;
ALTER TABLE jobqueue.history_ring REPLICA IDENTITY FULL;

ALTER TABLE jobqueue.handlers ENABLE ALWAYS TRIGGER handlers_changed;
ALTER TABLE jobqueue.queues ENABLE ALWAYS TRIGGER queues_changed;
ALTER TABLE jobqueue.access ENABLE ALWAYS TRIGGER access_changed;
ALTER TABLE jobqueue.limits ENABLE ALWAYS TRIGGER limits_changed;
ALTER TABLE jobqueue.incarnation ENABLE ALWAYS TRIGGER incarnation_changed;
ALTER TABLE jobqueue.schedules ENABLE ALWAYS TRIGGER schedules_changed;

ALTER TABLE jobqueue.access ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.history_ring ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.unique_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.dependencies ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.dependents ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.parents ENABLE ROW LEVEL SECURITY;

-- Comments

COMMENT ON FUNCTION jobqueue._check_task(text, text, text, smallint, integer, integer, interval, text, text, text,
	text, text, text, jsonb, jsonb, text, text) IS
	'internal: checks a row of jobqueue.tasks; returns true, or raises an error that says what is wrong';
COMMENT ON TABLE jobqueue.tasks IS 'every task, whatever its status; one row per task';
COMMENT ON COLUMN jobqueue.tasks.type IS 'the kind of work; it selects the handler';
COMMENT ON COLUMN jobqueue.tasks.processed_at IS 'when the latest attempt started';
COMMENT ON COLUMN jobqueue.tasks.queue IS 'the queue it waits in, 1 to 63 bytes';
COMMENT ON COLUMN jobqueue.tasks.priority IS 'lower numbers run sooner; first in, first out within one priority';
COMMENT ON COLUMN jobqueue.tasks.attempts IS
	'number of claims so far; together with id it identifies one claim permanently';
COMMENT ON COLUMN jobqueue.tasks.max_attempts IS
	'the task is failed when attempts reaches this; null = the handler''s value, or 20';
COMMENT ON COLUMN jobqueue.tasks.lease_expires_at IS
	'when an outside claim expires; infinity while a worker in the server runs it';
COMMENT ON COLUMN jobqueue.tasks.last_error IS 'message of the latest failed attempt, or reason of the cancellation';
COMMENT ON COLUMN jobqueue.tasks.result IS 'what the handler returned, or what was passed to complete()';
COMMENT ON COLUMN jobqueue.tasks.unique_key IS 'at most one task of a type has it, for as long as unique_scope says';
COMMENT ON COLUMN jobqueue.tasks.group_key IS
	'tasks of a queue with the same key run in order, at most group_limit at a time';
COMMENT ON COLUMN jobqueue.tasks.metadata IS 'for the caller''s own use, stored unchanged';
COMMENT ON COLUMN jobqueue.tasks.timeout IS 'how long an attempt in the server may take; null = the handler''s value';
COMMENT ON COLUMN jobqueue.tasks.crashes IS 'attempts that crashed their worker or the server';
COMMENT ON COLUMN jobqueue.tasks.origin_queue IS
	'of a dead letter: the queue in which it failed; such a task waits for claim() or retry()';
COMMENT ON COLUMN jobqueue.tasks.progress IS 'as an outside worker reported it, 0 to 1; for handlers see running_tasks';
COMMENT ON COLUMN jobqueue.tasks.progress_message IS 'the message of that report';
COMMENT ON COLUMN jobqueue.tasks.unique_scope IS
	'how long it holds its unique_key: live = until it is finished (also null), waiting = until it starts, '
	'started = no longer held, period = for the time in unique_keys';
COMMENT ON COLUMN jobqueue.tasks.slot IS
	'the partition: 0 live, -1 failed, 1 to 8 history; only the extension writes it';
COMMENT ON TABLE jobqueue.incarnation IS
	'the identity of this installation; two rows, or another database''s row, mean that it is a copy: see '
	'adopt()';
COMMENT ON TABLE jobqueue.queues IS
	'queues that were paused or altered; a queue without a row has the default settings and is not paused';
COMMENT ON TABLE jobqueue.limits IS 'role limits: see limit_role()';
COMMENT ON TABLE jobqueue.history_ring IS 'the history partition that is being filled';
COMMENT ON COLUMN jobqueue.incarnation.id IS 'identifies this installation';
COMMENT ON COLUMN jobqueue.incarnation.database IS
	'OID of the database in which it was made; 0 = none, because it is a copy: see adopt()';
COMMENT ON COLUMN jobqueue.incarnation.system_identifier IS
	'of the server on which it was last seen, for information; null = not recorded yet';
COMMENT ON COLUMN jobqueue.incarnation.server_version IS
	'major version of that server; pg_upgrade changes the system identifier';
COMMENT ON COLUMN jobqueue.incarnation.server_started_at IS
	'the start of the server during which it was adopted; jobqueue.start_paused only counts for later starts';
COMMENT ON COLUMN jobqueue.incarnation.adopted_subscriptions IS
	'subscriptions that brought tasks when it was adopted; they no longer pause the database';
COMMENT ON COLUMN jobqueue.handlers.type IS 'the type of the tasks that it runs';
COMMENT ON COLUMN jobqueue.handlers.queue IS 'the queue of tasks of the type that are enqueued without one';
COMMENT ON COLUMN jobqueue.handlers.run_as_oid IS
	'the OID of that role: another role that takes over the name gets nothing; set again by adopt()';
COMMENT ON COLUMN jobqueue.handlers.function_owner IS
	'owner of the function when it was registered; a function of another owner is not run instead';
COMMENT ON COLUMN jobqueue.handlers.backoff_owner IS 'owner of the back-off function, in the same way';
COMMENT ON COLUMN jobqueue.handlers.max_attempts IS 'for tasks that have no value of their own';
COMMENT ON COLUMN jobqueue.handlers.jitter IS
	'the fraction of the wait by which it is made longer or shorter at random, 0 to 1';
COMMENT ON COLUMN jobqueue.handlers.timeout IS
	'how long an attempt may take, for tasks that have no value of their own; null = no limit';
COMMENT ON COLUMN jobqueue.handlers.discard_sqlstates IS
	'SQLSTATEs, or classes of them (two characters), that are not retried';
COMMENT ON COLUMN jobqueue.handlers.dead_letter_queue IS
	'the queue that tasks go to instead of being failed; no worker serves it';
COMMENT ON COLUMN jobqueue.handlers.max_running IS
	'tasks of the type that run at once, in all queues for which the handler''s limits apply; null = no limit';
COMMENT ON COLUMN jobqueue.handlers.rate_limit IS 'tasks of the type that start in each rate_period; null = no limit';
COMMENT ON COLUMN jobqueue.handlers.rate_burst IS 'how many tasks may start at once after a pause; null = rate_limit';
COMMENT ON COLUMN jobqueue.handlers.group_limit IS
	'tasks of the type with the same group_key that run at once; null = the queue''s value';
COMMENT ON COLUMN jobqueue.handlers.rate_changed_at IS
	'when the rate was last changed; the bucket is full at that time';
COMMENT ON COLUMN jobqueue.handlers.on_failure IS
	'a task of this type is added when a task has failed permanently; null = none';
COMMENT ON COLUMN jobqueue.handlers.governed IS
	'registered by the role that it runs as: it gets only tasks of queues in which that role may work at the '
	'time';
COMMENT ON COLUMN jobqueue.handlers.incarnation IS
	'the installation in which it was registered; handlers of another one do not run';
COMMENT ON COLUMN jobqueue.handlers.created_at IS 'when it was first registered';
COMMENT ON COLUMN jobqueue.handlers.updated_at IS 'when it was last registered or altered';
COMMENT ON COLUMN jobqueue.queues.paused_at IS 'when it was paused; null = it is not paused';
COMMENT ON COLUMN jobqueue.queues.max_running IS 'tasks that run at once, in the server and outside; null = no limit';
COMMENT ON COLUMN jobqueue.queues.weight IS
	'its share of a worker compared with other queues; null = 1; see jobqueue.queue_order';
COMMENT ON COLUMN jobqueue.queues.rate_limit IS 'tasks that start in each rate_period; null = no limit';
COMMENT ON COLUMN jobqueue.queues.rate_burst IS 'how many tasks may start at once after a pause; null = rate_limit';
COMMENT ON COLUMN jobqueue.queues.group_limit IS
	'tasks with the same group_key that run at once; null = 1: first in, first out';
COMMENT ON COLUMN jobqueue.queues.group_hold_on_retry IS
	'with a group_limit of 1: whether a group waits while its first task waits for a retry; null = yes';
COMMENT ON COLUMN jobqueue.queues.group_rate_limit IS
	'tasks with the same group_key that start in each group_rate_period; null = no limit';
COMMENT ON COLUMN jobqueue.queues.group_rate_burst IS
	'how many of them may start at once after a pause; null = group_rate_limit';
COMMENT ON COLUMN jobqueue.queues.aging IS 'waiting this long counts as one step of priority; null = never';
COMMENT ON COLUMN jobqueue.queues.rate_changed_at IS 'when a rate was last changed; buckets are full at that time';
COMMENT ON COLUMN jobqueue.queues.created_at IS 'when the row was made';
COMMENT ON COLUMN jobqueue.access.role IS 'the role; its members have the same access';
COMMENT ON COLUMN jobqueue.access.role_oid IS
	'the OID of that role: another role that takes over the name gets nothing; set again by adopt()';
COMMENT ON COLUMN jobqueue.access.granted_by IS 'the role that granted it';
COMMENT ON COLUMN jobqueue.access.granted_at IS 'when it was granted';
COMMENT ON COLUMN jobqueue.limits.max_workers IS 'the maximum number of worker processes that run its handlers at once';
COMMENT ON COLUMN jobqueue.limits.max_queued IS 'the maximum number of waiting tasks that it has added';
COMMENT ON COLUMN jobqueue.limits.max_payload IS 'the maximum length of a payload as text, in bytes';
COMMENT ON COLUMN jobqueue.limits.max_schedules IS 'the maximum number of schedules that belong to it';
COMMENT ON TABLE jobqueue.unique_keys IS
	'the unique keys that are held for a period (unique_for); the scheduler removes those whose period is over';
COMMENT ON COLUMN jobqueue.unique_keys.task_id IS 'the task that was added with it; it may no longer exist';
COMMENT ON COLUMN jobqueue.unique_keys.expires_at IS 'when the key becomes free again';
COMMENT ON COLUMN jobqueue.history_ring.slot IS 'the partition that is being filled, 1 to 8';
COMMENT ON COLUMN jobqueue.history_ring.filled_since IS 'since when it is being filled';
COMMENT ON FUNCTION jobqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, interval, text,
	text, text, bigint[], text, jsonb, text) IS
	'adds a task in the caller''s transaction; returns its id';
COMMENT ON FUNCTION jobqueue.enqueue_unique(text, jsonb, text, integer, timestamptz, interval, integer, interval, text,
	text, text, bigint[], text, jsonb, text, interval) IS
	'adds a task unless its unique_key is taken; returns its id, or that of the task that has the key, and '
	'whether it is new';
COMMENT ON FUNCTION jobqueue.enqueue_many(text, jsonb[], text, integer, timestamptz, interval, integer, interval, text,
	bigint[], text, jsonb) IS
	'adds one task per payload; returns their ids in the order of the payloads';
COMMENT ON FUNCTION jobqueue.claim(text, integer, interval, text[], text) IS
	'takes up to max_tasks waiting tasks for a worker outside the server, until the lease expires';
COMMENT ON FUNCTION jobqueue.claim_json(text, integer, interval, text[], text) IS
	'claim() for clients that cannot read all of its types: each task as an object';
COMMENT ON FUNCTION jobqueue.complete_and_claim_json(bigint[], integer[], jsonb[], text, integer, interval, text[],
	text) IS
	'complete_and_claim() for clients that cannot read all of its types: each task as an object';
COMMENT ON FUNCTION jobqueue.complete_and_claim(bigint[], integer[], jsonb[], text, integer, interval, text[], text) IS
	'reports claimed tasks as done, and takes the next ones; claims that are no longer the caller''s are '
	'skipped';
COMMENT ON FUNCTION jobqueue.release(bigint, integer) IS 'gives a claimed task back at once; costs no attempt';
COMMENT ON FUNCTION jobqueue.discard(bigint, integer, text) IS
	'ends a claimed task as failed, even if it has attempts left; false if the claim is no longer the caller''s';
COMMENT ON FUNCTION jobqueue.set_progress(bigint, integer, real, text) IS
	'reports how much of a claimed task is done, 0 to 1; false if the claim is no longer the caller''s';
COMMENT ON FUNCTION jobqueue.discard(text) IS
	'in a handler: raises an error that ends the task as failed, even if it has attempts left';
COMMENT ON FUNCTION jobqueue.set_progress(real, text) IS
	'in a handler: reports how much is done, 0 to 1; seen at once in running_tasks';
COMMENT ON FUNCTION jobqueue.wait_for(bigint, interval) IS
	'waits until a task is completed, failed or cancelled, and this is as safe as a commit; returns the task, '
	'null on timeout';
COMMENT ON FUNCTION jobqueue.drain(text, integer, boolean, boolean) IS
	'for tests: runs the waiting tasks of the caller''s own handlers in the caller''s session and transaction';
COMMENT ON FUNCTION jobqueue.register_handler(text, regprocedure, text, name, integer, text, regprocedure, interval,
	interval, real, interval, text[], text, integer, integer, integer, interval, integer, integer, text) IS
	'defines which function or procedure runs the tasks of a type, and how; a second call by the same owner '
	'replaces it';
COMMENT ON FUNCTION jobqueue.alter_handler(text, regprocedure, text, name, integer, text, regprocedure, interval,
	interval, real, interval, text[], text, integer, integer, integer, interval, integer, integer, text) IS
	'changes a handler; arguments that are left out stay; 0, no SQLSTATEs and an empty dead_letter_queue mean '
	'none';
COMMENT ON FUNCTION jobqueue.unregister_handler(text) IS
	'removes the handler of a type; its tasks stay queued; false if it had none';
COMMENT ON FUNCTION jobqueue.pause_queue(text) IS
	'pauses a queue, null = all: nothing more is claimed from it, running tasks go on; false if it was already '
	'paused';
COMMENT ON FUNCTION jobqueue.resume_queue(text) IS 'ends pause_queue; null = all queues; false if nothing was paused';
COMMENT ON FUNCTION jobqueue.alter_queue(text, integer, integer, integer, interval, integer, integer, boolean, integer,
	interval, integer, interval) IS
	'sets how many tasks of a queue run at once, how fast they start, and its weight; arguments that are left '
	'out stay, 0 means none';
COMMENT ON FUNCTION jobqueue.adopt() IS
	'lets the workers of a restored or copied database start; false if the database was not paused';
COMMENT ON FUNCTION jobqueue._task_updated() IS 'internal: sets the times of a task that is updated by hand';
COMMENT ON FUNCTION jobqueue._serves_all(oid) IS
	'internal: whether the role may work in all queues, by rights that jobqueue.access does not limit';
COMMENT ON FUNCTION jobqueue._shared_capacity() IS 'internal: who holds how much of shared memory; see shared_capacity';
COMMENT ON FUNCTION jobqueue._is_wanted(text, boolean) IS
	'internal: whether the claim that is being made takes such a task';
COMMENT ON FUNCTION jobqueue._raw_size(jsonb) IS
	'internal: the number of bytes that a value takes in memory, without reading it';
COMMENT ON COLUMN jobqueue.schedules.time_zone IS 'the time zone of the expression';
COMMENT ON COLUMN jobqueue.schedules.timeout IS 'timeout of its tasks; null = the handler''s value';
COMMENT ON COLUMN jobqueue.schedules.on_misfire IS 'what happens to times that were missed: skip, once or all';
COMMENT ON COLUMN jobqueue.schedules.misfire_limit IS
	'the maximum number of tasks for missed times (all), and of times held back; the latest ones count';
COMMENT ON COLUMN jobqueue.schedules.held IS
	'times whose tasks are added when the previous task is finished (on_overlap queue)';
COMMENT ON COLUMN jobqueue.schedules.last_error IS 'why it does not fire; null = no error';
COMMENT ON COLUMN jobqueue.schedules.created_by_oid IS
	'the OID of that role: another role that takes over the name gets nothing; set again by adopt()';
COMMENT ON COLUMN jobqueue.schedules.governed IS
	'made by a role whose access jobqueue.access limited at that time; its rights are checked at each firing';
COMMENT ON COLUMN jobqueue.schedules.incarnation IS
	'the installation in which it was made; schedules of another one do not fire';
COMMENT ON COLUMN jobqueue.schedules.created_at IS 'when it was first made';
COMMENT ON COLUMN jobqueue.schedules.updated_at IS 'when it was last made or replaced';
COMMENT ON FUNCTION jobqueue.schedule(text, text, text, jsonb, text, text, integer, text, integer, text) IS
	'adds a task of a type at the times of a cron expression or an interval; a second call replaces it';
COMMENT ON FUNCTION jobqueue.pause_schedule(text) IS
	'pauses a schedule: it adds no tasks, and misses no times; false if it was already paused, or does not '
	'exist';
COMMENT ON FUNCTION jobqueue.resume_schedule(text) IS
	'ends pause_schedule: the schedule fires from now on; false if it was not paused, or does not exist';
COMMENT ON TABLE jobqueue.dependencies IS 'internal: which blocked task still waits for which task';
COMMENT ON TABLE jobqueue.parents IS 'internal: how tasks ended that others run after, for as long as this is needed';
COMMENT ON COLUMN jobqueue.dependents.parents IS 'the tasks that it runs after, ascending';
COMMENT ON COLUMN jobqueue.dependents.names IS 'their names in the flow; null = none has one';
COMMENT ON COLUMN jobqueue.dependents.waits_for IS
	'how many of them have not ended; -1 = no longer counted, because the task ran without waiting for all of '
	'them';
COMMENT ON COLUMN jobqueue.dependents.on_parent_failure IS
	'what happens to it when one fails or is cancelled: cancel, run, wait';
COMMENT ON COLUMN jobqueue.dependencies.created_at IS
	'when the row was made; a row older than the installation comes from a restore, and is not changed';
COMMENT ON COLUMN jobqueue.dependents.created_at IS 'when the row was made, see dependencies.created_at';
COMMENT ON COLUMN jobqueue.parents.created_at IS 'when the row was made, see dependencies.created_at';
COMMENT ON FUNCTION jobqueue.parent_results() IS
	'in a handler: the tasks that its task ran after, how they ended, and their results';
COMMENT ON FUNCTION jobqueue.parent_results(bigint, integer) IS
	'the tasks that a claimed task ran after, how they ended, and their results; no rows if the claim is no '
	'longer the caller''s';
COMMENT ON FUNCTION jobqueue.schedule_sql(text, text, text, text, text, interval, text, integer, text, name) IS
	'makes or replaces a schedule whose tasks are an SQL command, which runs as the caller, or as a role it is '
	'a member of';
COMMENT ON COLUMN jobqueue._watched_queues.view IS 'in which view';
COMMENT ON COLUMN jobqueue.queue_status.waiting IS 'tasks that can be claimed now; 100000 = that many or more';
COMMENT ON COLUMN jobqueue.queue_status.scheduled IS
	'tasks whose run_at is in the future, among the next 100000 of all queues';
COMMENT ON COLUMN jobqueue.queue_status.running IS
	'tasks that are claimed, in the server or outside; 100000 = that many or more';
COMMENT ON COLUMN jobqueue.queue_status.paused IS
	'whether no task is claimed from it; true for all queues of a restored copy, until adopt()';
COMMENT ON COLUMN jobqueue.queue_status.unhandled_types IS
	'types without a handler that serves the queue, among the first 1000 waiting tasks; null = none';
COMMENT ON COLUMN jobqueue.worker_status.state IS
	'starting, idle, running, or stuck: it responds neither to cancellation nor to termination';
COMMENT ON COLUMN jobqueue.worker_status.progress IS '0 to 1, as the handler reported last';
COMMENT ON COLUMN jobqueue.worker_status.progress_message IS 'the message of that report';
COMMENT ON COLUMN jobqueue.running_tasks.processed_at IS 'when the attempt started';
COMMENT ON COLUMN jobqueue.running_tasks.lease_expires_at IS
	'when an outside claim expires; null in the server, and for a claim by hand';
COMMENT ON COLUMN jobqueue.running_tasks.progress IS '0 to 1, as reported last with set_progress()';
COMMENT ON COLUMN jobqueue.running_tasks.progress_message IS 'the message of that report';
COMMENT ON VIEW jobqueue.shared_capacity IS
	'who holds how much of the fixed-size areas in shared memory; for the extension''s owner';
COMMENT ON COLUMN jobqueue.shared_capacity.resource IS 'what is held';
COMMENT ON COLUMN jobqueue.shared_capacity.database IS 'the database that holds it; null = all together';
COMMENT ON COLUMN jobqueue.shared_capacity.role IS 'the role that holds it; null = all, or not known';
COMMENT ON COLUMN jobqueue.shared_capacity.queue IS 'for which queue, if that counts; null = several';
COMMENT ON COLUMN jobqueue.shared_capacity.held IS 'how much is held';
COMMENT ON COLUMN jobqueue.shared_capacity.share IS
	'how much may be held at present: a holder above this gets no more; null = there are no shares';
COMMENT ON COLUMN jobqueue.shared_capacity.capacity IS 'how much there is for all';
COMMENT ON COLUMN jobqueue.shared_capacity.when_full IS 'what happens when nothing is left';
COMMENT ON FUNCTION jobqueue._access_rights(text) IS 'internal: the rights of a level of access';
COMMENT ON FUNCTION jobqueue._is_governed(name) IS
	'internal: whether jobqueue.access limits what a role may do, in addition to GRANT';
COMMENT ON FUNCTION jobqueue.grant_access(name, text, text) IS
	'gives a role the rights of a producer, consumer or manager in a queue, or the right to enqueue SQL '
	'commands; null = in all queues; only for the extension''s owner';
COMMENT ON FUNCTION jobqueue.revoke_access(name, text, text) IS
	'takes the rights of a level in a queue from a role; null = in all queues; what its other levels include '
	'stays; only for the extension''s owner';
COMMENT ON FUNCTION jobqueue._index_waiting() IS 'internal: the index that max_queued needs';
COMMENT ON FUNCTION jobqueue.limit_role(name, integer, integer, integer, integer) IS
	'limits a role: workers at once, waiting tasks, bytes of a payload, schedules; null = no limit; only for '
	'the extension''s owner';
COMMENT ON VIEW jobqueue.history_status IS
	'the tables of finished tasks, and which sessions delay the emptying of a table; for the extension''s owner';
COMMENT ON COLUMN jobqueue.history_status.leaf IS 'name of the table';
COMMENT ON COLUMN jobqueue.history_status.filling IS
	'whether tasks that end now go there; the next table in turn is the next one to be emptied';
COMMENT ON COLUMN jobqueue.history_status.filled_since IS
	'since when the table that is being filled is filled; null = since the installation';
COMMENT ON COLUMN jobqueue.history_status.bytes IS 'its size on disk, with indexes';
COMMENT ON COLUMN jobqueue.history_status.held_by IS
	'processes whose transactions have a lock on it, where null means a prepared transaction; null = none';
COMMENT ON VIEW jobqueue.access_status IS
	'which role may do what in which queues; members of a role have the same access; for the extension''s owner';
COMMENT ON COLUMN jobqueue.access_status.source IS
	'grant_access, or GRANT for rights given by hand, which count in all queues';

-- Roles that have a level of access get what the level has got since.
DO $$
DECLARE
	granted record;
	what text;
BEGIN
	FOR granted IN
		SELECT DISTINCT a.role, a.access FROM jobqueue.access a
		JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.role
			AND r.oid OPERATOR(pg_catalog.=) a.role_oid
		WHERE jobqueue._is_governed(a.role)
	LOOP
		FOR what IN SELECT r.granted FROM jobqueue._access_rights(granted.access) r(granted) LOOP
			EXECUTE pg_catalog.format('GRANT %s TO %I', what, granted.role);
		END LOOP;
	END LOOP;
END
$$;

-- The owner of a database dumps all of it. So do members of pg_read_all_data, who need no GRANT.
GRANT USAGE ON SCHEMA jobqueue TO pg_database_owner;
GRANT SELECT ON jobqueue.tasks, jobqueue.tasks_live, jobqueue.tasks_failed, jobqueue.tasks_history_1,
	jobqueue.tasks_history_2, jobqueue.tasks_history_3, jobqueue.tasks_history_4, jobqueue.tasks_history_5,
	jobqueue.tasks_history_6, jobqueue.tasks_history_7, jobqueue.tasks_history_8, jobqueue.tasks_id_seq,
	jobqueue.incarnation, jobqueue.handlers, jobqueue.queues, jobqueue.access, jobqueue.limits, jobqueue.history_ring,
	jobqueue.unique_keys, jobqueue.schedules, jobqueue.dependencies, jobqueue.dependents, jobqueue.parents
	TO pg_database_owner;

-- A dump does not have the rights that an extension's scripts have granted. Those above, and those on the schema, come
-- from an administrator: the extension itself gives rights to its owner only, except for the check of a row, and for
-- what the owner of the database may read.
UPDATE pg_catalog.pg_init_privs i SET initprivs = o.privileges
FROM (
	SELECT p.objoid, p.classoid, pg_catalog.array_agg(u.item ORDER BY u.n) AS privileges
	FROM pg_catalog.pg_extension e
	JOIN pg_catalog.pg_depend d ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
		AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
	JOIN pg_catalog.pg_init_privs p ON p.classoid OPERATOR(pg_catalog.=) d.classid
		AND p.objoid OPERATOR(pg_catalog.=) d.objid AND p.objsubid OPERATOR(pg_catalog.=) 0
	CROSS JOIN LATERAL pg_catalog.unnest(p.initprivs) WITH ORDINALITY u(item, n)
	WHERE e.extname OPERATOR(pg_catalog.=) 'jobqueue' AND NOT EXISTS (
		SELECT 1 FROM pg_catalog.aclexplode(ARRAY[u.item]) a
		WHERE a.grantee OPERATOR(pg_catalog.<>) e.extowner
			AND a.grantee OPERATOR(pg_catalog.<>) 'pg_database_owner'::pg_catalog.regrole::pg_catalog.oid
			AND NOT (a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND p.objoid OPERATOR(pg_catalog.=)
				(SELECT f.oid FROM pg_catalog.pg_proc f
				WHERE f.pronamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
					AND f.proname OPERATOR(pg_catalog.=) '_check_task')))
	GROUP BY p.objoid, p.classoid
) o
WHERE i.objoid OPERATOR(pg_catalog.=) o.objoid AND i.classoid OPERATOR(pg_catalog.=) o.classoid
	AND i.objsubid OPERATOR(pg_catalog.=) 0;
-- The extension itself gives no rights to columns.
DELETE FROM pg_catalog.pg_init_privs i
WHERE i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
	AND i.objsubid OPERATOR(pg_catalog.<>) 0
	AND i.objoid IN (SELECT c.oid FROM pg_catalog.pg_class c
		WHERE c.relnamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace);

SELECT jobqueue._installed();
