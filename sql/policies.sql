-- What becomes of a failed attempt, by type: the wait, errors that are not tried again, how many attempts;
-- alter_handler
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE TABLE p_state (healthy boolean);
INSERT INTO p_state VALUES (false);
CREATE FUNCTION p_work(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	IF NOT (SELECT healthy FROM public.p_state) THEN
		RAISE EXCEPTION 'no luck' USING ERRCODE = coalesce(payload->>'sqlstate', 'P0001');
	END IF;
	RETURN 'luck';
END $$;

-- how long a failed task waits: never longer than it should, and less than a minute less
CREATE FUNCTION pg_temp.wait_of(task_id bigint) RETURNS interval LANGUAGE sql AS $$
	SELECT ceil(extract(epoch FROM run_at - updated_at) / 60) * interval '1 minute' FROM jobqueue.tasks
		WHERE id = task_id AND status = 'scheduled'
$$;
-- no worker sees what is not committed: so the caller is the one who fails, with the policy of the type
CREATE FUNCTION pg_temp.waits(task_type text, tries integer) RETURNS interval[] LANGUAGE plpgsql AS $$
DECLARE
	task bigint := jobqueue.enqueue(task_type, queue => 'p-waits', max_attempts => 1000);
	waits interval[];
BEGIN
	FOR n IN 1..tries LOOP
		PERFORM jobqueue.fail(c.id, c.attempts, 'no luck') FROM jobqueue.claim('p-waits', types => ARRAY[task_type]) c;
		waits := waits || coalesce(pg_temp.wait_of(task), '0');
		PERFORM jobqueue.retry(task);
	END LOOP;
	DELETE FROM jobqueue.tasks WHERE id = task;
	RETURN waits;
END $$;
CREATE FUNCTION pg_temp.settled(task_id bigint) RETURNS boolean LANGUAGE sql AS $$
	SELECT status NOT IN ('pending', 'processing') OR origin_queue IS NOT NULL FROM jobqueue.tasks WHERE id = task_id
$$;

-- the three kinds of back-off, and their ceiling
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', backoff => 'fixed', first_delay => '1 hour',
	max_delay => '12 hours', jitter => 0);
SELECT pg_temp.waits('p', 4);
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', backoff => 'linear', first_delay => '3 hours',
	max_delay => '10 hours', jitter => 0);
SELECT pg_temp.waits('p', 5);
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', first_delay => '1 hour', max_delay => '10 hours', jitter => 0);
SELECT pg_temp.waits('p', 6);
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', backoff => 'exponential', first_delay => '1 minute',
	max_delay => '20000 days', jitter => 0);
SELECT (pg_temp.waits('p', 100))[26:] = array_fill(interval '28800000 minutes', ARRAY[75]);
-- a first wait above the ceiling; none at all
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', first_delay => '1 day', max_delay => '90 minutes', jitter => 0);
SELECT pg_temp.waits('p', 2);
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', first_delay => '0', jitter => 0);
SELECT pg_temp.waits('p', 3);
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', max_delay => '0', jitter => 0);
SELECT pg_temp.waits('p', 2);
-- a month has 30 days
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', backoff => 'fixed', first_delay => '1 mon 1 day',
	max_delay => '1 year', jitter => 0);
SELECT pg_temp.waits('p', 1) = ARRAY[31 * 24 * interval '1 hour'];
-- jitter: longer or shorter by that part, at random
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', backoff => 'fixed', first_delay => '100 minutes',
	max_delay => '1 day', jitter => 0.25);
SELECT min(w) >= '75 minutes', max(w) <= '125 minutes', count(DISTINCT w) > 1 FROM unnest(pg_temp.waits('p', 50)) w;
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', backoff => 'fixed', first_delay => '100 minutes',
	max_delay => '1 day', jitter => 1);
