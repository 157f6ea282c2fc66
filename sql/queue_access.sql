-- grant_access to named queues: functions, plain SQL and views obey the same rules
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE ROLE q_a_producer LOGIN;
CREATE ROLE q_a_consumer LOGIN;
CREATE ROLE q_a_manager LOGIN;
CREATE ROLE q_by_hand LOGIN;
SELECT jobqueue.grant_access('q_a_producer', 'producer', 'a'), jobqueue.grant_access('q_a_consumer', 'consumer', 'a'),
	jobqueue.grant_access('q_a_manager', 'manager', 'a');
GRANT USAGE ON SCHEMA jobqueue TO q_by_hand;
GRANT SELECT, INSERT, UPDATE, DELETE ON jobqueue.tasks TO q_by_hand;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA jobqueue TO q_by_hand;
GRANT USAGE ON SEQUENCE jobqueue.tasks_id_seq TO q_by_hand;
SELECT role, access, queue, source FROM jobqueue.access_status WHERE role LIKE 'q\_%' ORDER BY role, access;

-- a task in each queue, waiting and claimed
SELECT jobqueue.enqueue('q-t', '{"in": "a"}', queue => 'a') AS a, jobqueue.enqueue('q-t', '{"in": "b"}', queue => 'b')
	AS b,
	jobqueue.enqueue('q-t', '{"in": "a"}', queue => 'a', priority => -1) AS a1,
		jobqueue.enqueue('q-t', '{"in": "b"}', queue => 'b', priority => -1) AS b1 \gset
SELECT queue FROM jobqueue.claim('a') UNION ALL SELECT queue FROM jobqueue.claim('b');

