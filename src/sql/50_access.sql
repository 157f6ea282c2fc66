-- Rights. Nothing is granted to PUBLIC; three levels are granted with one call.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA jobqueue FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA jobqueue FROM PUBLIC;

-- One statement for each right of a level, with %s for the role: grant and revoke cannot drift apart.
CREATE FUNCTION jobqueue._access_rights(access text) RETURNS SETOF text
	LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT r.what FROM (VALUES
		('{producer,consumer,manager}'::pg_catalog.text[], 'USAGE ON SCHEMA jobqueue'),
		('{producer,consumer,manager}', 'EXECUTE ON FUNCTION jobqueue.version()'),
		('{producer,consumer,manager}', 'EXECUTE ON FUNCTION jobqueue.current_task()'),
		('{producer,consumer,manager}', 'EXECUTE ON FUNCTION jobqueue.snooze(interval)'),
		('{producer,consumer,manager}', 'EXECUTE ON FUNCTION jobqueue.discard(text)'),
		('{producer,consumer,manager}', 'EXECUTE ON FUNCTION jobqueue.set_progress(real, text)'),
		('{producer,consumer,manager}', 'EXECUTE ON FUNCTION jobqueue.wait_for(bigint, interval)'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, interval, jsonb)'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue_many(text, jsonb[], text, integer, timestamptz, interval, integer, interval, jsonb)'),
		('{producer}', 'EXECUTE ON FUNCTION jobqueue.enqueue_row()'),
		('{producer}', 'INSERT (type, payload, queue, priority, run_at, max_attempts, timeout, metadata) ON jobqueue.tasks'),
		('{producer}', 'SELECT (id) ON jobqueue.tasks'),
		('{producer}', 'USAGE ON SEQUENCE jobqueue.tasks_id_seq'),
		('{consumer,manager}', 'SELECT ON jobqueue.tasks'),
		('{consumer,manager}', 'SELECT ON jobqueue.queue_status'),
		('{consumer}', 'UPDATE (status, updated_at, processed_at) ON jobqueue.tasks'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.claim(text, integer, interval, text[], text)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.complete(bigint, integer, jsonb)'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.complete_many(bigint[], integer[], jsonb[])'),
		('{consumer}', 'EXECUTE ON FUNCTION jobqueue.complete_and_claim(bigint[], integer[], jsonb[], text, integer, interval, text[], text)'),
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
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.register_handler(text, regprocedure, text, name, integer, text, regprocedure, interval, interval, real, interval, text[], text, integer)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.alter_handler(text, regprocedure, text, name, integer, text, regprocedure, interval, interval, real, interval, text[], text, integer)'),
		('{manager}', 'EXECUTE ON FUNCTION jobqueue.unregister_handler(text)')
	) r(levels, what) WHERE $1 OPERATOR(pg_catalog.=) ANY (r.levels)
$$;
COMMENT ON FUNCTION jobqueue._access_rights(text) IS 'internal: the rights that a level of access consists of';

CREATE FUNCTION jobqueue._check_access(role name, access text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF role IS NULL OR access IS NULL THEN
		RAISE EXCEPTION 'role and access must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF access NOT IN ('producer', 'consumer', 'manager') THEN
		RAISE EXCEPTION 'unknown access level "%"', access USING ERRCODE = 'invalid_parameter_value',
			HINT = 'The levels are producer, consumer and manager.';
	END IF;
	IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'undefined_object';
	END IF;
END
$$;
COMMENT ON FUNCTION jobqueue._check_access(name, text) IS 'internal: refuses unknown roles and levels';

CREATE FUNCTION jobqueue.grant_access(role name, access text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	what text;
BEGIN
	PERFORM jobqueue._check_access(role, access);
	-- two at once would change the same catalog rows
	LOCK TABLE jobqueue.incarnation IN SHARE ROW EXCLUSIVE MODE;
	FOR what IN SELECT jobqueue._access_rights(access) LOOP
		EXECUTE format('GRANT %s TO %I', what, role);
	END LOOP;
END
$$;
COMMENT ON FUNCTION jobqueue.grant_access(name, text) IS
	'gives a role the rights of a producer, consumer or manager; only for the extension''s owner';

-- What another level of the role still needs is granted again.
CREATE FUNCTION jobqueue.revoke_access(role name, access text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	what text;
	other text;
	held text[] := '{}';
BEGIN
	PERFORM jobqueue._check_access(role, access);
	LOCK TABLE jobqueue.incarnation IN SHARE ROW EXCLUSIVE MODE;
	FOR other, what IN VALUES
		('producer', 'jobqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, interval, jsonb)'),
		('consumer', 'jobqueue.claim(text, integer, interval, text[], text)'),
		('manager', 'jobqueue.register_handler(text, regprocedure, text, name, integer, text, regprocedure, interval, interval, real, interval, text[], text, integer)')
	LOOP
		IF other <> access AND EXISTS (
			SELECT 1 FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a, pg_catalog.pg_roles r
			WHERE p.oid = what::pg_catalog.regprocedure AND r.oid = a.grantee AND r.rolname = role) THEN
			held := held || other;
		END IF;
	END LOOP;
	FOR what IN SELECT jobqueue._access_rights(access) LOOP
		EXECUTE format('REVOKE %s FROM %I', what, role);
	END LOOP;
	FOREACH other IN ARRAY held LOOP
		PERFORM jobqueue.grant_access(role, other);
	END LOOP;
END
$$;
COMMENT ON FUNCTION jobqueue.revoke_access(name, text) IS
	'takes the rights of a level from a role; what its other levels include stays';

REVOKE ALL ON FUNCTION jobqueue._access_rights(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue._check_access(name, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue.grant_access(name, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION jobqueue.revoke_access(name, text) FROM PUBLIC;

SELECT jobqueue._installed();