SELECT min(w) >= '0', max(w) <= '200 minutes', count(DISTINCT w) > 1 FROM unnest(pg_temp.waits('p', 50)) w;
-- a type without handler has the defaults
SELECT w BETWEEN '1 s' AND '1 minute' FROM unnest(pg_temp.waits('p-unknown', 1)) w;
-- the caller of fail() may know better
BEGIN;
SELECT jobqueue.enqueue('p', queue => 'p-waits') AS id \gset
SELECT jobqueue.fail(id, attempts, 'x', retry_in => '2 hours') FROM jobqueue.claim('p-waits', types => '{p}');
SELECT pg_temp.wait_of(:id);
ROLLBACK;

-- the same in a worker
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', backoff => 'linear', first_delay => '1 hour',
	max_delay => '1 day', jitter => 0);
SELECT jobqueue.enqueue('p') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT pg_temp.wait_of(:id), status, attempts, max_attempts, last_error,
	last_sqlstate FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.retry(:id);
CALL pg_temp.wait_until(format('pg_temp.settled(%s) AND pg_temp.wait_of(%1$s) > ''1 hour''', :id));
SELECT pg_temp.wait_of(:id), status, attempts, max_attempts, last_error,
	last_sqlstate FROM jobqueue.tasks WHERE id = :id;
-- healed: it runs at its next turn
UPDATE p_state SET healthy = true;
SELECT jobqueue.retry(:id);
SELECT status, attempts, result FROM jobqueue.wait_for(:id, '60 s');
UPDATE p_state SET healthy = false;

-- a function that says how long: of the role, asked in a worker, in a transaction that is rolled back
CREATE ROLE p_role LOGIN;
GRANT SELECT ON p_state TO p_role;
CREATE TABLE p_traces (what text);
GRANT INSERT ON p_traces TO p_role;
CREATE SEQUENCE p_asked;
GRANT USAGE ON p_asked TO p_role;
SELECT jobqueue.grant_access('p_role', 'producer');
CREATE FUNCTION p_backoff(attempt integer, error text) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('public.p_asked');
	INSERT INTO public.p_traces VALUES ('asked');
	PERFORM jobqueue.enqueue('p-trace');
	IF session_user <> 'p_role' OR current_user <> 'p_role' OR error <> 'no luck' THEN
		RETURN '1 year';
	END IF;
	RETURN attempt * interval '5 hours';
END $$;
CREATE FUNCTION p_backoff_null(attempt integer, error text) RETURNS interval LANGUAGE sql
	AS $$SELECT nextval('public.p_asked'); SELECT NULL::interval$$;
CREATE FUNCTION p_backoff_raises(attempt integer, error text) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.p_traces VALUES ('raised');
	PERFORM nextval('public.p_asked');
	RAISE EXCEPTION 'no idea';
END $$;
CREATE FUNCTION p_backoff_endless(attempt integer, error text) RETURNS interval LANGUAGE sql
	AS $$SELECT nextval('public.p_asked'); SELECT interval '178000000 years'$$;
CREATE FUNCTION p_backoff_slow(attempt integer, error text) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('public.p_asked'), pg_sleep(600);
	RETURN '1 year';
END $$;
CREATE FUNCTION p_backoff_negative(attempt integer, error text) RETURNS interval LANGUAGE sql
	AS $$SELECT nextval('public.p_asked'); SELECT interval '-1 day'$$;
CREATE PROCEDURE pg_temp.fail_once(function_name text) LANGUAGE plpgsql AS $$
DECLARE
	task bigint;
	met boolean;
BEGIN
	PERFORM jobqueue.register_handler('p', 'p_work(jsonb)', run_as => 'p_role', backoff => 'fixed',
		first_delay => '7 hours', max_delay => '1 day', jitter => 0,
		backoff_function => (function_name || '(integer, text)')::regprocedure);
	PERFORM setval('p_asked', 1, false);
	task := jobqueue.enqueue('p');
	COMMIT;
	CALL pg_temp.wait_until(format('pg_temp.settled(%s)', task), met);
	RAISE WARNING '%: waits %, attempts %, failures %, asked %, traces %', function_name, pg_temp.wait_of(task),
		(SELECT attempts FROM jobqueue.tasks WHERE id = task),
		(SELECT jsonb_array_length(failures) FROM jobqueue.tasks WHERE id = task),
		(SELECT is_called::int * last_value FROM p_asked), (SELECT count(*) FROM p_traces) +
			(SELECT count(*) FROM jobqueue.tasks WHERE type = 'p-trace');
	PERFORM jobqueue.cancel(task);
	COMMIT;
