-- Handlers run as their role and nothing else, and leave nothing behind for the next task
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE ROLE r_nologin NOLOGIN;
\if :needs_login
ALTER ROLE r_nologin LOGIN;
\endif
CREATE ROLE r_login LOGIN;
CREATE ROLE r_producer;
CREATE SCHEMA r_schema AUTHORIZATION r_nologin;
ALTER ROLE r_nologin SET search_path = r_schema, public;
ALTER ROLE r_nologin SET work_mem = '7MB';
SELECT jobqueue.grant_access('r_producer', 'producer');
CREATE TABLE r_log (what text, session_user_was name DEFAULT session_user, current_user_was name DEFAULT current_user);
GRANT INSERT ON r_log TO PUBLIC;

-- no matter who enqueues, the handler's role is session user and current user; its settings are in force
CREATE FUNCTION r_who(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.r_log VALUES ('who');
	RETURN jsonb_build_array(session_user, current_user, current_setting('is_superuser'),
		current_setting('search_path'), current_setting('work_mem'),
		current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_setting('role'));
END $$;
SELECT jobqueue.register_handler('who', 'r_who(jsonb)', run_as => 'r_nologin');
SELECT jobqueue.register_handler('who-login', 'r_who(jsonb)', run_as => 'r_login');
SET ROLE r_producer;
SELECT jobqueue.enqueue('who') AS a, jobqueue.enqueue('who-login') AS b \gset
SELECT created_by, status, result, last_error FROM jobqueue.wait_for(:a, '10 s');
SELECT created_by, status, result, last_error FROM jobqueue.wait_for(:b, '10 s');
RESET ROLE;
SELECT * FROM r_log ORDER BY 2;
SELECT role, count(*) > 0 FROM jobqueue.worker_status WHERE role LIKE 'r\_%' GROUP BY role ORDER BY role;

-- no way back to anything more
CREATE FUNCTION r_escape(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE payload->>0;
	RETURN jsonb_build_array(session_user, current_user, current_setting('is_superuser'));
EXCEPTION WHEN OTHERS THEN
	RETURN to_jsonb(sqlstate || ': ' || sqlerrm);
END $$;
SELECT jobqueue.register_handler('escape', 'r_escape(jsonb)', run_as => 'r_nologin', max_attempts => 1);
SELECT array_agg(jobqueue.enqueue('escape', jsonb_build_array(c)) ORDER BY n) AS ids
	FROM unnest(ARRAY['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT',
	'SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres', 'SET ROLE r_login', 'RESET ALL', 'DISCARD ALL',
		'UPDATE jobqueue.tasks SET priority = 0',
	'SELECT jobqueue.enqueue(''who'')', 'SELECT * FROM jobqueue.handlers', 'ALTER SYSTEM SET work_mem = 1',
		'SET LOCAL session_replication_role = replica']) WITH ORDINALITY u(c, n) \gset
SELECT w.payload->>0, w.status, coalesce(w.result::text, w.last_error) FROM unnest(:'ids'::bigint[])
	WITH ORDINALITY t(id, n), LATERAL jobqueue.wait_for(t.id, '10 s') w ORDER BY n;
-- ends as it began: a trigger at the commit, too, is the role's
CREATE FUNCTION r_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.r_log VALUES ('at commit');
	RETURN NULL; END$$;
CREATE TABLE r_deferred (a integer);
GRANT INSERT ON r_deferred TO r_nologin;
CREATE CONSTRAINT TRIGGER r_deferred AFTER INSERT ON r_deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
	EXECUTE FUNCTION r_at_commit();
CREATE FUNCTION r_defer(payload jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO public.r_deferred VALUES (1)$$;
SELECT jobqueue.register_handler('defer', 'r_defer(jsonb)', run_as => 'r_nologin', max_attempts => 1);
SELECT jobqueue.enqueue('defer') AS id \gset
SELECT status, last_error FROM jobqueue.wait_for(:id, '10 s');
SELECT * FROM r_log WHERE what = 'at commit';

-- nothing that the role defines runs with our rights: operators, casts and functions in its path
CREATE FUNCTION r_schema.hijack(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.r_log
	VALUES ('hijacked'); RETURN true; END$$;
CREATE FUNCTION r_schema.hijack(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.r_log
	VALUES ('hijacked'); RETURN true; END$$;
CREATE FUNCTION r_schema.hijack(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.r_log
	VALUES ('hijacked'); RETURN true; END$$;
CREATE FUNCTION r_schema.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.r_log
	VALUES ('hijacked'); RETURN 'epoch'; END$$;
CREATE FUNCTION r_schema.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.r_log
	VALUES ('hijacked'); RETURN 'epoch'; END$$;
CREATE FUNCTION r_schema.to_jsonb(anyelement) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.r_log
	VALUES ('hijacked'); RETURN '"hijacked"'; END$$;
CREATE OPERATOR r_schema.= (LEFTARG = text, RIGHTARG = text, FUNCTION = r_schema.hijack);
CREATE OPERATOR r_schema.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = r_schema.hijack);
CREATE OPERATOR r_schema.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = r_schema.hijack);
ALTER ROLE r_nologin SET search_path = r_schema, pg_catalog;
SET client_min_messages = error; -- one may have gone by itself meanwhile
SELECT count(pg_terminate_backend(pid)) > 0 FROM jobqueue.worker_status WHERE role = 'r_nologin' AND pid IS NOT NULL;
SET client_min_messages = warning;
CREATE FUNCTION r_path(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_catalog.set_config('search_path', 'r_schema, pg_catalog', false);
	RETURN 'mine';
END $$;
SELECT jobqueue.register_handler('path', 'r_path(jsonb)', run_as => 'r_nologin', max_attempts => 1);
SELECT array_agg(jobqueue.enqueue('path')) AS ids FROM generate_series(1, 5) \gset
SELECT w.status, w.result, count(*) FROM unnest(:'ids'::bigint[]) t(id),
	LATERAL jobqueue.wait_for(t.id, '10 s') w GROUP BY 1, 2;
SELECT count(*) FROM r_log WHERE what = 'hijacked';
ALTER ROLE r_nologin RESET search_path;

-- settings, temporary tables, prepared statements and locks of one task are not the next one's
CREATE FUNCTION r_litter(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('work_mem', '99MB', false), set_config('my.setting', 'litter', false),
		set_config('statement_timeout', '1', false),
		set_config('default_transaction_read_only', 'on', false), set_config('default_transaction_isolation',
			'serializable', false),
		set_config('application_name', 'litter', false), set_config('role', 'none', false);
	PERFORM pg_advisory_lock(4711);
	EXECUTE 'PREPARE litter AS SELECT 1';
	CREATE TEMPORARY TABLE litter (a integer);
	EXECUTE 'DECLARE litter CURSOR WITH HOLD FOR SELECT 1';
END $$;
CREATE FUNCTION r_clean(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN jsonb_build_array(pg_backend_pid(), current_setting('work_mem'),
		nullif(current_setting('my.setting', true), ''), current_setting('statement_timeout'),
		current_setting('transaction_read_only'), current_setting('transaction_isolation'),
			current_setting('application_name') = 'litter',
		(SELECT count(*) FROM pg_prepared_statements WHERE name = 'litter'), to_regclass('pg_temp.litter'),
		(SELECT count(*) FROM pg_cursors WHERE name = 'litter'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()));
END $$;
ALTER SYSTEM SET jobqueue.max_workers = 1;
SELECT pg_reload_conf();
SET client_min_messages = error; -- one may have gone by itself meanwhile
SELECT count(pg_terminate_backend(pid)) > 0 FROM jobqueue.worker_status WHERE pid IS NOT NULL;
SET client_min_messages = warning;
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.worker_status) <= 1$$);
SELECT jobqueue.register_handler('litter', 'r_litter(jsonb)', run_as => 'r_login', max_attempts => 1);
SELECT jobqueue.register_handler('clean', 'r_clean(jsonb)', run_as => 'r_login', max_attempts => 1);
SELECT jobqueue.enqueue('clean') AS before, jobqueue.enqueue('litter') AS litter, jobqueue.enqueue('clean') AS after
	\gset
SELECT status, result - 0 FROM jobqueue.wait_for(:before, '10 s');
SELECT status, last_error FROM jobqueue.wait_for(:litter, '10 s');
SELECT status, result - 0 FROM jobqueue.wait_for(:after, '10 s');
SELECT count(DISTINCT result->0) AS "one worker ran both" FROM jobqueue.tasks WHERE type = 'clean'
	AND status = 'completed';
ALTER SYSTEM RESET jobqueue.max_workers;
SELECT pg_reload_conf();

-- a role without the right: the task is not lost, and says why
REVOKE EXECUTE ON FUNCTION r_who(jsonb) FROM PUBLIC;
SELECT jobqueue.enqueue('who', max_attempts => 1) AS id \gset
SELECT status, last_sqlstate, last_error FROM jobqueue.wait_for(:id, '10 s');

-- a role that is gone: its tasks wait
SELECT jobqueue.register_handler('who-gone', 'r_escape(jsonb)', run_as => 'r_login');
SET client_min_messages = error; -- one may have gone by itself meanwhile
SELECT count(pg_terminate_backend(pid)) >= 0 FROM jobqueue.worker_status WHERE pid IS NOT NULL AND role = 'r_login';
SET client_min_messages = warning;
DROP ROLE r_login;
SELECT jobqueue.enqueue('who-gone', '["RESET ROLE"]') AS gone, jobqueue.enqueue('escape', '["RESET ROLE"]') AS other
	\gset
SELECT status FROM jobqueue.wait_for(:other, '10 s');
SELECT status IN ('pending', 'scheduled'), attempts FROM jobqueue.tasks WHERE id = :gone;
SELECT jobqueue.register_handler('who-gone', 'r_escape(jsonb)', run_as => 'r_nologin');
SELECT status, result FROM jobqueue.wait_for(:gone, '10 s');

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP FUNCTION r_who, r_escape, r_defer, r_path, r_litter, r_clean;
DROP TABLE r_deferred, r_log;
DROP FUNCTION r_at_commit;
DROP SCHEMA r_schema CASCADE;
SELECT jobqueue.revoke_access('r_producer', 'producer');
DROP ROLE r_nologin, r_producer;
DELETE FROM jobqueue.tasks;