-- each statement as each role: "ok" or the SQLSTATE, and what it returned. Undone at once.
CREATE FUNCTION pg_temp.as_role(role name, command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	outcome text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE command INTO outcome;
	RAISE EXCEPTION 'undo' USING ERRCODE = 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN coalesce(nullif(outcome, ''), 'ok');
	WHEN OTHERS THEN RETURN sqlstate;
END $$;
CREATE TEMPORARY TABLE commands (n serial, command text);
INSERT INTO commands (command) VALUES
	($$SELECT jobqueue.enqueue('q-t', queue => 'a') > 0$$),
	($$SELECT jobqueue.enqueue('q-t', queue => 'b') > 0$$),
	($$SELECT jobqueue.enqueue('q-t') > 0$$),
	($$SELECT count(*) FROM jobqueue.enqueue_many('q-t', '{1,2}', queue => 'a')$$),
	($$SELECT count(*) FROM jobqueue.enqueue_many('q-t', '{1,2}', queue => 'b')$$),
	($$INSERT INTO jobqueue.tasks (type, queue) VALUES ('q-t', 'a') RETURNING id > 0$$),
	($$INSERT INTO jobqueue.tasks (type, queue) VALUES ('q-t', 'b') RETURNING id > 0$$),
	($$INSERT INTO jobqueue.tasks (type) VALUES ('q-t') RETURNING id > 0$$),
	-- reading
	($$SELECT count(*) || coalesce(min(queue), '-') || coalesce(max(queue), '-') FROM jobqueue.tasks$$),
	($$SELECT string_agg(queue, '' ORDER BY queue) FROM jobqueue.queue_status$$),
	($$SELECT string_agg(queue, '' ORDER BY queue) FROM jobqueue.running_tasks$$),
	($$SELECT status FROM jobqueue.wait_for(A, '0 s')$$),
	($$SELECT status FROM jobqueue.wait_for(B, '0 s')$$),
	-- claiming and finishing
	($$SELECT queue FROM jobqueue.claim('a')$$),
	($$SELECT queue FROM jobqueue.claim('b')$$),
	($$SELECT string_agg(queue, '') FROM jobqueue.claim(NULL, 10)$$),
	($$SELECT string_agg(queue, '') FROM jobqueue.claim(NULL, 10, types => '{q-t}')$$),
	($$SELECT jobqueue.complete(A1, 1)$$),
	($$SELECT jobqueue.complete(B1, 1)$$),
	($$SELECT count(*) FROM jobqueue.complete_many('{A1}', '{1}')$$),
	($$SELECT count(*) FROM jobqueue.complete_many('{A1,B1}', '{1,1}')$$),
	($$SELECT count(*) FROM jobqueue.complete_and_claim('{B1}', '{1}', queue => 'a')$$),
	($$SELECT count(*) FROM jobqueue.complete_and_claim('{A1}', '{1}', queue => 'b')$$),
	($$SELECT jobqueue.fail(A1, 1, 'x')$$),
	($$SELECT jobqueue.fail(B1, 1, 'x')$$),
	($$SELECT jobqueue.extend_lease(A1, 1)$$),
	($$SELECT jobqueue.extend_lease(B1, 1)$$),
	($$SELECT jobqueue.release(B1, 1)$$),
	($$SELECT jobqueue.snooze(B1, 1, '1 s')$$),
	($$SELECT jobqueue.discard(B1, 1, 'x')$$),
	($$SELECT jobqueue.set_progress(A1, 1, 0.5)$$),
	($$SELECT jobqueue.set_progress(B1, 1, 0.5)$$),
	($$UPDATE jobqueue.tasks SET status = 'processing' WHERE id = (SELECT id FROM jobqueue.tasks WHERE status =
		'pending' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING queue$$),
	($$WITH u AS (UPDATE jobqueue.tasks SET status = 'pending' WHERE id IN (A1, B1) RETURNING queue)
		SELECT string_agg(queue, '' ORDER BY queue) FROM u$$),
	-- managing
	($$SELECT jobqueue.cancel(A)$$),
	($$SELECT jobqueue.cancel(B)$$),
	($$SELECT jobqueue.cancel(-1)$$),
	($$SELECT jobqueue.retry(A)$$),
	($$SELECT jobqueue.retry(B)$$),
	($$SELECT jobqueue.cancel_tasks('a')$$),
	($$SELECT jobqueue.cancel_tasks('b')$$),
	($$SELECT jobqueue.cancel_tasks(type => 'q-t')$$),
	($$SELECT jobqueue.retry_failed('b')$$),
	($$SELECT jobqueue.delete_tasks('a')$$),
	($$SELECT jobqueue.delete_tasks(status => 'pending')$$),
	($$SELECT jobqueue.purge_queue('a')$$),
	($$SELECT jobqueue.purge_queue('b')$$),
	($$SELECT jobqueue.pause_queue('a')$$),
	($$SELECT jobqueue.pause_queue('b')$$),
	($$SELECT jobqueue.pause_queue(NULL)$$),
	($$SELECT jobqueue.resume_queue(NULL)$$),
	($$SELECT count(*) FROM jobqueue.drain('a')$$),
	($$SELECT count(*) FROM jobqueue.drain('b')$$),
	($$SELECT count(*) FROM jobqueue.drain()$$),
	($$DELETE FROM jobqueue.tasks RETURNING 1$$);
-- producer, consumer and manager of a; rights by hand
SELECT format('%-10s%-10s%-10s%-10s%s', pg_temp.as_role('q_a_producer', real), pg_temp.as_role('q_a_consumer', real),
	pg_temp.as_role('q_a_manager', real), pg_temp.as_role('q_by_hand', real), command)
FROM commands, replace(replace(replace(replace(command, 'A1', :'a1'), 'B1', :'b1'), '(A', '(' || :'a'), '(B',
'(' || :'b') real ORDER BY n;

-- a producer sees what it has added, wherever it is now
SET ROLE q_a_producer;
SELECT jobqueue.enqueue('q-own', '{"mine": true}', queue => 'a') AS own \gset
SELECT type, payload, status, created_by FROM jobqueue.tasks;
SELECT status FROM jobqueue.wait_for(:own, '0 s');
RESET ROLE;
SELECT jobqueue.cancel(:own);
SET ROLE q_a_producer;
SELECT type, status FROM jobqueue.tasks;
-- and forges nothing, whatever is GRANTed
RESET ROLE;
GRANT INSERT ON jobqueue.tasks TO q_a_producer;
SET ROLE q_a_producer;
SELECT c,
	pg_temp.try(format('INSERT INTO jobqueue.tasks (type, queue, %s) VALUES (''q-forged'', ''a'', %s) RETURNING 1', c,
		v)) FROM (VALUES ('created_by', '''postgres'''), ('status', '''completed'''),
	('status', '''processing'''), ('attempts', '3'), ('crashes', '1'), ('slot', '-1'), ('processed_at', 'now()'),
		('finished_at', 'now()'), ('lease_expires_at', '''infinity'''), ('claimed_by', '''me'''),
	('last_error', '''x'''), ('last_sqlstate', '''x'''), ('result', '''1'''), ('failures', '''[]'''),
		('origin_queue', '''b'''), ('progress', '1'), ('progress_message', '''x''')) f(c, v);
RESET ROLE;
REVOKE INSERT ON jobqueue.tasks FROM q_a_producer;
GRANT INSERT (type, payload, queue, priority, run_at, max_attempts, timeout, metadata) ON jobqueue.tasks
	TO q_a_producer;
-- the rules come with the plan, and the plan goes when they do
SET ROLE q_a_consumer;
PREPARE visible AS SELECT string_agg(DISTINCT queue, '' ORDER BY queue) FROM jobqueue.tasks;
EXECUTE visible;
RESET ROLE;
SELECT jobqueue.grant_access('q_a_consumer', 'consumer', 'b');
SET ROLE q_a_consumer;
EXECUTE visible;
RESET ROLE;
EXECUTE visible;
SELECT jobqueue.revoke_access('q_a_consumer', 'consumer', 'b');
SET ROLE q_a_consumer;
EXECUTE visible;
RESET ROLE;
DEALLOCATE visible;
-- a view of a tenant's shows its readers nothing more
GRANT CREATE ON SCHEMA public TO q_a_consumer;
CREATE ROLE q_reader;
SET ROLE q_a_consumer;
CREATE VIEW q_view AS SELECT * FROM jobqueue.tasks;
GRANT SELECT ON q_view TO q_reader;
SELECT DISTINCT queue FROM q_view;
RESET ROLE;
SET ROLE q_reader;
SELECT count(*) FROM q_view;
RESET ROLE;
DROP VIEW q_view;

-- a manager of one queue registers handlers of its own, and they see that queue only
CREATE FUNCTION q_handler(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT payload';
CREATE ROLE q_target LOGIN;
GRANT q_target TO q_a_manager;
SET ROLE q_a_manager;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('q-t', 'q_handler(jsonb)')$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('q-t', 'q_handler(jsonb)', 'b')$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('q-t', 'q_handler(jsonb)', 'a', dead_letter_queue => 'b')$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('q-t', 'q_handler(jsonb)', 'a', run_as => 'q_target')$$);
SELECT jobqueue.register_handler('q-t', 'q_handler(jsonb)', 'a');
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('q-t', queue => 'b')$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('q-t', run_as => 'q_target')$$);
SELECT type, queue, governed FROM jobqueue.handlers;
-- it has no say in others' queues: where their tasks go, who takes them, how often they are tried, where they end
SELECT jobqueue.alter_handler('q-t', max_attempts => 1);
RESET ROLE;
SELECT jobqueue.enqueue('q-t') AS elsewhere \gset
SELECT queue FROM jobqueue.tasks WHERE id = :elsewhere;
SELECT id = :elsewhere, max_attempts FROM jobqueue.claim();
SELECT jobqueue.fail(:elsewhere, 1, 'x');
SELECT jobqueue.cancel(:elsewhere);
SET ROLE q_a_producer;
SELECT jobqueue.enqueue('q-t') AS own \gset
SELECT queue, status FROM jobqueue.wait_for(:own, '10 s');
RESET ROLE;
SELECT count(*) FROM jobqueue.claim('a');
REVOKE q_target FROM q_a_manager;
SELECT status, result FROM jobqueue.wait_for(:a, '10 s');
-- the other waits, also when everything in its own queue has been done
SELECT jobqueue.enqueue('q-t', queue => 'b', priority => -5) AS b2, jobqueue.enqueue('q-t', queue => 'a', priority => 5)
	AS a2 \gset
SELECT status FROM jobqueue.wait_for(:a2, '10 s');
SELECT id = :b, status FROM jobqueue.tasks WHERE id IN (:b, :b2) ORDER BY id;
-- until it is given that queue
SELECT jobqueue.grant_access('q_a_manager', 'consumer', 'b');
SELECT status FROM jobqueue.wait_for(:b, '10 s');
SELECT status FROM jobqueue.wait_for(:b2, '10 s');
SELECT jobqueue.revoke_access('q_a_manager', 'consumer', 'b');
SELECT jobqueue.enqueue('q-t', queue => 'b') AS b, jobqueue.enqueue('q-t', queue => 'a') AS a \gset
SELECT status FROM jobqueue.wait_for(:a, '10 s');
SELECT status FROM jobqueue.tasks WHERE id = :b;
-- and nothing once it has lost its access
SELECT jobqueue.revoke_access('q_a_manager', 'manager');
SELECT jobqueue.enqueue('q-t', queue => 'a') AS a \gset
SELECT status FROM jobqueue.wait_for(:a, '0.3 s');
-- it does not affect tasks there either: who takes them, how many at once, how often they are tried
SELECT jobqueue.alter_handler('q-t', max_running => 1, dead_letter_queue => 'q-dead');
SELECT count(jobqueue.enqueue('q-t', queue => 'a')) FROM generate_series(1, 3);
SELECT unhandled_types FROM jobqueue.queue_status WHERE queue = 'a';
SELECT count(*), min(max_attempts), max(max_attempts) FROM jobqueue.claim('a', 4);
SELECT DISTINCT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.tasks WHERE type = 'q-t'
	AND queue = 'a' AND status = 'processing';
SELECT jobqueue.unregister_handler('q-t');

-- dead letters go where the role of the handler may have them by now: without that right, the handler has none
SELECT jobqueue.grant_access('q_a_manager', 'manager', 'a'), jobqueue.grant_access('q_a_manager', 'manager', 'd');
CREATE FUNCTION q_fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'no luck'; END$$;
SET ROLE q_a_manager;
SELECT jobqueue.register_handler('q-d', 'q_fails(jsonb)', 'a', max_attempts => 1, dead_letter_queue => 'd');
RESET ROLE;
SELECT jobqueue.enqueue('q-d', queue => 'a') AS id \gset
CALL pg_temp.wait_until(format('(SELECT status = ''pending'' AND queue = ''d'' FROM jobqueue.tasks WHERE id = %s)',
	:id));
SELECT pg_temp.try($$SELECT jobqueue.register_handler('q-e', 'q_handler(jsonb)', 'd')$$);
SELECT jobqueue.revoke_access('q_a_manager', 'manager', 'd');
SELECT jobqueue.enqueue('q-d', queue => 'a') AS id \gset
SELECT status, queue FROM jobqueue.wait_for(:id, '10 s');
-- and others use that queue as any other
SELECT jobqueue.enqueue('q-x', queue => 'd') > 0;
SELECT type FROM jobqueue.claim(NULL, types => '{q-x}');
SELECT pg_temp.try($$SELECT jobqueue.register_handler('q-e', 'q_handler(jsonb)', 'd')$$);
SELECT jobqueue.enqueue('q-e') AS id \gset
SELECT status, queue FROM jobqueue.wait_for(:id, '10 s');
SELECT jobqueue.unregister_handler('q-e');
-- until it may again, here as a member of a role that may
GRANT q_target TO q_a_manager;
SELECT jobqueue.grant_access('q_target', 'manager', 'd');
SELECT jobqueue.enqueue('q-d', queue => 'a') AS id \gset
CALL pg_temp.wait_until(format('(SELECT status = ''pending'' AND queue = ''d'' FROM jobqueue.tasks WHERE id = %s)',
	:id));
SELECT jobqueue.unregister_handler('q-d'), jobqueue.revoke_access('q_target', 'manager'),
	jobqueue.revoke_access('q_a_manager', 'manager');
REVOKE q_target FROM q_a_manager;
DROP FUNCTION q_fails;

-- a member of several roles may do what any of them may: nobody loses anything by being made one
GRANT q_a_consumer TO q_by_hand, q_reader;
SELECT pg_temp.as_role('q_by_hand', $$SELECT string_agg(DISTINCT queue, '' ORDER BY queue) FROM jobqueue.tasks
	WHERE queue IN ('a', 'b')$$), pg_temp.as_role('q_reader',
	'SELECT string_agg(DISTINCT queue, '''' ORDER BY queue) FROM jobqueue.tasks'),
	pg_temp.as_role('q_by_hand', $$SELECT queue FROM jobqueue.claim('b')$$),
		pg_temp.as_role('q_reader', $$SELECT queue FROM jobqueue.claim('b')$$);
REVOKE q_a_consumer FROM q_by_hand, q_reader;

-- a name does not carry access on: renamed, or made again, a role has none until it is granted
ALTER ROLE q_a_consumer RENAME TO q_renamed;
SELECT pg_temp.as_role('q_renamed', $$SELECT queue FROM jobqueue.claim('a')$$),
	pg_temp.as_role('q_renamed', 'SELECT count(*) FROM jobqueue.tasks');
DROP OWNED BY q_renamed;
CREATE ROLE q_a_consumer LOGIN;
SELECT role FROM jobqueue.access_status WHERE role = 'q_a_consumer';
SELECT jobqueue.grant_access('q_a_consumer', 'producer', 'b');
SELECT role, access, queue FROM jobqueue.access_status WHERE role = 'q_a_consumer';
SELECT pg_temp.as_role('q_a_consumer', 'SELECT count(*) FROM jobqueue.tasks');
-- what is not there cannot be revoked by halves
SELECT jobqueue.grant_access('q_a_consumer', 'consumer');
SELECT pg_temp.try($$SELECT jobqueue.revoke_access('q_a_consumer', 'consumer', 'a')$$);
SELECT pg_temp.try($$SELECT jobqueue.grant_access('q_a_consumer', 'consumer', '')$$),
	pg_temp.try($$SELECT jobqueue.grant_access('q_a_consumer', 'consumer', repeat('x', 64))$$);

-- the handlers of a manager of all queues are like anybody's, until it is one of some
CREATE ROLE q_all LOGIN;
SELECT jobqueue.grant_access('q_all', 'manager');
SET ROLE q_all;
SELECT jobqueue.register_handler('q-mail', 'q_handler(jsonb)', 'q-mail', max_attempts => 7);
RESET ROLE;
SELECT jobqueue.enqueue('q-mail') AS mail, jobqueue.enqueue('q-mail', queue => 'q-else') AS other \gset
SELECT queue, status, max_attempts FROM jobqueue.wait_for(:mail, '10 s');
SELECT queue, status, max_attempts FROM jobqueue.wait_for(:other, '10 s');
SELECT count(*) FROM jobqueue.claim('q-else');
SELECT jobqueue.revoke_access('q_all', 'manager'), jobqueue.grant_access('q_all', 'manager', 'q-mail');
SELECT jobqueue.enqueue('q-mail', queue => 'q-else') AS other, jobqueue.enqueue('q-mail', queue => 'q-mail') AS mail
	\gset
SELECT queue, status FROM jobqueue.wait_for(:mail, '10 s');
SELECT queue, status FROM jobqueue.tasks WHERE id = :other;
-- given to another role by a role without limits, it serves all queues again
SELECT jobqueue.alter_handler('q-mail', run_as => 'q_by_hand');
SELECT governed FROM jobqueue.handlers WHERE type = 'q-mail';
SELECT status FROM jobqueue.wait_for(:other, '10 s');
SELECT jobqueue.unregister_handler('q-mail');
-- what was granted by hand stays what it was when a level is revoked that the role has not got
CREATE ROLE q_enqueues LOGIN;
GRANT USAGE ON SCHEMA jobqueue TO q_enqueues;
GRANT EXECUTE ON FUNCTION jobqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, interval, text,
	text, text, bigint[], text, jsonb, text) TO q_enqueues;
SELECT jobqueue.revoke_access('q_enqueues', 'consumer');
SELECT pg_temp.as_role('q_enqueues', $$SELECT jobqueue.enqueue('q-t', queue => 'b') > 0$$);

-- limits
SELECT jobqueue.limit_role('q_a_producer', max_queued => 3, max_payload => 20);
SET ROLE q_a_producer;
SELECT pg_temp.try($$SELECT jobqueue.enqueue('q-l', '{"longer than": "allowed"}', queue => 'a')$$);
SELECT pg_temp.try($$SELECT count(*) FROM jobqueue.enqueue_many('q-l', '{1,2,3,4}', queue => 'a')$$);
SELECT count(*) FROM jobqueue.enqueue_many('q-l', '{1,2}', queue => 'a');
SELECT jobqueue.enqueue('q-l', queue => 'a') > 0;
SELECT pg_temp.try($$SELECT jobqueue.enqueue('q-l', queue => 'a')$$);
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks (type, queue) VALUES ('q-l', 'a')$$);
RESET ROLE;
SELECT count(*) FROM jobqueue.claim('a', types => '{q-l}');
SET ROLE q_a_producer;
-- counted now and then
CALL pg_temp.wait_until($$pg_temp.try('SELECT jobqueue.enqueue(''q-l'', queue => ''a'')') !~ '^54000'$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue('q-l', queue => 'a')$$);
RESET ROLE;
SELECT jobqueue.limit_role('q_a_producer', max_payload => 20);
SET ROLE q_a_producer;
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks (type, queue) VALUES ('q-l', 'a') RETURNING 1$$),
	pg_temp.try($$INSERT INTO jobqueue.tasks (type, queue, payload) VALUES ('q-l', 'a', '"longer than allowed"')
		RETURNING 1$$);
RESET ROLE;
-- they go by the name
ALTER ROLE q_a_producer RENAME TO q_was_producer;
SELECT jobqueue.grant_access('q_was_producer', 'producer', 'a');
SELECT pg_temp.as_role('q_was_producer', $$SELECT jobqueue.enqueue('q-l', '"longer than allowed"', queue => 'a') > 0$$);
ALTER ROLE q_was_producer RENAME TO q_a_producer;
SELECT jobqueue.grant_access('q_a_producer', 'producer', 'a');
SELECT pg_temp.as_role('q_a_producer', $$SELECT jobqueue.enqueue('q-l', '"longer than allowed"', queue => 'a') > 0$$);
-- what on_failure adds is not held up by them
SELECT jobqueue.limit_role('q_a_producer', max_queued => 1);
BEGIN;
SELECT jobqueue.register_handler('q-f', 'q_handler(jsonb)', run_as => 'q_a_producer', on_failure => 'q-l');
SELECT jobqueue.enqueue('q-f', queue => 'a') > 0;
SELECT count(*) AS before FROM jobqueue.tasks WHERE created_by = 'q_a_producer' AND status = 'pending' \gset
SELECT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim('a', types => '{q-f}');
SELECT :before >= 1, count(*) - :before FROM jobqueue.tasks WHERE created_by = 'q_a_producer' AND status = 'pending';
ROLLBACK;
SELECT jobqueue.limit_role('q_a_producer');
SELECT count(*) FROM jobqueue.limits;
SELECT pg_temp.try($$SELECT jobqueue.limit_role(NULL)$$),
	pg_temp.try($$SELECT jobqueue.limit_role('q_no_such_role', 1)$$),
		pg_temp.try($$SELECT jobqueue.limit_role('q_a_producer', -1)$$);

REVOKE ALL ON SCHEMA public FROM q_renamed;
DROP OWNED BY q_a_producer, q_a_consumer, q_a_manager, q_by_hand, q_renamed, q_reader, q_target, q_all, q_enqueues;
DROP ROLE q_a_producer, q_a_consumer, q_a_manager, q_by_hand, q_renamed, q_reader, q_target, q_all, q_enqueues;
DROP FUNCTION q_handler;
DELETE FROM jobqueue.access;
DELETE FROM jobqueue.tasks;