END $$;
CALL pg_temp.fail_once('p_backoff');
CALL pg_temp.fail_once('p_backoff_null');
CALL pg_temp.fail_once('p_backoff_raises');
CALL pg_temp.fail_once('p_backoff_endless');
CALL pg_temp.fail_once('p_backoff_slow');
-- the attempt counts
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', run_as => 'p_role',
	backoff_function => 'p_backoff(integer, text)');
SELECT jobqueue.enqueue('p') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT jobqueue.retry(:id);
CALL pg_temp.wait_until(format('pg_temp.settled(%s) AND pg_temp.wait_of(%1$s) > ''6 hours''', :id));
SELECT pg_temp.wait_of(:id);
SELECT jobqueue.cancel(:id);
-- negative: at once; the function is not called after the last attempt
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', run_as => 'p_role',
	backoff_function => 'p_backoff_negative(integer, text)', max_attempts => 3);
SELECT setval('p_asked', 1, false);
SELECT jobqueue.enqueue('p') AS id \gset
SELECT status, attempts, last_error FROM jobqueue.wait_for(:id, '60 s');
SELECT last_value FROM p_asked;
-- nor for an error that is not tried again
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', run_as => 'p_role',
	backoff_function => 'p_backoff_negative(integer, text)', discard_sqlstates => '{P0001}');
SELECT jobqueue.enqueue('p') AS id \gset
SELECT status, attempts, last_error FROM jobqueue.wait_for(:id, '60 s');
-- gone: the other settings
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', run_as => 'p_role', backoff => 'fixed', first_delay => '7 hours',
	max_delay => '1 day', jitter => 0, backoff_function => 'p_backoff_negative(integer, text)');
DROP FUNCTION p_backoff_negative;
SELECT jobqueue.enqueue('p') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT pg_temp.wait_of(:id), last_error FROM jobqueue.tasks WHERE id = :id;
-- the right is revoked from the role: the same
SELECT jobqueue.alter_handler('p', backoff_function => 'p_backoff(integer, text)');
REVOKE EXECUTE ON FUNCTION p_backoff FROM PUBLIC;
SELECT jobqueue.enqueue('p') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT pg_temp.wait_of(:id), last_error FROM jobqueue.tasks WHERE id = :id;
-- what is none
CREATE FUNCTION p_not_a_backoff(attempt integer) RETURNS interval LANGUAGE sql AS $$SELECT interval '1 s'$$;
CREATE FUNCTION p_not_a_backoff(attempt bigint, error text) RETURNS interval LANGUAGE sql AS $$SELECT interval '1 s'$$;
CREATE FUNCTION p_not_a_backoff(attempt integer, error text) RETURNS text LANGUAGE sql AS $$SELECT '1 s'$$;
CREATE FUNCTION p_not_a_backoff(attempt integer, error text, more text) RETURNS interval LANGUAGE sql
	AS $$SELECT interval '1 s'$$;
CREATE FUNCTION p_backoffs(attempt integer, error text) RETURNS SETOF interval LANGUAGE sql
	AS $$SELECT interval '1 s'$$;
CREATE PROCEDURE p_backoff_procedure(attempt integer, error text) LANGUAGE sql AS '';
SELECT f, pg_temp.try(format('SELECT jobqueue.register_handler(%L, %L, backoff_function => %L)', 'p-refused',
	'p_work(jsonb)', f))
FROM unnest(ARRAY['p_not_a_backoff(integer)', 'p_not_a_backoff(bigint, text)', 'p_not_a_backoff(integer, text)',
'p_not_a_backoff(integer, text, text)',
	'p_backoffs(integer, text)', 'p_backoff_procedure(integer, text)', 'p_no_such_function(integer, text)', '0',
		'p_work(jsonb)']) f;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('p-refused', 'p_work(jsonb)', run_as => 'p_role',
	backoff_function => 'p_backoff(integer, text)')$$);
