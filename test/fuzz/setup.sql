-- What test/fuzz/fuzz.py needs in its database: roles of every level, handlers of every temper, values of every size.
SET client_min_messages = warning;
CREATE EXTENSION jobqueue;

CREATE ROLE fuzz_producer LOGIN;
CREATE ROLE fuzz_consumer LOGIN;
CREATE ROLE fuzz_manager LOGIN;
CREATE ROLE fuzz_all LOGIN;
CREATE ROLE fuzz_none LOGIN;
CREATE ROLE "Fuzz ""quoted"" '\ü" LOGIN;
CREATE ROLE fuzz_spare_1;
CREATE ROLE fuzz_spare_2 NOLOGIN;

CREATE SCHEMA fuzz;
GRANT USAGE ON SCHEMA fuzz TO PUBLIC;

-- Values that come from a table are compressed, stored out of line, or have a short header: literals are not.
CREATE TABLE fuzz.kept (n integer PRIMARY KEY, t text, j jsonb, ta text[], ja jsonb[], ba bigint[], ia integer[]);
INSERT INTO fuzz.kept SELECT n, string_agg(md5(i::text), ''), jsonb_agg(md5(i::text)), array_agg(md5(i::text)),
	array_agg(to_jsonb(md5(i::text))), array_agg(i::bigint), array_agg(i)
FROM (VALUES (1, 1), (2, 3), (3, 100), (4, 1000), (5, 5000)) k(n, size), LATERAL generate_series(1, size) i GROUP BY n;
INSERT INTO fuzz.kept VALUES (6, repeat('x', 3000000), to_jsonb(repeat('x', 3000000)), array_fill('x'::text, '{5000}'),
	array_fill('{}'::jsonb, '{5000}'), array_fill(1::bigint, '{5000}'), array_fill(1, '{5000}')),
	(7, '', '{}', '{}', '{}', '{}', '{}'), (8, NULL, NULL, NULL, NULL, NULL, NULL);
GRANT SELECT ON fuzz.kept TO PUBLIC;

-- Handlers enter here what they enqueued: it is committed with the task, or not at all.
CREATE TABLE fuzz.made (id bigint);
GRANT INSERT ON fuzz.made TO PUBLIC;
CREATE TABLE fuzz.deferred (n integer CONSTRAINT deferred_n UNIQUE DEFERRABLE INITIALLY DEFERRED);
GRANT SELECT, INSERT ON fuzz.deferred TO PUBLIC;

-- Its columns have the names that the triggers of jobqueue.tasks look for, but other types.
CREATE TABLE fuzz.watched (id text, type integer, status text, queue text, priority text, updated_at text,
	finished_at integer,
	run_at text, payload integer);
CREATE TABLE fuzz.bare (a integer, b jsonb, c text[]);
GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON fuzz.watched, fuzz.bare TO PUBLIC;

