-- What should not be done and will be done: other functions in the place of registered ones, handlers that change their
-- own row, cancelled tasks that come back, queues that nobody would serve, details of errors that are not for everybody
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.settled(task_id bigint) RETURNS boolean LANGUAGE sql AS $$
	SELECT status NOT IN ('pending', 'processing') FROM jobqueue.tasks WHERE id = task_id
$$;

-- a back-off function that is replaced by one with another result is not called: the wait is that of the settings
CREATE FUNCTION s_fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no luck'; END $$;
CREATE FUNCTION s_wait(attempt integer, error text) RETURNS interval LANGUAGE sql AS $$ SELECT interval '3 hours' $$;
SELECT jobqueue.register_handler('s-wait', 's_fails(jsonb)', backoff_function => 's_wait(integer, text)',
	first_delay => '1 hour', jitter => 0);
DROP FUNCTION s_wait;
CREATE FUNCTION s_wait(attempt integer, error text) RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$;
SELECT jobqueue.enqueue('s-wait') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT status, attempts, run_at - updated_at BETWEEN interval '59 minutes' AND interval '61 minutes' FROM jobqueue.tasks
	WHERE id = :id;
BEGIN;
SELECT jobqueue.enqueue('s-wait') AS id \gset
SELECT status, last_error, run_at - updated_at BETWEEN interval '59 minutes' AND interval '61 minutes'
	FROM jobqueue.drain() WHERE id = :id;
ROLLBACK;
-- the same for a handler
CREATE FUNCTION s_once(payload jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'once' $$;
SELECT jobqueue.register_handler('s-once', 's_once(jsonb)', max_attempts => 1);
DROP FUNCTION s_once;
CREATE FUNCTION s_once(payload jsonb) RETURNS SETOF text LANGUAGE sql AS $$ VALUES ('once'), ('twice') $$;
SELECT jobqueue.enqueue('s-once') AS id \gset
SELECT status, last_sqlstate, last_error FROM jobqueue.wait_for(:id, '60 s');

-- a handler that finishes or removes its own row by hand: an error that says so, and no effects
CREATE TABLE s_effects (what text);
CREATE FUNCTION s_by_hand(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.s_effects VALUES (task.payload->>0);
	IF task.payload->>0 = 'delete' THEN
		DELETE FROM jobqueue.tasks WHERE id = task.id;
	ELSE
		UPDATE jobqueue.tasks SET status = 'completed' WHERE id = task.id;
	END IF;
END $$;
SELECT jobqueue.register_handler('s-by-hand', 's_by_hand(jobqueue.tasks)', max_attempts => 1);
SELECT jobqueue.enqueue('s-by-hand', '["update"]') AS id \gset
SELECT status, last_sqlstate, last_error FROM jobqueue.wait_for(:id, '60 s');
SELECT jobqueue.enqueue('s-by-hand', '["delete"]') AS id \gset
SELECT status, last_sqlstate, last_error FROM jobqueue.wait_for(:id, '60 s');
SELECT count(*) FROM s_effects;

-- a task that was cancelled while it ran, and is brought back to the same worker, has all the time it wants
CREATE FUNCTION s_locks(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(4711);
	PERFORM pg_sleep(0.2);
	RETURN 'done';
END $$;
SELECT jobqueue.register_handler('s-locks', 's_locks(jsonb)', max_attempts => 1);
SELECT pg_advisory_lock(4711);
SELECT jobqueue.enqueue('s-locks') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND
	NOT granted)$$);
SELECT jobqueue.cancel(:id, 'not now');
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND
	NOT granted)$$);
SELECT status, last_error FROM jobqueue.tasks WHERE id = :id;
ALTER SYSTEM SET jobqueue.timeout_grace = '1ms';
SELECT pg_reload_conf();
SELECT pg_advisory_unlock(4711);
SELECT jobqueue.retry(:id);
SELECT status, result, attempts FROM jobqueue.wait_for(:id, '60 s');
ALTER SYSTEM RESET jobqueue.timeout_grace;
SELECT pg_reload_conf();

-- a queue for dead letters is no queue for others
SELECT pg_temp.try($$SELECT jobqueue.register_handler('s-dead', 's_fails(jsonb)', dead_letter_queue => 'default')$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('s-dead', 's_fails(jsonb)', queue => 's-own',
	dead_letter_queue => 's-own')$$);
SELECT jobqueue.register_handler('s-dead', 's_fails(jsonb)', queue => 's-own', dead_letter_queue => 's-dead');
SELECT pg_temp.try($$SELECT jobqueue.register_handler('s-other', 's_fails(jsonb)', queue => 's-dead')$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('s-wait', queue => 's-dead')$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('s-wait', dead_letter_queue => 's-own')$$);

-- what a handler's error tells of its role's tables is not for a producer
CREATE ROLE s_producer;
SELECT jobqueue.grant_access('s_producer', 'producer');
CREATE TABLE s_private (secret integer CHECK (secret < 5));
CREATE FUNCTION s_tells(payload jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.s_private VALUES (123456) $$;
SELECT jobqueue.register_handler('s-tells', 's_tells(jsonb)', max_attempts => 1);
SET ROLE s_producer;
SELECT jobqueue.enqueue('s-tells') AS id \gset
SELECT status, last_error, failures FROM jobqueue.wait_for(:id, '60 s');
RESET ROLE;
SELECT f->>'detail' FROM jobqueue.tasks, jsonb_array_elements(failures) f WHERE id = :id;

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
SELECT jobqueue.revoke_access('s_producer', 'producer');
DROP FUNCTION s_fails, s_wait, s_once, s_by_hand, s_locks, s_tells;
DROP TABLE s_effects, s_private;
DROP ROLE s_producer;
DELETE FROM jobqueue.tasks;