DELETE FROM jobqueue.tasks;

-- errors that are not tried again, by SQLSTATE and by class
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', first_delay => '1 hour', jitter => 0,
	discard_sqlstates => '{22012,P0,XY123}');
SELECT array_agg(jobqueue.enqueue('p', jsonb_build_object('sqlstate', c)) ORDER BY n) AS ids
	FROM unnest('{22012,22023,P0001,P0999,XY123,XY12P,40P01}'::text[]) WITH ORDINALITY u(c, n) \gset
CALL pg_temp.wait_until($$(SELECT bool_and(pg_temp.settled(id)) FROM jobqueue.tasks)$$);
SELECT last_sqlstate, status, attempts, max_attempts, pg_temp.leaf(id) FROM jobqueue.tasks ORDER BY id;
DELETE FROM jobqueue.tasks;
-- an outside worker's word counts as much
BEGIN;
SELECT jobqueue.enqueue('p', queue => 'p-out') FROM generate_series(1, 3) \g /dev/null
SELECT jobqueue.fail(id, attempts, 'x', sqlstate => '22012') FROM jobqueue.claim('p-out', types => '{p}');
SELECT jobqueue.fail(id, attempts, 'x', sqlstate => '22023') FROM jobqueue.claim('p-out', types => '{p}');
-- without one: P0001, as of RAISE
SELECT jobqueue.fail(id, attempts, 'x') FROM jobqueue.claim('p-out', types => '{p}');
ROLLBACK;

-- max_attempts: the handler's, unless the task says itself
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', first_delay => '0', jitter => 0, max_attempts => 3);
SELECT jobqueue.enqueue('p') AS a, jobqueue.enqueue('p', max_attempts => 2) AS b,
	jobqueue.enqueue('p', max_attempts => 5) AS c \gset
SELECT w.status, w.attempts, w.max_attempts, jsonb_array_length(w.failures) FROM unnest(ARRAY[:a, :b, :c])
	WITH ORDINALITY t(id, n), LATERAL jobqueue.wait_for(id, '60 s') w ORDER BY n;
-- what a task began with, it keeps
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', first_delay => '1 hour', max_delay => '1 hour', jitter => 0,
	max_attempts => 2);
SELECT jobqueue.enqueue('p') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT jobqueue.alter_handler('p', max_attempts => 10);
SELECT jobqueue.retry(:id);
SELECT status, attempts, max_attempts FROM jobqueue.wait_for(:id, '60 s');
-- failed, retried by a person: one more attempt
SELECT jobqueue.retry(:id);
CALL pg_temp.wait_until(format('(SELECT status = ''failed'' AND attempts = 3 FROM jobqueue.tasks WHERE id = %s)', :id));
SELECT status, attempts, max_attempts, jsonb_array_length(failures) FROM jobqueue.tasks WHERE id = :id;
DELETE FROM jobqueue.tasks;

-- alter_handler: what is left out stays
CREATE TEMPORARY VIEW handler AS SELECT handler, queue, run_as = current_user AS mine, max_attempts, backoff,
	backoff_function, first_delay, max_delay, jitter, timeout, discard_sqlstates, dead_letter_queue, batch_size
	FROM jobqueue.handlers WHERE type = 'p';
GRANT EXECUTE ON FUNCTION p_backoff TO PUBLIC;
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', queue => 'p-queue', max_attempts => 7, backoff => 'linear',
	backoff_function => 'p_backoff(integer, text)', first_delay => '1 min',
	max_delay => '1 mon', jitter => 0.5, timeout => '1 hour', discard_sqlstates => '{22,23505}',
		dead_letter_queue => 'p-dead');