CREATE FUNCTION fuzz.ok(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT payload';
CREATE FUNCTION fuzz.ok_task(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN task.id; END';
CREATE FUNCTION fuzz.ok_atomic(payload jsonb) RETURNS integer BEGIN ATOMIC SELECT 1; END;
CREATE FUNCTION fuzz.nothing(payload jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET work_mem = '1MB'
	AS 'BEGIN END';
CREATE FUNCTION fuzz.strict_null(payload jsonb) RETURNS text LANGUAGE plpgsql STRICT AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION fuzz.row_result(payload jsonb) RETURNS jobqueue.tasks LANGUAGE sql
	AS 'SELECT * FROM jobqueue.current_task()';
CREATE FUNCTION fuzz.rows_result(payload jsonb) RETURNS SETOF integer LANGUAGE sql AS 'SELECT generate_series(1, 3)';
CREATE FUNCTION fuzz.huge_result(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT repeat('é', 500000)$$;
CREATE FUNCTION fuzz.bad_result(payload jsonb) RETURNS double precision LANGUAGE sql
	AS $$SELECT 'NaN'::double precision$$;
CREATE FUNCTION fuzz.divides(payload jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 1 / (random() * 0)::integer';
CREATE FUNCTION fuzz.fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = (ARRAY['P0001', '40001', '57014', '22012', 'JQ001', 'P0999', '23505'])[1 +
		floor(random() * 7)],
		MESSAGE = left(coalesce(payload::text, ''), 5000) || E'\n"ü%s', HINT = repeat('hint ', 500);
END
$$;
CREATE FUNCTION fuzz.sleeps(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(random() / 5)';
CREATE FUNCTION fuzz.stubborn(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			PERFORM pg_sleep(0.05), 1 / i;
			RAISE division_by_zero;
		EXCEPTION WHEN query_canceled OR OTHERS THEN
		END;
	END LOOP;
END
$$;
CREATE FUNCTION fuzz.recurses(payload jsonb) RETURNS void LANGUAGE plpgsql
	AS 'BEGIN PERFORM fuzz.recurses(payload); END';
CREATE FUNCTION fuzz.messy(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	SET search_path = fuzz, pg_temp;
	SET statement_timeout = '1s';
	CREATE TEMPORARY TABLE IF NOT EXISTS left_behind AS SELECT 1 AS one;
	PERFORM pg_advisory_lock_shared(1), pg_advisory_xact_lock_shared(2), set_config('fuzz.x', 'y', false);
	EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1';
	EXECUTE 'PREPARE prepared AS SELECT 1';
	BEGIN
		LISTEN fuzz;
	EXCEPTION WHEN feature_not_supported THEN
	END;
END
$$;
CREATE FUNCTION fuzz.collides(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO fuzz.deferred VALUES (1), (1)';
CREATE FUNCTION fuzz.chains(payload jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE made bigint;
BEGIN
	made := jobqueue.enqueue('ok', payload);
	INSERT INTO fuzz.made VALUES (made);
	BEGIN
		PERFORM jobqueue.enqueue('phantom');
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
	END;
	RETURN made;
END
$$;
CREATE FUNCTION fuzz.chains_and_fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM jobqueue.enqueue('phantom') FROM generate_series(1, 3);
	RAISE division_by_zero;
END
$$;
-- Whatever the fuzzer has thought of, inside a handler.
CREATE FUNCTION fuzz.runs_sql(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE coalesce(payload->>'sql', 'SELECT 1');
END
$$;
CREATE FUNCTION fuzz.runs_sql_and_goes_on(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE coalesce(payload->>'sql', 'SELECT 1');
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	IF SQLSTATE LIKE 'XX%' THEN
		RAISE;
	END IF;
	RETURN SQLERRM;
END
$$;
CREATE FUNCTION fuzz.interferes(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE task jobqueue.tasks := jobqueue.current_task();
BEGIN
	CASE floor(random() * 4)::integer
		WHEN 0 THEN PERFORM jobqueue.cancel(task.id);
		WHEN 1 THEN PERFORM jobqueue.complete(task.id, task.attempts);
		WHEN 2 THEN PERFORM jobqueue.fail(task.id, task.attempts, 'by itself');
		ELSE PERFORM jobqueue.release(task.id, task.attempts);
	END CASE;
END
$$;
CREATE FUNCTION fuzz.dies(payload jsonb) RETURNS void LANGUAGE sql
	AS 'SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)';
CREATE PROCEDURE fuzz.commits(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fuzz.made SELECT jobqueue.enqueue('ok', payload);
	COMMIT;
	PERFORM jobqueue.enqueue('phantom');
	ROLLBACK;
	IF random() < 0.3 THEN
		RAISE division_by_zero;
	END IF;
END
$$;
CREATE PROCEDURE fuzz.commits_task(task jobqueue.tasks) LANGUAGE plpgsql
	AS 'BEGIN COMMIT; PERFORM pg_sleep(0.01); COMMIT; END';
CREATE FUNCTION fuzz.two_arguments(payload jsonb, n integer) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION fuzz.forbidden(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
REVOKE ALL ON FUNCTION fuzz.forbidden(jsonb) FROM PUBLIC;
CREATE FUNCTION fuzz."odd ""name"", 'ü'"(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION fuzz.delays(attempt integer, sqlstate text) RETURNS interval LANGUAGE sql
	AS $$SELECT attempt * interval '10 ms'$$;
CREATE FUNCTION fuzz.delays_badly(attempt integer, sqlstate text) RETURNS interval LANGUAGE sql AS
	$$SELECT ('{NULL,-1 s,178000000 years,0}'::interval[])[1 + attempt % 4]$$;
