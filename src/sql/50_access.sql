-- Rights. PUBLIC is granted nothing that reveals or changes anything; a level of access is granted with one call. The
-- library decides which rows a role sees in the tables: look for row_security_policy_hook.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA jobqueue FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA jobqueue FROM PUBLIC;

-- The rights of a level, one per row. GRANT and REVOKE use the same list, so that they cannot differ.
CREATE FUNCTION jobqueue._access_rights(access text) RETURNS SETOF text
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
COMMENT ON FUNCTION jobqueue._access_rights(text) IS 'internal: the rights of a level of access';

CREATE FUNCTION jobqueue._check_access(role name, access text, queue text) RETURNS void
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
COMMENT ON FUNCTION jobqueue._check_access(name, text, text) IS 'internal: refuses unknown roles and levels';

-- The levels whose rights were granted to the role itself, not to roles that it is a member of.
CREATE FUNCTION jobqueue._levels_of(role name) RETURNS SETOF text
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
COMMENT ON FUNCTION jobqueue._levels_of(name) IS 'internal: the levels of access whose rights a role has been granted';

CREATE FUNCTION jobqueue._is_governed(role name) RETURNS boolean
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (
		SELECT 1 FROM pg_catalog.pg_type t, pg_catalog.aclexplode(t.typacl) a, pg_catalog.pg_roles r
		WHERE t.oid OPERATOR(pg_catalog.=) 'jobqueue.governed'::pg_catalog.regtype
			AND r.oid OPERATOR(pg_catalog.=) a.grantee AND r.rolname OPERATOR(pg_catalog.=) $1
			AND t.typowner OPERATOR(pg_catalog.<>) a.grantee)
$$;
COMMENT ON FUNCTION jobqueue._is_governed(name) IS
	'internal: whether jobqueue.access limits what a role may do, in addition to GRANT';

CREATE FUNCTION jobqueue.grant_access(role name, access text, queue text DEFAULT NULL) RETURNS void
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
COMMENT ON FUNCTION jobqueue.grant_access(name, text, text) IS
	'gives a role the rights of a producer, consumer or manager in a queue, or the right to enqueue SQL '
	'commands; null = in all queues; only for the extension''s owner';

-- Revokes the rights of the level, and then grants those again that other levels of the role include.
CREATE FUNCTION jobqueue.revoke_access(role name, access text, queue text DEFAULT NULL) RETURNS void
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
COMMENT ON FUNCTION jobqueue.revoke_access(name, text, text) IS
	'takes the rights of a level in a queue from a role; null = in all queues; what its other levels include '
	'stays; only for the extension''s owner';

-- If any role has a max_queued, an index is used to count the waiting tasks of a role. It costs an entry for each task.
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
COMMENT ON FUNCTION jobqueue._index_waiting() IS 'internal: the index that max_queued needs';

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
COMMENT ON FUNCTION jobqueue.limit_role(name, integer, integer, integer, integer) IS
	'limits a role: workers at once, waiting tasks, bytes of a payload, schedules; null = no limit; only for '
	'the extension''s owner';

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

CREATE VIEW jobqueue.access_status AS
SELECT a.role, a.access, a.queue, 'grant_access' AS source
FROM jobqueue.access a
JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.role AND r.oid OPERATOR(pg_catalog.=) a.role_oid
WHERE jobqueue._is_governed(a.role)
UNION ALL
SELECT r.rolname, l.access, NULL, 'GRANT'
FROM pg_catalog.pg_roles r, LATERAL jobqueue._levels_of(r.rolname) l(access)
WHERE NOT jobqueue._is_governed(r.rolname);
COMMENT ON VIEW jobqueue.access_status IS
	'which role may do what in which queues; members of a role have the same access; for the extension''s owner';
COMMENT ON COLUMN jobqueue.access_status.role IS 'the role';
COMMENT ON COLUMN jobqueue.access_status.access IS 'producer, consumer, manager or sql';
COMMENT ON COLUMN jobqueue.access_status.queue IS 'in which queue; null = in all';
COMMENT ON COLUMN jobqueue.access_status.source IS
	'grant_access, or GRANT for rights given by hand, which count in all queues';

REVOKE ALL ON FUNCTION jobqueue._access_rights(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue._check_access(name, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue._levels_of(name) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue._is_governed(name) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue.grant_access(name, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue.revoke_access(name, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue._index_waiting() FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue.limit_role(name, integer, integer, integer, integer) FROM PUBLIC;

ALTER TABLE jobqueue.tasks ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_live ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_failed ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_1 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_2 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_3 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_4 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_5 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_6 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_7 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.tasks_history_8 ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.handlers ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.queues ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.schedules ENABLE ROW LEVEL SECURITY;
-- Only the owner writes these tables. Without row-level security, members of pg_write_all_data could.
ALTER TABLE jobqueue.access ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.history_ring ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.unique_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.dependencies ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.dependents ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobqueue.parents ENABLE ROW LEVEL SECURITY;

-- Default privileges can have granted rights to what was created here; take them away.
DO $$
DECLARE
	command text;
BEGIN
	FOR command IN
		SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s CASCADE', g.object,
			CASE WHEN g.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'
				ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END)
		FROM (
			SELECT 'SCHEMA jobqueue' AS object, a.grantee, n.nspowner AS owner
			FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
			WHERE n.oid OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
			UNION
			SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END
					OPERATOR(pg_catalog.||) c.oid::pg_catalog.regclass::pg_catalog.text,
				a.grantee, c.relowner
			FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
			WHERE c.relnamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
			UNION
			SELECT 'ROUTINE ' OPERATOR(pg_catalog.||) p.oid::pg_catalog.regprocedure::pg_catalog.text, a.grantee,
				p.proowner
			FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
			WHERE p.pronamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
			UNION
			SELECT 'TYPE ' OPERATOR(pg_catalog.||) t.oid::pg_catalog.regtype::pg_catalog.text, a.grantee, t.typowner
			FROM pg_catalog.pg_type t, pg_catalog.aclexplode(t.typacl) a
			WHERE t.typnamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace
		) g
		WHERE g.grantee OPERATOR(pg_catalog.<>) g.owner
	LOOP
		EXECUTE command;
	END LOOP;
END
$$;

-- The exception is the check of a row: every role that writes a row has to run it. It reveals nothing beyond its
-- arguments.
GRANT EXECUTE ON FUNCTION jobqueue._check_task(text, text, text, smallint, integer, integer, interval, text, text, text,
	text, text, text, jsonb, jsonb, text, text) TO PUBLIC;

-- The owner of a database dumps all of it. So do members of pg_read_all_data, who need no GRANT.
GRANT USAGE ON SCHEMA jobqueue TO pg_database_owner;
GRANT SELECT ON jobqueue.tasks, jobqueue.tasks_live, jobqueue.tasks_failed, jobqueue.tasks_history_1,
	jobqueue.tasks_history_2, jobqueue.tasks_history_3, jobqueue.tasks_history_4, jobqueue.tasks_history_5,
	jobqueue.tasks_history_6, jobqueue.tasks_history_7, jobqueue.tasks_history_8, jobqueue.tasks_id_seq,
	jobqueue.incarnation, jobqueue.handlers, jobqueue.queues, jobqueue.access, jobqueue.limits, jobqueue.history_ring,
	jobqueue.unique_keys, jobqueue.schedules, jobqueue.dependencies, jobqueue.dependents, jobqueue.parents
	TO pg_database_owner;

SELECT jobqueue._installed();