SELECT * FROM handler;
SELECT jobqueue.alter_handler('p');
SELECT * FROM handler;
CREATE FUNCTION p_other(task jobqueue.tasks) RETURNS void LANGUAGE sql AS '';
SELECT jobqueue.alter_handler('p', handler => 'p_other(jobqueue.tasks)');
SELECT jobqueue.alter_handler('p', queue => 'p-other');
SELECT jobqueue.alter_handler('p', max_attempts => 8);
SELECT jobqueue.alter_handler('p', first_delay => '2 min');
SELECT jobqueue.alter_handler('p', max_delay => '2 mon');
SELECT jobqueue.alter_handler('p', jitter => 0);
SELECT jobqueue.alter_handler('p', timeout => '2 hours');
SELECT jobqueue.alter_handler('p', discard_sqlstates => '{40}');
SELECT jobqueue.alter_handler('p', dead_letter_queue => 'p-other-dead');
SELECT jobqueue.alter_handler('p', backoff_function => 'p_backoff_null(integer, text)');
SELECT * FROM handler;
-- a kind of back-off takes the place of the function, unless both are given
SELECT jobqueue.alter_handler('p', backoff => 'fixed');
SELECT * FROM handler;
SELECT jobqueue.alter_handler('p', backoff => 'exponential', backoff_function => 'p_backoff(integer, text)');
SELECT * FROM handler;
-- nothing instead of something
SELECT jobqueue.alter_handler('p', timeout => '0', discard_sqlstates => '{}', dead_letter_queue => '');
SELECT * FROM handler;
-- register_handler: what is left out is the default again; 0, {} and '' mean none, too
SELECT jobqueue.register_handler('p', 'p_work(jsonb)');
SELECT * FROM handler;
SELECT jobqueue.register_handler('p', 'p_work(jsonb)', timeout => '0', discard_sqlstates => '{}',
	dead_letter_queue => '');
