-- Handlers that fail: rolled back, recorded, tried again, in the end failed
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE TABLE effects (what text, task bigint, note text);

-- an error: nothing that the handler did remains, the task is tried again later
CREATE FUNCTION failing_handler(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('failing', 0, payload->>'note');
	IF (jobqueue.current_task()).attempts <= (payload->>'failures')::int THEN
		RAISE EXCEPTION 'no luck with "%"', payload->>'note' USING ERRCODE = payload->>'sqlstate', DETAIL = 'a detail',
			HINT = 'a hint';
	END IF;
	RETURN 'luck';
END $$;
SELECT jobqueue.register_handler('failing', 'failing_handler(jsonb)');
BEGIN;
SELECT jobqueue.enqueue('failing', '{"note": "one", "failures": 1, "sqlstate": "22012"}') AS id \gset
COMMIT;
\set settled '(SELECT status FROM jobqueue.tasks WHERE id = ' :id ') = ''scheduled'''
CALL pg_temp.wait_until(:'settled');
SELECT status, attempts, last_error, last_sqlstate, result, finished_at, lease_expires_at, processed_at IS NOT NULL,
	run_at - updated_at BETWEEN '3.9 s' AND '6.1 s' FROM jobqueue.tasks WHERE id = :id;
SELECT count(*) FROM effects;
SELECT jobqueue.retry(:id);
SELECT status, attempts, result, last_error, last_sqlstate FROM jobqueue.wait_for(:id, '10 s');
SELECT count(*) FROM effects;
TRUNCATE effects;

-- the last attempt: failed, and kept with its error
SELECT jobqueue.enqueue('failing', '{"note": "two", "failures": 1000, "sqlstate": "XY123"}', max_attempts => 1) AS id
	\gset
SELECT status, attempts, max_attempts, last_error, last_sqlstate, result,
	finished_at IS NOT NULL FROM jobqueue.wait_for(:id, '10 s');
SELECT pg_temp.leaf(:id), count(*) FROM effects;
-- retried: one more attempt
SELECT jobqueue.retry(:id);
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.tasks WHERE type = 'failing' AND status = 'failed'
	AND attempts = 2) = 1$$);
-- the handler's own max_attempts
SELECT jobqueue.register_handler('failing', 'failing_handler(jsonb)', max_attempts => 1);
SELECT jobqueue.enqueue('failing', '{"note": "three", "failures": 1000, "sqlstate": "P0001"}') AS id \gset
SELECT status, attempts, last_error, last_sqlstate FROM jobqueue.wait_for(:id, '10 s');
-- errors that mean something to the server: a serialization failure, a cancel, a shutdown, lack of memory; still the
-- task's
SELECT array_agg(jobqueue.enqueue('failing', jsonb_build_object('note', n, 'failures', 1000, 'sqlstate', code))
	ORDER BY n) AS ids
FROM unnest('{40001,40P01,57014,57P01,57P03,53200,25P02,2D000,XX000}'::text[]) WITH ORDINALITY c(code, n) \gset
SELECT w.status, w.attempts, w.last_error, w.last_sqlstate FROM unnest(:'ids'::bigint[]) WITH ORDINALITY t(id, n),
	LATERAL jobqueue.wait_for(t.id, '10 s') w ORDER BY n;
SELECT count(*) FROM effects;
SELECT jobqueue.unregister_handler('failing');

-- errors of other kinds: at the commit (deferred), while converting, by a handler that ends the transaction or breaks
-- its rules
CREATE TABLE deferred (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION deferred_handler(payload jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO deferred VALUES (1), (1)$$;
CREATE FUNCTION commit_handler(payload jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE FUNCTION json_handler(payload jsonb) RETURNS json LANGUAGE sql AS $$SELECT '"\u0000"'::json$$;
CREATE FUNCTION long_handler(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE '%', repeat('ä', 100000);
	END$$;
CREATE FUNCTION quoting_handler(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE '%',
	E'quote '' " \\ % $1\nsecond line'; END$$;
CREATE FUNCTION recursive_handler(payload jsonb) RETURNS jsonb LANGUAGE plpgsql
	AS $$BEGIN RETURN recursive_handler(payload); END$$;
SELECT count(jobqueue.register_handler(f, (f || '_handler(jsonb)')::regprocedure, max_attempts => 1))
	FROM unnest('{deferred,commit,json,long,quoting,recursive}'::text[]) f;
SELECT array_agg(jobqueue.enqueue(f) ORDER BY n) AS ids
	FROM unnest('{deferred,commit,json,long,quoting,recursive}'::text[]) WITH ORDINALITY f(f, n) \gset
SELECT w.type, w.status, w.attempts, w.last_sqlstate, CASE WHEN w.type <> 'long' THEN w.last_error END
FROM unnest(:'ids'::bigint[]) WITH ORDINALITY t(id, n), LATERAL jobqueue.wait_for(t.id, '10 s') w ORDER BY n;
SELECT last_error LIKE 'ääää%' FROM jobqueue.tasks WHERE type = 'long';
SELECT count(*) FROM deferred;
SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;

-- an exception that the handler catches is its own affair; savepoints leave no trace
CREATE FUNCTION catching_handler(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1..200 LOOP
		BEGIN
			INSERT INTO effects VALUES ('caught', n, '');
			PERFORM 1 / (n % 2);
		EXCEPTION WHEN division_by_zero THEN
		END;
	END LOOP;
	RETURN 'caught';
END $$;
SELECT jobqueue.register_handler('catching', 'catching_handler(jsonb)');
SELECT jobqueue.enqueue('catching') AS id \gset
SELECT status, result, last_error FROM jobqueue.wait_for(:id, '10 s');
SELECT count(*) FROM effects;
TRUNCATE effects;

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP TABLE effects, deferred;
DROP FUNCTION failing_handler, deferred_handler, commit_handler, json_handler, long_handler, quoting_handler,
	recursive_handler, catching_handler;
DELETE FROM jobqueue.tasks;
