-- Procedures as handlers: they may commit while they run
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE TABLE effects (what text, task bigint, note text);

CREATE PROCEDURE procedure_handler(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('procedure', 0, payload->>'note');
END $$;
CREATE PROCEDURE procedure_task_handler(task jobqueue.tasks) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('procedure task', task.id, task.payload->>'note');
END $$;
CREATE PROCEDURE sql_procedure_handler(payload jsonb) LANGUAGE sql AS $$INSERT INTO effects
	VALUES ('sql procedure', 0, payload->>'note')$$;
SELECT jobqueue.register_handler('run-' || n, f::regprocedure)
	FROM unnest(ARRAY['procedure_handler(jsonb)', 'procedure_task_handler(jobqueue.tasks)',
	'sql_procedure_handler(jsonb)']) WITH ORDINALITY h(f, n);
SELECT array_agg(jobqueue.enqueue('run-' || n, jsonb_build_object('note', 'no. ' || n)) ORDER BY n) AS ids
	FROM generate_series(1, 3) n \gset
SELECT n, w.status, w.attempts, w.result, w.last_error FROM unnest(:'ids'::bigint[]) WITH ORDINALITY t(id, n),
	LATERAL jobqueue.wait_for(t.id, '10 s') w ORDER BY n;
SELECT what, note, task = ANY (:'ids') AS knows_its_id FROM effects ORDER BY note;
TRUNCATE effects;

-- a procedure that commits midway: what it committed stays
CREATE PROCEDURE committing_handler(task jobqueue.tasks) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1..3 LOOP
		INSERT INTO effects VALUES ('committing', task.id, n::text);
		COMMIT;
	END LOOP;
	INSERT INTO effects VALUES ('committing', task.id, 'rolled back');
	ROLLBACK;
	INSERT INTO effects VALUES ('committing', task.id, (jobqueue.current_task()).id = task.id);
	IF task.payload ? 'fail' THEN
		RAISE 'too late';
	END IF;
END $$;
SELECT jobqueue.register_handler('committing', 'committing_handler(jobqueue.tasks)', max_attempts => 1);
SELECT jobqueue.enqueue('committing') AS a, jobqueue.enqueue('committing', '{"fail": true}') AS b \gset
SELECT status, attempts, last_error, result FROM jobqueue.wait_for(:a, '10 s');
SELECT status, attempts, last_error FROM jobqueue.wait_for(:b, '10 s');
SELECT string_agg(note, ' ' ORDER BY note) FROM effects WHERE task = :a;
SELECT string_agg(note, ' ' ORDER BY note) FROM effects WHERE task = :b;
TRUNCATE effects;

-- an error without a commit before it: nothing remains, and the task is tried again
CREATE PROCEDURE failing_procedure(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('failing procedure', 0, '');
	RAISE 'no luck';
END $$;
SELECT jobqueue.register_handler('failing-procedure', 'failing_procedure(jsonb)');
SELECT jobqueue.enqueue('failing-procedure') AS id \gset
\set settled '(SELECT status = ''scheduled'' FROM jobqueue.tasks WHERE id = ' :id ')'
CALL pg_temp.wait_until(:'settled');
SELECT attempts, last_error, last_sqlstate FROM jobqueue.tasks WHERE id = :id;
SELECT count(*) FROM effects;

-- it ends with a commit, or with a rollback, or with an error that it caught; after each of them the worker goes on
CREATE PROCEDURE ending_handler(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('ending', 0, payload->>0);
	CASE payload->>0
		WHEN 'commit' THEN COMMIT;
		WHEN 'rollback' THEN ROLLBACK;
		WHEN 'chain' THEN COMMIT AND CHAIN;
		WHEN 'loop' THEN
			FOR n IN 1..3 LOOP
				BEGIN
					PERFORM 1 / 0;
				EXCEPTION WHEN division_by_zero THEN
				END;
				COMMIT;
			END LOOP;
	END CASE;
END $$;
SELECT jobqueue.register_handler('ending', 'ending_handler(jsonb)', max_attempts => 1);
SELECT array_agg(jobqueue.enqueue('ending', jsonb_build_array(e)) ORDER BY n) AS ids
	FROM unnest('{commit,rollback,chain,loop}'::text[]) WITH ORDINALITY u(e, n) \gset
SELECT w.payload, w.status, w.last_error FROM unnest(:'ids'::bigint[]) WITH ORDINALITY t(id, n),
	LATERAL jobqueue.wait_for(t.id, '10 s') w ORDER BY n;
SELECT note FROM effects ORDER BY note;

-- a transaction's settings are that transaction's
CREATE PROCEDURE isolation_handler(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	COMMIT;
	SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
	INSERT INTO effects VALUES ('isolation', 0, current_setting('transaction_isolation'));
	COMMIT;
	INSERT INTO effects VALUES ('isolation', 0, current_setting('transaction_isolation'));
END $$;
SELECT jobqueue.register_handler('isolation', 'isolation_handler(jsonb)', max_attempts => 1);
SELECT jobqueue.enqueue('isolation') AS id \gset
SELECT status, last_error FROM jobqueue.wait_for(:id, '10 s');
SELECT note FROM effects WHERE what = 'isolation' ORDER BY note;

-- cancelled while it runs: what it committed stays
CREATE PROCEDURE cancelled_handler(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('cancelled', 0, 'committed');
	COMMIT;
	INSERT INTO effects VALUES ('cancelled', 0, 'not committed');
	PERFORM pg_sleep(60);
END $$;
SELECT jobqueue.register_handler('cancelled', 'cancelled_handler(jsonb)', max_attempts => 1);
SELECT jobqueue.enqueue('cancelled') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM effects WHERE what = 'cancelled')$$);
SELECT jobqueue.cancel(:id);
SELECT status FROM jobqueue.wait_for(:id, '10 s');
SELECT note FROM effects WHERE what = 'cancelled';

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP TABLE effects;
DROP PROCEDURE procedure_handler, procedure_task_handler, sql_procedure_handler, committing_handler, failing_procedure,
	ending_handler,
	isolation_handler, cancelled_handler;
DELETE FROM jobqueue.tasks;