SELECT * FROM handler;
-- batch_size: what is left out stays here, too; more than 1 needs a function that takes an array, at every step
CREATE FUNCTION p_batch(payloads jsonb[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION p_batch(tasks jobqueue.tasks[]) RETURNS jsonb[] LANGUAGE sql AS 'SELECT NULL::jsonb[]';
SELECT jobqueue.alter_handler('p', batch_size => 2);
SELECT jobqueue.alter_handler('p', handler => 'p_batch(jsonb[])');
SELECT jobqueue.alter_handler('p', batch_size => 2);
SELECT jobqueue.alter_handler('p', handler => 'p_batch(jobqueue.tasks[])');
SELECT jobqueue.alter_handler('p', max_attempts => 3);
SELECT handler, max_attempts, batch_size FROM handler;
SELECT jobqueue.alter_handler('p', handler => 'p_work(jsonb)');
SELECT jobqueue.alter_handler('p', handler => 'p_work(jsonb)', batch_size => 2);
SELECT handler, max_attempts, batch_size FROM handler;
SELECT jobqueue.alter_handler('p', handler => 'p_work(jsonb)', batch_size => 1);
SELECT handler, max_attempts, batch_size FROM handler;
SELECT jobqueue.alter_handler('p', handler => 'p_batch(jsonb[])', batch_size => 1000);
-- the function is gone
DROP FUNCTION p_batch(jsonb[]);
SELECT jobqueue.alter_handler('p', max_attempts => 4);
SELECT jobqueue.alter_handler('p', batch_size => 3);
SELECT jobqueue.alter_handler('p', batch_size => 1);
SELECT handler, max_attempts, batch_size FROM handler;
SELECT jobqueue.register_handler('p', 'p_work(jsonb)');
SELECT created_at < updated_at FROM jobqueue.handlers WHERE type = 'p';
-- of another role
SELECT jobqueue.alter_handler('p', run_as => 'p_role');
SELECT run_as FROM jobqueue.handlers WHERE type = 'p';
SELECT jobqueue.alter_handler('p', queue => 'p-queue');
SELECT run_as, queue FROM jobqueue.handlers WHERE type = 'p';
-- rolled back
BEGIN;
SELECT jobqueue.alter_handler('p', queue => 'p-rolled-back');
ROLLBACK;
SELECT queue FROM jobqueue.handlers WHERE type = 'p';

-- what is refused, and whose it is
REVOKE EXECUTE ON FUNCTION p_backoff FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION p_other FROM PUBLIC;
CREATE ROLE p_manager;
SELECT jobqueue.grant_access('p_manager', 'manager');
SELECT jobqueue.register_handler('p-super', 'p_work(jsonb)');
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$alter_handler(NULL)$$),
	($$alter_handler('')$$),
	($$alter_handler('p-unknown')$$),
	($$alter_handler('P', max_attempts => 1)$$),
	($$alter_handler('p', handler => 'p_backoff(integer, text)')$$),
	($$alter_handler('p', handler => 'p_other(jobqueue.tasks)')$$),
	($$alter_handler('p', backoff_function => 'p_backoff(integer, text)')$$),
	($$alter_handler('p', run_as => 'p_no_such_role')$$),
	($$alter_handler('p', queue => '')$$),
	($$alter_handler('p', queue => repeat('q', 64))$$),
	($$alter_handler('p', max_attempts => 0)$$),
	($$alter_handler('p', backoff => '')$$),
	($$alter_handler('p', backoff => 'Fixed')$$),
	($$alter_handler('p', first_delay => '-1 s')$$),
	($$alter_handler('p', max_delay => '-1 s')$$),
	($$alter_handler('p', timeout => '-1 s')$$),
	($$alter_handler('p', jitter => -0.1)$$),
	($$alter_handler('p', jitter => 1.01)$$),
	($$alter_handler('p', jitter => 'NaN')$$),
	($$alter_handler('p', discard_sqlstates => '{NULL}')$$),
	($$alter_handler('p', discard_sqlstates => '{""}')$$),
	($$alter_handler('p', discard_sqlstates => '{P0001,2}')$$),
	($$alter_handler('p', discard_sqlstates => '{p0001}')$$),
	($$alter_handler('p', discard_sqlstates => '{P00}')$$),
	($$alter_handler('p', discard_sqlstates => '{"P0001 "}')$$),
	($$alter_handler('p', dead_letter_queue => repeat('q', 64))$$),
	($$alter_handler('p', batch_size => 0)$$),
	($$alter_handler('p', batch_size => -1)$$),
	($$alter_handler('p', batch_size => 1001)$$),
	($$alter_handler('p-unknown', batch_size => 2)$$)
) v(command);
SET ROLE p_manager;
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$alter_handler('p', max_attempts => 1)$$),
	($$alter_handler('p-super', max_attempts => 1)$$),
	($$alter_handler('p-unknown', max_attempts => 1)$$),
	($$register_handler('p', 'p_work(jsonb)')$$)
) v(command);
RESET ROLE;
-- a member of the handler's role may; but not give it to a role that it is not a member of
GRANT p_role TO p_manager;
SET ROLE p_manager;
SELECT jobqueue.alter_handler('p', max_attempts => 11);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('p', run_as => 'postgres')$$);
SELECT jobqueue.alter_handler('p', run_as => 'p_manager');
RESET ROLE;
SELECT type, run_as = 'postgres', max_attempts FROM jobqueue.handlers ORDER BY type;
-- a role that takes it over must be able to run all of it
SELECT jobqueue.register_handler('p', 'p_other(jobqueue.tasks)', backoff_function => 'p_backoff(integer, text)');
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('p', run_as => 'p_role')$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('p', run_as => 'p_role', handler => 'p_work(jsonb)')$$);
SELECT jobqueue.alter_handler('p', run_as => 'p_role', handler => 'p_work(jsonb)', backoff => 'fixed');
SELECT handler, run_as, backoff, backoff_function FROM jobqueue.handlers WHERE type = 'p';

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
SELECT jobqueue.revoke_access('p_role', 'producer'), jobqueue.revoke_access('p_manager', 'manager');
DROP VIEW handler;
DROP FUNCTION p_work, p_batch, p_other, p_backoff, p_backoff_null, p_backoff_raises, p_backoff_endless, p_backoff_slow,
	p_not_a_backoff(integer), p_not_a_backoff(bigint, text),
	p_not_a_backoff(integer, text), p_not_a_backoff(integer, text, text), p_backoffs;
DROP PROCEDURE p_backoff_procedure;
DROP TABLE p_state, p_traces;
DROP SEQUENCE p_asked;
DROP ROLE p_role, p_manager;
DELETE FROM jobqueue.tasks;
